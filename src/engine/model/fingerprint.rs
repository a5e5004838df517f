//! A short number by which the weights of two models can be told apart.

use super::{Model, weight::Weight};

/// Bytes of each piece that is read, and pieces of a tensor.
const PIECE: usize = 256;
const PIECES: usize = 4;

impl Model {
    /// Returns a hash over a few bytes of the embedding and of the first, the middle and the last layer, as they are
    /// stored: copies of a model have the same, in one file or many; other weights, and the same in another format,
    /// have another.
    pub(super) fn fingerprint(&self) -> Option<String> {
        let mut hash = Hash(0xcbf2_9ce4_8422_2325);
        hash.read(&self.embedding().ok()?);
        let last = self.config.n_layers - 1;
        for layer in [0, last / 2, last] {
            let mut weights = self.layer(layer).ok()?;
            weights.all().for_each(|weight| hash.read(weight));
        }
        Some(format!("{:016x}", hash.0))
    }
}

/// FNV-1a, of 64 bits.
struct Hash(u64);

impl Hash {
    /// Takes pieces of a tensor, from its first to its last byte.
    fn read(&mut self, weight: &Weight) {
        let bytes = weight.bytes();
        let rest = bytes.len().saturating_sub(PIECE);
        for i in 0..PIECES {
            let start = rest / (PIECES - 1) * i;
            for byte in &bytes[start..(start + PIECE).min(bytes.len())] {
                self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
            }
        }
        weight.give_back();
    }
}
