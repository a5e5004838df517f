//! Sizes that the memory of a run is planned from, on either device.

use crate::{
    engine::{model::config::ModelConfig, search::by_head},
    protocol::Layout,
    trace::{Blocks, Budget, StreamConfig},
};

/// Sizes of a run, for products that may be large.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    pub tokens: u64,
    /// Rows of a rank, at most: whole chunks.
    pub rows: u64,
    pub hidden: u64,
    pub heads: u64,
    pub kv_heads: u64,
    pub head_dim: u64,
    /// Numbers of a token's queries, and of its keys.
    pub width: u64,
    pub kv_width: u64,
    /// Numbers of a token inside the feed-forward block. Of experts a third of what stands in a chunk's places, or of
    /// all rows that one expert takes at once, and their copies, over the rows of the chunk.
    pub inner: u64,
    /// Weights of the largest layer that come together.
    pub layer: u64,
    /// Weights of all layers that come with their layer.
    pub layers: u64,
    /// Weights of an expert, if it comes when rows have chosen it.
    pub expert: u64,
    pub query_blocks: u64,
    pub key_blocks: u64,
    /// Blocks in a row of a head, mean over the heads, at most.
    pub top_k: u64,
    pub block_size_q: u64,
    pub block_size_k: u64,
    /// Rows of a chunk, and its query blocks.
    pub chunk: u64,
    pub chunk_blocks: u64,
}

impl Sizes {
    /// Sizes of a run over `n_tokens` in this layout, shared out among `n_ranks`.
    pub fn new(
        model: &ModelConfig,
        n_tokens: usize,
        config: &StreamConfig,
        layout: Layout,
        n_ranks: usize,
    ) -> Self {
        let [tokens, hidden, heads] = [n_tokens, model.hidden_size, model.n_heads].map(|n| n as u64);
        let [kv_heads, head_dim] = [model.n_kv_heads, model.head_dim].map(|n| n as u64);
        let feed_forward = FeedForward::new(model, layout.experts_when_chosen);
        let attention = (heads + kv_heads) * 2 * head_dim * hidden;
        let of_layers = feed_forward.layers.iter().map(|weights| attention + weights);
        let StreamConfig { block_size_q, block_size_k, .. } = *config;
        let top_k = match config.budget {
            Budget::ByHead => {
                by_head::room(config.top_k, &Blocks { n_tokens, block_size_q, block_size_k, window: None })
            }
            Budget::Uniform => config.top_k,
        };
        let [top_k, block_size_q, block_size_k] = [top_k, block_size_q, block_size_k].map(|n| n as u64);
        let chunk = (layout.chunk_rows as u64).min(tokens);
        let n_chunks = tokens.div_ceil(chunk.max(1)).div_ceil(n_ranks as u64);
        Sizes {
            tokens,
            rows: tokens.min(n_chunks * chunk),
            hidden,
            heads,
            head_dim,
            width: heads * head_dim,
            kv_heads,
            kv_width: kv_heads * head_dim,
            inner: feed_forward.inner,
            layer: of_layers.clone().max().unwrap_or(0),
            layers: of_layers.sum(),
            expert: feed_forward.expert,
            query_blocks: tokens.div_ceil(block_size_q),
            key_blocks: tokens.div_ceil(block_size_k),
            top_k,
            block_size_q,
            block_size_k,
            chunk,
            chunk_blocks: chunk.div_ceil(block_size_q),
        }
    }

    /// Keys of a query block's kept blocks.
    pub fn kept_keys(&self) -> u64 {
        self.top_k * self.block_size_k.min(self.tokens)
    }

    /// Masses of a layer's sampled query blocks on every key block.
    pub fn sampled_masses(&self, config: &StreamConfig) -> u64 {
        let n = (config.sample as u64).div_ceil(self.block_size_q).min(self.query_blocks.div_ceil(8));
        n * self.heads * self.key_blocks
    }

    /// Tokens that are recorded key by key.
    pub fn focus(config: &StreamConfig) -> u64 {
        config.focus.as_ref().map_or(StreamConfig::DEFAULT_FOCUS, |focus| focus.len()) as u64
    }
}

/// Sizes of the feed-forward blocks of all layers.
struct FeedForward {
    inner: u64,
    /// Weights of each layer that come with it. `[n_layers]`
    layers: Vec<u64>,
    expert: u64,
}

impl FeedForward {
    fn new(model: &ModelConfig, experts_when_chosen: bool) -> Self {
        let (hidden, dense) = (model.hidden_size as u64, model.intermediate_size as u64);
        let Some(config) = &model.experts else {
            return FeedForward { inner: dense, layers: vec![3 * dense * hidden; model.n_layers], expert: 0 };
        };
        let [n, inner, shared, top_k] =
            [config.n_experts, config.inner, config.shared, config.routing.top_k].map(|n| n as u64);
        let expert = 3 * inner * hidden;
        let together = if experts_when_chosen { 0 } else { n * expert };
        let of_layer = |&has_experts: &bool| match has_experts {
            true => together + (n + 3 * shared) * hidden,
            false => 3 * dense * hidden,
        };
        let of_rows = if experts_when_chosen {
            (inner + hidden) * (2 * top_k).min(n) / n + hidden / 3 + n
        } else {
            // With the lists of places, numbers of 4 bytes.
            (top_k * (inner + hidden + 10) + hidden) / 3
        };
        let dense = if config.in_layers.contains(&false) { dense } else { 0 };
        FeedForward {
            inner: of_rows.max(shared).max(dense),
            layers: config.in_layers.iter().map(of_layer).collect(),
            expert: if experts_when_chosen { expert } else { 0 },
        }
    }
}

/// "weights of a layer", "weights of 6 layers".
pub fn in_layers(what: &str, n_layers: u64) -> String {
    if n_layers == 1 { format!("{what} of a layer") } else { format!("{what} of {n_layers} layers") }
}
