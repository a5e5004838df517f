//! Sizes and settings of one layer's attention.

use std::{ops::Range, sync::Arc};

use crate::{
    engine::{
        peers::{Parts, query_blocks},
        search::sample::sampled,
    },
    trace::{BlockMask, Blocks, Span, StreamConfig},
};

/// Sizes and settings of one layer's attention.
#[derive(Clone, Debug)]
pub struct AttentionShape {
    pub blocks: Blocks,
    /// Tokens that there is room for.
    pub capacity: usize,
    /// The rows of this rank.
    pub parts: Parts,
    pub n_heads: usize,
    pub n_kv_heads: usize,
    pub head_dim: usize,
    /// `cap · tanh(x / cap)` of each attention logit.
    pub soft_cap: Option<f32>,
    /// Logits that take mass beside the keys and have no value, one of each head; empty without them.
    pub sinks: Arc<[f32]>,
    pub config: StreamConfig,
    pub focus: Span,
    /// Stretches of tokens whose vertical scores are recorded.
    pub sentences: Arc<[Span]>,
}

impl AttentionShape {
    /// Rows of the queries that come here.
    pub fn own_rows(&self) -> Range<usize> {
        self.parts.own(self.blocks.n_tokens)
    }

    /// Their query blocks.
    pub fn own_query_blocks(&self) -> Range<usize> {
        query_blocks(&self.blocks, &self.own_rows())
    }

    /// Query blocks that there is room for.
    pub fn query_blocks_held(&self) -> usize {
        match self.parts.peers() {
            Some(_) => self.own_query_blocks().len(),
            None => self.capacity.div_ceil(self.blocks.block_size_q),
        }
    }

    /// Query blocks of this rank that a run samples.
    pub fn sampled(&self) -> Vec<usize> {
        let own = self.own_query_blocks();
        sampled(&self.blocks, &self.config).into_iter().filter(|block| own.contains(block)).collect()
    }

    /// Whether proximity is recorded.
    pub fn records_proximity(&self) -> bool {
        self.config.proximity && !self.sentences.is_empty()
    }

    /// Proximities of a mask's kept blocks as shares of their query block's sum over all heads and what stays
    /// `[n_query_blocks]`; nothing if none were recorded.
    pub fn shares_of_update(&self, mask: &BlockMask, mut proximity: Vec<f32>, stays: &[f32]) -> Vec<f32> {
        if proximity.is_empty() {
            return proximity;
        }
        let mut sums = stays.to_vec();
        for (head, query_block) in mask.rows() {
            sums[query_block] += proximity[mask.row(head, query_block)].iter().sum::<f32>();
        }
        for (head, query_block) in mask.rows() {
            let sum = sums[query_block].max(f32::MIN_POSITIVE);
            proximity[mask.row(head, query_block)].iter_mut().for_each(|near| *near /= sum);
        }
        proximity
    }

    /// Means over query blocks of what whole query blocks' rows have.
    pub fn means_of_query_blocks(&self, of_rows: &[f32]) -> impl Iterator<Item = f32> {
        of_rows.chunks(self.blocks.block_size_q).map(|rows| rows.iter().sum::<f32>() / rows.len() as f32)
    }

    /// The key-value head that a query head reads.
    pub fn kv_head(&self, head: usize) -> usize {
        head / (self.n_heads / self.n_kv_heads)
    }

    /// Whether what was indexed for `n_tokens` serves the prompt as it is now: a search reads only blocks
    /// that were whole before its query block, and no other has become whole since.
    pub fn is_indexed(&self, n_tokens: usize) -> bool {
        let counts = |blocks: Blocks| (blocks.n_query_blocks(), blocks.n_key_blocks());
        counts(Blocks { n_tokens, ..self.blocks }) == counts(self.blocks)
    }

    /// Query blocks of a chunk of rows.
    pub fn query_blocks(&self, first_query_block: usize, n_rows: usize) -> Range<usize> {
        first_query_block..first_query_block + n_rows.div_ceil(self.blocks.block_size_q)
    }
}
