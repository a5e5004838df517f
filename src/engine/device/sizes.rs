//! Sizes that the memory of a run is planned from, on either device.

use crate::{
    engine::{model::config::ModelConfig, search::by_head},
    trace::{Blocks, Budget, StreamConfig},
};

/// Sizes of a run, for products that may be large.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    pub tokens: u64,
    pub hidden: u64,
    pub heads: u64,
    pub kv_heads: u64,
    pub head_dim: u64,
    /// Numbers of a token's queries, and of its keys.
    pub width: u64,
    pub kv_width: u64,
    /// Numbers of a token inside the feed-forward block.
    pub inner: u64,
    /// Weights of a layer.
    pub layer: u64,
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
    /// Sizes of a run over `n_tokens` in chunks of `chunk_rows`.
    pub fn new(model: &ModelConfig, n_tokens: usize, config: &StreamConfig, chunk_rows: usize) -> Self {
        let [tokens, hidden, heads] = [n_tokens, model.hidden_size, model.n_heads].map(|n| n as u64);
        let [kv_heads, head_dim, inner] =
            [model.n_kv_heads, model.head_dim, model.intermediate_size].map(|n| n as u64);
        let StreamConfig { block_size_q, block_size_k, .. } = *config;
        let top_k = match config.budget {
            Budget::ByHead => {
                by_head::room(config.top_k, &Blocks { n_tokens, block_size_q, block_size_k, window: None })
            }
            Budget::Uniform => config.top_k,
        };
        let [top_k, block_size_q, block_size_k] = [top_k, block_size_q, block_size_k].map(|n| n as u64);
        let chunk = (chunk_rows as u64).min(tokens);
        Sizes {
            tokens,
            hidden,
            heads,
            head_dim,
            width: heads * head_dim,
            kv_heads,
            kv_width: kv_heads * head_dim,
            inner,
            layer: (heads + kv_heads) * 2 * head_dim * hidden + 3 * inner * hidden,
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

/// "weights of a layer", "weights of 6 layers".
pub fn in_layers(what: &str, n_layers: u64) -> String {
    if n_layers == 1 { format!("{what} of a layer") } else { format!("{what} of {n_layers} layers") }
}
