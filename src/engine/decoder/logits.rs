//! From hidden states to logits, for the rows that are asked for alone.
//!
//! The output layer comes part by part, and so do the logits: whoever needs but a few numbers of each row
//! never holds `[n_rows, vocab_size]`.

use std::{borrow::Borrow, collections::VecDeque, ops::Range, slice};

use safetensors::{Dtype, tensor::TensorView};

use super::{
    Decoder,
    resident::{AllWeights, output_parts},
};
use crate::{engine::device::Device, error::Error};

/// Rows whose logits take little memory.
const FEW: usize = 8;

impl<D: Device> Decoder<'_, D> {
    /// Returns the logits that follow the last `n` of the rows that this process takes, all of them if there are
    /// fewer, of a run's hidden states. `[n][vocab_size]`
    ///
    /// # Errors
    /// [`Error::NotFinite`], [`Error::Device`].
    pub fn last_logits(&self, hidden: &D::Residual, n: usize) -> Result<Vec<Vec<f32>>, Error> {
        let rows = self.own_rows();
        self.logits(hidden, rows.start, rows.end - n.min(rows.len())..rows.end)
    }

    /// Copies some rows, ascending, of hidden states from `first_row` on to the host. `[n_rows, hidden_size]`
    ///
    /// # Errors
    /// [`Error::Device`].
    pub fn states(&self, hidden: &D::Residual, first_row: usize, rows: &[usize]) -> Result<Vec<f32>, Error> {
        let chunk_of = |row: usize| (row - first_row) / self.layout.chunk_rows;
        let mut states = Vec::with_capacity(rows.len() * self.model.config.hidden_size);
        for rows in rows.chunk_by(|a, b| chunk_of(*a) == chunk_of(*b)) {
            let i = chunk_of(rows[0]);
            let chunk = self.device.chunk(hidden, i)?;
            for run in rows.chunk_by(|a, b| a + 1 == *b) {
                let at = run[0] - first_row - i * self.layout.chunk_rows;
                let rows = self.device.rows(&chunk, slice::from_ref(&(at..at + run.len())))?;
                states.extend(self.device.to_host(&rows)?);
            }
        }
        Ok(states)
    }

    /// Computes the logits that follow hidden states `[n_rows, hidden_size]`, part by part of the vocabulary:
    /// `on_part` gets `[n_rows, n_ids]` for the next ids.
    ///
    /// # Errors
    /// [`Error::NotFinite`], [`Error::Device`].
    pub fn logits_in_parts(&self, states: &[f32], on_part: impl FnMut(&[f32])) -> Result<(), Error> {
        if let Some(weights) = &self.resident {
            return self.each_part(states, &weights.final_norm, weights.output.iter().map(Ok), on_part);
        }
        let (norm, table) = (self.device.weight(&self.model.final_norm()?)?, self.model.output()?);
        self.each_part(states, &norm, output_parts(&table).map(|part| self.device.weight(&part)), on_part)
    }

    /// Starts to compute the logits that follow the first chunk of hidden states, part by part of the vocabulary, with
    /// weights that are on the device. `[n_rows, n_ids]`
    pub(super) fn logits_of_chunk(
        &self,
        hidden: &D::Residual,
        weights: &AllWeights<D::Tensor>,
    ) -> Result<Vec<D::Tensor>, Error> {
        let x = self.norm(&self.device.chunk(hidden, 0)?, &weights.final_norm)?;
        weights.output.iter().map(|part| self.device.linear(&x, part, None)).collect()
    }

    /// Returns the logits that follow some rows of hidden states from `first_row` on. `[n_rows][vocab_size]`
    pub(super) fn logits(
        &self,
        hidden: &D::Residual,
        first_row: usize,
        rows: Range<usize>,
    ) -> Result<Vec<Vec<f32>>, Error> {
        let rows: Vec<usize> = rows.collect();
        let row = || Vec::with_capacity(self.model.config.vocab_size);
        let mut logits: Vec<Vec<f32>> = rows.iter().map(|_| row()).collect();
        self.logits_in_parts(&self.states(hidden, first_row, &rows)?, |part| {
            let parts = part.chunks(part.len() / rows.len());
            logits.iter_mut().zip(parts).for_each(|(row, part)| row.extend_from_slice(part));
        })?;
        Ok(logits)
    }

    fn each_part<T: Borrow<D::Tensor>>(
        &self,
        states: &[f32],
        norm: &D::Tensor,
        output: impl Iterator<Item = Result<T, Error>>,
        mut on_part: impl FnMut(&[f32]),
    ) -> Result<(), Error> {
        if states.is_empty() {
            return Ok(());
        }
        let x = self.norm(&self.on_device(states)?, norm)?;
        // Of few rows the next part is under way while the host reads one.
        let n_ahead = usize::from(states.len() <= FEW * self.model.config.hidden_size);
        let mut started = VecDeque::new();
        for part in output {
            started.push_back(self.device.linear(&x, part?.borrow(), None)?);
            if started.len() > n_ahead {
                started.pop_front().map_or(Ok(()), |part| self.read_part(part, &mut on_part))?;
            }
        }
        started.into_iter().try_for_each(|part| self.read_part(part, &mut on_part))
    }

    /// Brings a part of the logits to the host, and finishes them there.
    fn read_part(&self, part: D::Tensor, on_part: &mut impl FnMut(&[f32])) -> Result<(), Error> {
        let logits = self.device.to_host(&part)?;
        on_part(&self.finished(logits)?);
        Ok(())
    }

    /// Returns logits as the model means them, of what its output layer gives.
    pub(super) fn finished(&self, mut logits: Vec<f32>) -> Result<Vec<f32>, Error> {
        if !logits.iter().fold(true, |are, l| are & l.is_finite()) {
            return Err(self.not_finite("the logits".into()));
        }
        let scale = self.model.config.logit_scale;
        if scale != 1.0 {
            logits.iter_mut().for_each(|l| *l *= scale);
        }
        // Only now: the cap would turn an infinity into a number.
        if let Some(cap) = self.model.config.logit_soft_cap {
            logits.iter_mut().for_each(|l| *l = cap * (*l / cap).tanh());
        }
        Ok(logits)
    }

    /// Brings hidden states back to the device that they came from: no number changes.
    pub(super) fn on_device(&self, states: &[f32]) -> Result<D::Tensor, Error> {
        let hidden_size = self.model.config.hidden_size;
        let bytes: Vec<u8> = states.iter().flat_map(|x| x.to_le_bytes()).collect();
        let shape = vec![states.len() / hidden_size, hidden_size];
        let view = TensorView::new(Dtype::F32, shape, &bytes).expect("whole rows of 4 bytes a number");
        self.device.tensor(&view)
    }
}
