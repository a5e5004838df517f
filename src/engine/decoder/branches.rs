//! Runs without some attention, beside the run that has all of it.
//!
//! Until its first changed query a run is the base run. So all of them go through the layers together: the
//! base once, and of each branch only the rows from there on, with the base's keys and values before them.
//! Memory stays linear in the prompt.

use std::ops::Range;

use super::{Decoder, Pass};
use crate::{
    engine::device::{Device, LayerAttention},
    error::Error,
    protocol::{Hidden, Intervention},
    trace::BlockMask,
};

/// A run from a position on: hidden states in chunks.
pub struct Branch<R> {
    /// The first token of a query block.
    pub position: usize,
    pub hidden: R,
}

impl<D: Device> Decoder<'_, D> {
    /// Returns the position from which an intervention's branch runs: the start of a query block.
    pub fn start(&self, intervention: &Intervention) -> usize {
        let first = intervention.first_query().min(self.tokens.len() - 1);
        first - first % self.config.block_size_q
    }

    /// Runs the model on given masks: the base, which is the first of the results, and a branch for each
    /// intervention.
    ///
    /// # Errors
    /// As [`Decoder::sparse`].
    pub fn branches(
        &self,
        interventions: &[Intervention],
        mut mask: impl FnMut(usize) -> Result<BlockMask, Error>,
        mut on_layer: impl FnMut(usize),
    ) -> Result<Vec<Branch<D::Residual>>, Error> {
        let angles = self.angles(self.tokens.len())?;
        let starts = [0].into_iter().chain(interventions.iter().map(|intervention| self.start(intervention)));
        let branch = |position| Ok(Branch { position, hidden: self.embed(position)? });
        let mut branches = starts.map(branch).collect::<Result<Vec<_>, Error>>()?;
        // The base runs first, then the branches from the last start to the first: the rows before a branch
        // must still be the base's.
        let mut order: Vec<usize> = (1..branches.len()).collect();
        order.sort_by_key(|&i| std::cmp::Reverse(branches[i].position));
        self.each_layer(|layer, weights| {
            let angles = self.angles_of(layer, &angles);
            let mut attention = self.device.layer(self.shape(layer, self.tokens.len()))?;
            attention.keep(mask(layer)?)?;
            let take = |attention: &mut D::Layer, branch: &mut Branch<D::Residual>, without: &Hidden| {
                let Branch { position: first_row, hidden } = branch;
                let mut pass = Pass {
                    layer,
                    weights,
                    angles,
                    attention,
                    hidden,
                    first_row: *first_row,
                    experts: Vec::new(),
                };
                self.append(&mut pass)?;
                self.advance(&mut pass, None, |q| q.attention.attend_without(q.rows, q.first, without))?;
                self.check(layer, self.device.mark(hidden)?)
            };
            take(&mut attention, &mut branches[0], &Hidden::default())?;
            for &i in &order {
                attention.resize(branches[i].position, self.tokens.len());
                take(&mut attention, &mut branches[i], &interventions[i - 1].in_layer(layer))?;
            }
            on_layer(layer);
            Ok(None)
        })?;
        Ok(branches)
    }

    /// Returns the logits that follow some rows of a branch, none of them before its position.
    /// `[n_rows][vocab_size]`
    ///
    /// # Errors
    /// [`Error::NotFinite`], [`Error::Device`].
    pub fn branch_logits(
        &self,
        branch: &Branch<D::Residual>,
        rows: Range<usize>,
    ) -> Result<Vec<Vec<f32>>, Error> {
        self.logits(&branch.hidden, branch.position, rows)
    }
}
