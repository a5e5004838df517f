//! The record of one layer's attention.

use super::BlockMask;
#[cfg(doc)]
use super::MIN_DISTANCE;

/// One layer's attention as a run records it.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerRecord {
    pub mask: BlockMask,
    /// Mean over a query block's queries of the mass on each kept block; rows as in [`BlockMask::kept`].
    pub mass: Vec<f32>,
    /// Mass that each key received. `[n_heads, n_tokens]`
    pub received: Vec<f32>,
    /// Probabilities of the focus tokens on their kept blocks' keys: the rows of all focus tokens, head by
    /// head, each as long as the keys of the head's budget.
    pub focus: Vec<f32>,
    /// Mean of ‖W_O v‖, what a key writes, over the keys of each block, weighted by what they received.
    /// `[n_heads, n_key_blocks]`
    pub written: Vec<f32>,
    /// Mean length ‖x‖ of the residual stream before the layer, over the queries of each block.
    /// `[n_query_blocks]`
    pub residual: Vec<f32>,
    /// L1 proximity of each kept block's output, mean over the query block, to the later residual stream
    /// there, as a share of the sum over all heads and the part that stays; empty if it was not asked for.
    /// Rows as in [`BlockMask::kept`].
    pub proximity: Vec<f32>,
    /// Mean attention that each sentence gets from the sentences at least [`MIN_DISTANCE`] after it; of the
    /// sentences whose score is recorded. `[n_heads, n_recorded]`
    pub vertical: Vec<f32>,
    /// Share of each head's attention to all visible keys that falls on its kept blocks: mean over sampled
    /// query blocks, with the run's own queries and keys; empty if none were sampled. `[n_heads]`
    pub recall: Vec<f32>,
    /// Mean over a query block's queries of the mass on the head's learned sink, a logit beside the keys that has
    /// no value; empty in a model without such sinks. `[n_heads, n_query_blocks]`
    pub on_sink: Vec<f32>,
    /// The experts that each token took, those with the highest scores first; empty in a layer without experts, or if
    /// they were not asked for. `[n_tokens, per_token]`
    pub experts: Vec<u16>,
}

#[cfg(feature = "engine")]
impl LayerRecord {
    /// Returns the share of each head's mass on keys that is on the kept blocks, over all queries, if masses are
    /// shares of the attention to all keys. `[n_heads]`
    pub(crate) fn share_on_kept(&self) -> Vec<f32> {
        let on_keys = |head: usize| 1.0 - self.mean_on_sink(head);
        self.mask
            .mean_mass(&self.mass)
            .into_iter()
            .enumerate()
            .map(|(head, mass)| mass / on_keys(head))
            .collect()
    }

    /// Returns the mean over all queries of the mass on a head's sink; 0 without one.
    pub(crate) fn mean_on_sink(&self, head: usize) -> f32 {
        let blocks = &self.mask.blocks;
        let n = blocks.n_query_blocks();
        let of_head = self.on_sink.iter().skip(head * n).take(n).enumerate();
        let sum: f32 = of_head.map(|(block, mass)| mass * blocks.queries(block).len() as f32).sum();
        sum / blocks.n_tokens as f32
    }
}
