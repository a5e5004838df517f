//! Attention sinks: keys that most heads of a layer look at from everywhere, whatever they say.

use serde::{Deserialize, Serialize};

use crate::{
    error::Error,
    trace::{Blocks, HeadTrace, Span, Trace},
};

/// The least mean attention of the queries behind a key with which a head looks at it from everywhere.
///
/// In Qwen2.5-0.5B and SmolLM2-135M the median head gives a sink 0.05 to 0.7, and any other key less than 0.05.
const LEAST: f32 = 0.05;

/// A key that most heads of a layer look at from everywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sink {
    pub layer: usize,
    pub token: usize,
    /// Heads of the layer that look at it.
    pub n_heads: usize,
}

impl Trace {
    /// Returns the sinks among some tokens, by layer.
    ///
    /// A head looks at a key from everywhere when the queries that see the key give it at least 0.05 of their
    /// attention, in the mean, and the farther half of them gives as much to its block. A key is a sink in a
    /// layer when more than half of the layer's heads do so. A key with fewer than two query blocks behind it
    /// is none: nothing looks at it from afar.
    ///
    /// # Errors
    /// [`Error::Missing`] for tokens outside the prompt, [`Error::Trace`] when the file is damaged.
    pub fn sinks(&self, tokens: impl Into<Span>) -> Result<Vec<Sink>, Error> {
        let tokens = self.checked("tokens", tokens.into())?;
        let mut sinks = Vec::new();
        for &layer in self.layers() {
            let often: Vec<usize> = self.often_looked_at(layer, tokens)?;
            let mut n_heads = vec![0; often.len()];
            for head in 0..if often.is_empty() { 0 } else { self.n_heads() } {
                let head = self.head(layer, head)?;
                n_heads.iter_mut().zip(&often).for_each(|(n, &token)| *n += usize::from(looks(&head, token)));
            }
            let sink = |(token, n_heads)| Sink { layer, token, n_heads };
            let found = often.into_iter().zip(n_heads).map(sink);
            sinks.extend(found.filter(|sink| 2 * sink.n_heads > self.n_heads()));
        }
        Ok(sinks)
    }

    /// Returns the keys that more than half of a layer's heads give enough attention to, from near or far.
    fn often_looked_at(&self, layer: usize, tokens: Span) -> Result<Vec<usize>, Error> {
        let blocks = self.blocks(layer)?;
        let mut n_heads = vec![0; tokens.len()];
        for head in 0..self.n_heads() {
            let received = self.received(layer, head, tokens)?;
            for ((n, token), mass) in n_heads.iter_mut().zip(tokens.range()).zip(received) {
                *n += usize::from(mass >= LEAST * seeing(&blocks, token).len() as f32);
            }
        }
        Ok(tokens
            .range()
            .zip(n_heads)
            .filter(|(_, n)| 2 * n > self.n_heads())
            .map(|(token, _)| token)
            .collect())
    }
}

/// Returns the queries that see a key.
fn seeing(blocks: &Blocks, key: usize) -> Span {
    let end = blocks.window.map_or(blocks.n_tokens, |window| blocks.n_tokens.min(key + window));
    Span { start: key, end }
}

/// Returns whether a head looks at a key from everywhere.
fn looks(head: &HeadTrace, key: usize) -> bool {
    let (blocks, queries) = (head.blocks, seeing(&head.blocks, key));
    let near = head.received()[key] / queries.len() as f32;
    let middle = (queries.start + queries.end) / 2;
    let far =
        (middle.div_ceil(blocks.block_size_q)..queries.end.div_ceil(blocks.block_size_q)).map(|block| {
            let on_key = head.row(block).find(|&(kept, _)| kept == key / blocks.block_size_k);
            (blocks.queries(block).len() as f32, on_key.map_or(0.0, |(_, mass)| mass))
        });
    let (n, mass) = far.fold((0.0, 0.0), |(n, sum), (len, mass)| (n + len, sum + len * mass));
    let is_far = queries.len() >= 2 * blocks.block_size_q;
    is_far && near >= LEAST && mass >= LEAST * n
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::BlockMask;

    /// A head of 8 query blocks of 4 tokens over key blocks of 4, where block `b` gives `mass(b)` to key 5.
    fn head(mass: impl Fn(usize) -> f32) -> HeadTrace {
        let blocks = Blocks { n_tokens: 32, block_size_q: 4, block_size_k: 4, window: None };
        let kept: Vec<u32> =
            (0..8).flat_map(|b| [if b > 0 { 1 } else { BlockMask::NONE }, BlockMask::NONE]).collect();
        let masses: Vec<f32> = (0..8).flat_map(|b| [mass(b), 0.0]).collect();
        let mut received = vec![0.0; 32];
        received[5] = (1..8).map(|b| 4.0 * mass(b)).sum();
        HeadTrace::new(blocks, 2, kept, masses, received)
    }

    #[test]
    fn a_head_looks_from_everywhere_when_its_far_queries_do() {
        assert!(looks(&head(|_| 0.06), 5));
        assert!(!looks(&head(|_| 0.04), 5));
        // Much from the next blocks, nothing from afar.
        assert!(!looks(&head(|b| if b < 4 { 0.9 } else { 0.0 }), 5));
        assert!(!looks(&head(|b| if b > 5 { 0.1 } else { 0.0 }), 5));
    }

    #[test]
    fn a_window_bounds_who_sees_a_key() {
        let blocks = Blocks { n_tokens: 32, block_size_q: 4, block_size_k: 4, window: Some(8) };
        assert_eq!(
            (seeing(&blocks, 5), seeing(&blocks, 30)),
            (Span { start: 5, end: 13 }, Span { start: 30, end: 32 })
        );
    }
}
