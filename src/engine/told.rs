//! What a run tells about itself: pairs kept, budgets and recall, over all layers and heads.

use rayon::prelude::*;

use super::{device::StageCosts, search::sample::sampled};
use crate::trace::{Blocks, LayerRecord, Recall, StreamConfig};

/// What the records of all layers and heads say about the run.
#[derive(Default)]
pub(super) struct Told {
    pub kept_pairs: u64,
    pub costs: StageCosts,
    budgets: Vec<usize>,
    recalls: Vec<f32>,
    /// Mean mass on the sink of each layer and head; empty without sinks.
    on_sinks: Vec<f32>,
}

impl Told {
    /// Takes the record of a layer and what it cost.
    pub fn add(&mut self, record: &LayerRecord, costs: StageCosts) {
        self.costs += costs;
        let heads = (0..record.mask.n_heads()).into_par_iter();
        self.kept_pairs += heads.map(|head| record.mask.kept_pairs_of(head)).sum::<u64>();
        self.budgets.extend(record.mask.budgets.as_slice());
        self.recalls.extend(&record.recall);
        let n_sinks = if record.on_sink.is_empty() { 0 } else { record.mask.n_heads() };
        self.on_sinks.extend((0..n_sinks).map(|head| record.mean_on_sink(head)));
    }

    /// Returns the settings with the mean budget, where a recall decided it.
    pub fn settled(&self, config: StreamConfig) -> StreamConfig {
        let n = self.budgets.len().max(1);
        let mean = (self.budgets.iter().sum::<usize>() + n / 2) / n;
        StreamConfig { top_k: if config.recall.is_some() { mean } else { config.top_k }, ..config }
    }

    /// Returns the share of all attention that falls on learned sinks; `None` without them.
    pub fn on_sinks(&self) -> Option<f64> {
        let sum: f64 = self.on_sinks.iter().map(|&mass| f64::from(mass)).sum();
        (!self.on_sinks.is_empty()).then(|| sum / self.on_sinks.len() as f64)
    }

    /// Returns the recall of `rows` queries in each layer; `None` if none was recorded.
    pub fn recall(&self, rows: usize) -> Option<Recall> {
        let recalls = || self.recalls.iter().map(|&recall| f64::from(recall));
        let mean = recalls().sum::<f64>() / self.recalls.len() as f64;
        recalls().reduce(f64::min).map(|least_head| Recall { mean, least_head, rows })
    }
}

/// Counts the queries of each layer whose recall a run tells: those that it samples, or in an exact run all.
pub(super) fn sampled_rows(config: &StreamConfig, n_tokens: usize) -> usize {
    if config.exact {
        return n_tokens;
    }
    let StreamConfig { block_size_q, block_size_k, .. } = *config;
    let blocks = Blocks { n_tokens, block_size_q, block_size_k, window: None };
    sampled(&blocks, config).iter().map(|&query_block| blocks.queries(query_block).len()).sum()
}
