//! The searches of one layer on a GPU: which key blocks each query block keeps.

use std::ops::Range;

use super::{
    launch::{rule, sizes},
    layer::Layer,
    nodes::Nodes,
    params::{ExhaustiveParams, SearchParams},
    tensor::Tensor,
};
use crate::error::Error;

impl Layer {
    /// Splits ranges of keys for the first `n_blocks` query blocks of the queries.
    pub(super) fn search_hierarchical(
        &self,
        queries: &Tensor,
        first: usize,
        n_blocks: usize,
    ) -> Result<(), Error> {
        if n_blocks == 0 {
            return Ok(());
        }
        let config = &self.shape.config;
        let params = SearchParams {
            queries: self.gpu.pointer(&queries.data),
            keys: self.gpu.pointer(&self.keys),
            nodes: Nodes::params(self.nodes.as_ref(), &self.gpu),
            mask: self.mask(),
            n_read: self.gpu.pointer(&self.n_read),
            sizes: sizes(&self.shape),
            rule: rule(&self.shape),
            first_block: first as i32,
            beam: config.beam as i32,
            down: config.split.ilog2() as i32,
            max_frontier: self.settings.max_frontier() as i32,
        };
        let (kernel, work) = self.settings.search_hierarchical(n_blocks);
        // SAFETY: as the header of kernels/search_hierarchical.cu says.
        unsafe { self.gpu.launch(&kernel, work, &params) }
    }

    /// Reads every key for the query blocks `found`, of queries that start at query block `first`.
    pub(super) fn search_exhaustive(
        &self,
        queries: &Tensor,
        first: usize,
        found: Range<usize>,
    ) -> Result<(), Error> {
        if found.is_empty() {
            return Ok(());
        }
        let blocks = &self.shape.blocks;
        let n_rows = self.shape.n_heads * found.len();
        let n_segments = self.settings.segments(found.len(), blocks.n_key_blocks());
        let norms = self.gpu.alloc::<f32>(n_rows * n_segments * blocks.block_size_q)?;
        let scores = self.gpu.alloc::<u32>(n_rows * blocks.n_key_blocks())?;
        let params = ExhaustiveParams {
            queries: self
                .gpu
                .pointer_at(&queries.data, (found.start - first) * blocks.block_size_q * queries.width),
            keys: self.gpu.pointer(&self.keys),
            norms: self.gpu.pointer(&norms),
            scores: self.gpu.pointer(&scores),
            mask: self.mask(),
            sizes: sizes(&self.shape),
            rule: rule(&self.shape),
            n_segments: n_segments as i32,
            first_block: found.start as i32,
        };
        let in_segments = found.len() * n_segments;
        let launches = [
            ("exhaustive_norms", in_segments),
            ("exhaustive_scores", in_segments),
            ("exhaustive_select", found.len()),
        ];
        for (entry, n_blocks) in launches {
            let (kernel, work) = self.settings.exhaustive(entry, n_blocks);
            // SAFETY: as the header of kernels/search_exhaustive.cu says; the rows of these query blocks are
            // among the queries.
            unsafe { self.gpu.launch(&kernel, work, &params)? };
        }
        Ok(())
    }
}
