//! From tokens to the hidden states before the first layer.

use std::ops::Range;

use rayon::prelude::*;

use super::Decoder;
use crate::{
    engine::{device::Device, model::weight::Weight},
    error::Error,
};

/// Rows of the embedding, each once, and which of them each token has.
struct Gathered {
    bytes: Vec<u8>,
    rows: Vec<Range<usize>>,
}

impl Gathered {
    fn new(embedding: &Weight, tokens: &[u32]) -> Self {
        let n_ids = tokens.iter().max().map_or(0, |&id| id as usize + 1);
        let (mut ends, mut ids) = (vec![0; n_ids], Vec::new());
        let mut place = |&id: &u32| {
            let end: &mut usize = &mut ends[id as usize];
            if *end == 0 {
                ids.push(id as usize);
                *end = ids.len();
            }
            *end - 1..*end
        };
        let rows = tokens.iter().map(&mut place).collect();
        let mut bytes = Vec::new();
        embedding.gather(ids.into_par_iter(), &mut bytes);
        Gathered { bytes, rows }
    }
}

impl<D: Device> Decoder<'_, D> {
    /// Embeds the tokens from `first_row` on, in chunks: one is gathered while the one before goes to the device.
    pub(super) fn embed(&self, first_row: usize) -> Result<D::Residual, Error> {
        let mut hidden = self.device.residual(self.layout.hidden_on_host)?;
        let embedding = self.model.embedding()?;
        let gathered = |row: usize| Gathered::new(&embedding, &self.tokens[self.rows_from(row)]);
        std::thread::scope(|scope| {
            let mut chunks = self.chunks(first_row).peekable();
            let mut coming = chunks.peek().map(|&(_, row)| scope.spawn(move || gathered(row)));
            while let (Some((i, _)), Some(thread)) = (chunks.next(), coming.take()) {
                let of_chunk = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
                coming = chunks.peek().map(|&(_, row)| scope.spawn(move || gathered(row)));
                self.device.put(&mut hidden, i, self.placed(&embedding, of_chunk)?)?;
            }
            Ok(hidden)
        })
    }

    /// Returns the embeddings of tokens; a row of the embedding comes to the device once. `[n_tokens, hidden_size]`
    pub(super) fn embedded(&self, tokens: &[u32]) -> Result<D::Tensor, Error> {
        let embedding = self.model.embedding()?;
        if let [id] = tokens {
            let id = *id as usize;
            return self.device.weight(&embedding.rows(id..id + 1));
        }
        self.placed(&embedding, Gathered::new(&embedding, tokens))
    }

    fn placed(&self, embedding: &Weight, gathered: Gathered) -> Result<D::Tensor, Error> {
        let of_ids = self.device.weight(&embedding.of_rows(&gathered.bytes))?;
        self.device.rows(&of_ids, &gathered.rows)
    }
}
