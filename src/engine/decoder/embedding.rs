//! From tokens to the hidden states before the first layer.

use rayon::prelude::*;

use super::Decoder;
use crate::{engine::device::Device, error::Error};

impl<D: Device> Decoder<'_, D> {
    /// Embeds the tokens from `first_row` on, in chunks.
    pub(super) fn embed(&self, first_row: usize) -> Result<D::Residual, Error> {
        let mut hidden = self.device.residual(self.layout.hidden_on_host)?;
        for (i, row) in self.chunks(first_row) {
            let rows = self.embedded(&self.tokens[self.rows_from(row)])?;
            self.device.put(&mut hidden, i, rows)?;
        }
        Ok(hidden)
    }

    /// Returns the embeddings of tokens; a row of the embedding comes to the device once. `[n_tokens, hidden_size]`
    pub(super) fn embedded(&self, tokens: &[u32]) -> Result<D::Tensor, Error> {
        let embedding = self.model.embedding()?;
        if let [id] = tokens {
            let id = *id as usize;
            return self.device.weight(&embedding.rows(id..id + 1));
        }
        let mut ids = tokens.to_vec();
        ids.sort_unstable();
        ids.dedup();
        let mut bytes = Vec::new();
        embedding.gather(ids.par_iter().map(|&id| id as usize), &mut bytes);
        let of_ids = self.device.weight(&embedding.of_rows(&bytes))?;
        let place = |id| ids.partition_point(|other| other < id);
        let rows: Vec<_> = tokens.iter().map(place).map(|at| at..at + 1).collect();
        self.device.rows(&of_ids, &rows)
    }
}
