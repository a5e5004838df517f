//! The searches of one layer on a GPU: which key blocks each query block keeps.

use std::ops::Range;

use super::{
    launch::{rule, sizes},
    layer::Layer,
    nodes::Nodes,
    params::{ExhaustiveParams, Mask, SearchParams},
    scored::{Found, Scored},
    stopwatch::Stopwatch,
    tensor::Tensor,
};
use crate::{engine::search::Candidates, error::Error, trace::Search};

impl Layer {
    /// Finds the blocks that the queries' blocks keep, within the budgets; measures it but where launches are repeated.
    pub(super) fn find(&mut self, queries: &Tensor, first: usize) -> Result<(), Error> {
        let found = self.shape.query_blocks(first, queries.n_rows);
        let n_pruned = match self.shape.config.search {
            Search::Hierarchical(_) if self.settings.searches_hierarchically() => self.n_pruned(&found),
            _ => 0,
        };
        let exact = first + n_pruned..found.end;
        let n_read = self.n_read_exactly.get_or_insert(0);
        if self.shape.config.search.is_baseline() {
            return self.keep_baseline().map(drop);
        }
        if self.place.is_some() {
            return self.find_both_ways(queries, first, exact);
        }
        let keys_read = |block, top_k| {
            Candidates::new(&self.shape.blocks, &self.shape.config, block, top_k)
                .keys_read(self.shape.blocks.block_size_k)
        };
        let budgets = self.budgets.as_slice();
        let read = |block| budgets.iter().map(|&top_k| keys_read(block, top_k)).sum::<usize>();
        *n_read += exact.clone().map(read).sum::<usize>() as u64;
        let start = Stopwatch::start(&self.gpu)?;
        self.find_both_ways(queries, first, exact)?;
        self.searching.stop(&self.gpu, start)
    }

    /// Splits ranges of keys for the query blocks before those in `exact`, for which it reads every key.
    fn find_both_ways(&mut self, queries: &Tensor, first: usize, exact: Range<usize>) -> Result<(), Error> {
        self.found = None;
        if exact.start > first {
            self.search_hierarchical(queries, first, exact.start - first)?;
        }
        if exact.is_empty() {
            return Ok(());
        }
        let scored = match self.scored.take().filter(|scored| scored.found == exact) {
            Some(scored) => scored,
            None => self.score_exhaustively(queries, first, exact, self.mask())?,
        };
        self.select(scored)
    }

    /// Reads every key for the queries' blocks, if that is how they are searched: it needs no budgets.
    pub(super) fn find_ahead(&mut self, queries: &Tensor, first: usize) -> Result<(), Error> {
        let found = self.shape.query_blocks(first, queries.n_rows);
        let is_exhaustive = match self.shape.config.search {
            Search::Window | Search::Random { .. } => false,
            Search::Hierarchical(_) => self.n_pruned(&found) == 0,
            Search::Exhaustive => true,
        };
        if !is_exhaustive {
            return Ok(());
        }
        let start = Stopwatch::start(&self.gpu)?;
        let mask = Mask { budgets: None, ..self.mask() };
        self.scored = Some(self.score_exhaustively(queries, first, found, mask)?);
        self.searching.stop(&self.gpu, start)
    }

    /// Counts the first of these query blocks, for which ranges of keys are split.
    fn n_pruned(&self, found: &Range<usize>) -> usize {
        let first_exact = self.shape.config.first_exact_block(self.shape.blocks.n_tokens);
        first_exact.saturating_sub(found.start).min(found.len())
    }

    /// Splits ranges of keys for the first `n_blocks` query blocks of the queries.
    fn search_hierarchical(&mut self, queries: &Tensor, first: usize, n_blocks: usize) -> Result<(), Error> {
        if self.settings.finds_norms() {
            let norms = self.gpu.zeros(queries.n_rows * self.shape.n_heads)?;
            self.found = Some(Found { tokens: self.tokens(queries, first), norms });
        }
        let config = &self.shape.config;
        let params = SearchParams {
            queries: self.gpu.pointer(&queries.data),
            keys: self.gpu.pointer(&self.keys),
            nodes: Nodes::params(self.nodes.as_ref(), &self.gpu),
            mask: self.mask(),
            n_read: self.gpu.pointer(&self.n_read),
            found: self.found.as_ref().map(|found| self.gpu.pointer(&found.norms)),
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

    /// Reads every key for the query blocks `found`, of queries that start at query block `first`; `mask` has no
    /// budgets where they are not known yet.
    fn score_exhaustively(
        &self,
        queries: &Tensor,
        first: usize,
        found: Range<usize>,
        mask: Mask,
    ) -> Result<Scored, Error> {
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
            place: self.place.as_ref().map(|place| place.pointer(&self.gpu)),
            mask,
            sizes: sizes(&self.shape),
            rule: rule(&self.shape),
            n_segments: n_segments as i32,
            first_block: found.start as i32,
        };
        let in_segments = found.len() * n_segments;
        for entry in ["exhaustive_norms", "exhaustive_scores"] {
            let (kernel, work) = self.settings.exhaustive(entry, in_segments);
            // SAFETY: as the header of kernels/search_exhaustive.cu says; the rows of these query blocks are
            // among the queries.
            unsafe { self.gpu.launch(&kernel, work, &params)? };
        }
        Ok(Scored { found, scores, params })
    }

    /// Keeps the blocks that have the best scores.
    fn select(&self, scored: Scored) -> Result<(), Error> {
        let (kernel, work) = self.settings.exhaustive("exhaustive_select", scored.found.len());
        let params = ExhaustiveParams { mask: self.mask(), ..scored.params };
        // SAFETY: as above; of what was read and written before, only the scores are still there and read.
        unsafe { self.gpu.launch(&kernel, work, &params)? };
        drop(scored.scores);
        Ok(())
    }
}
