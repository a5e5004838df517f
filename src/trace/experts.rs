//! What layers of some models leave beside attention to keys: mass on learned sinks, and the experts of each token.

use std::ops::Range;

use super::{Trace, name};
use crate::error::Error;

impl Trace {
    /// Returns the attention mass on the learned sink of each head of a layer, mean over the queries of each block:
    /// what is missing to 1 in the masses of its kept blocks. `None` in a model without such sinks. `[n_heads,
    /// n_query_blocks]`
    ///
    /// # Errors
    /// As [`Trace::head`].
    pub fn on_sink(&self, layer: usize) -> Result<Option<Vec<f32>>, Error> {
        let n = self.n_heads() * self.blocks(layer)?.n_query_blocks();
        let has_sinks = self.summary.on_sinks.is_some();
        has_sinks.then(|| self.tensors.floats(&name(layer, "on_sink"), 0..n)).transpose()
    }

    /// Returns the experts that some tokens took in a layer, those with the highest scores first; `None` in a layer
    /// without experts, or when they were not recorded. `[n_tokens][per_token]`
    ///
    /// # Errors
    /// [`Error::Missing`] for a layer or tokens out of range, [`Error::Trace`] when the file is damaged.
    pub fn experts_of(&self, layer: usize, tokens: Range<usize>) -> Result<Option<Vec<Vec<usize>>>, Error> {
        self.check_layer(layer)?;
        let Some(experts) = self.summary.experts.filter(|experts| experts.per_token > 0) else {
            return Ok(None);
        };
        if tokens.start > tokens.end || tokens.end > self.n_tokens() {
            let fix = format!("choose tokens below {}", self.n_tokens());
            return Err(Error::missing("tokens", format!("{tokens:?}"), fix));
        }
        let range = tokens.start * experts.per_token..tokens.end * experts.per_token;
        let read = self.tensors.u16s(&name(layer, "experts"), range)?;
        let of_token = |experts: &[u16]| experts.iter().map(|&expert| usize::from(expert)).collect();
        Ok(read.map(|read| read.chunks(experts.per_token).map(of_token).collect()))
    }
}
