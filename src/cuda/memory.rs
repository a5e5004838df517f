//! What a run on a GPU will take of its memory, computed before anything runs.

use crate::{
    config::{Estimate, Search, StreamConfig},
    memory::MemoryPlan,
    model::{
        Model,
        decoder::{CHUNK, VOCABULARY_CHUNK},
    },
};

/// Bytes of a bf16 number.
const BF16: u64 = 2;

/// Bytes of an f32 or u32.
const WORD: u64 = 4;

/// What a trace of `n_tokens` will hold at its peak. `config.top_k` as it will be used; `limit` in bytes.
pub fn plan(model: &Model, n_tokens: usize, config: &StreamConfig, limit: u64) -> MemoryPlan {
    let c = &model.config;
    let [t, hidden, heads, kv_heads, dim] = [n_tokens, c.hidden_size, c.n_heads, c.n_kv_heads, c.head_dim].map(|n| n as u64);
    let [inner, k, bk, bq] = [c.intermediate_size, config.top_k, config.block_size_k, config.block_size_q].map(|n| n as u64);
    let focus = config.focus.as_ref().map_or(StreamConfig::DEFAULT_FOCUS, |focus| focus.len()) as u64;
    let chunk = (CHUNK.next_multiple_of(config.block_size_q) as u64).min(t);
    let (query_blocks, key_blocks) = (t.div_ceil(bq), t.div_ceil(bk));
    let (scores, nodes) = match config.search {
        Search::Exhaustive => (heads * chunk.div_ceil(bq) * key_blocks, 0),
        Search::Hierarchical(Estimate::Mean | Estimate::MeanSpread) => (0, 2 * key_blocks),
        Search::Hierarchical(_) => (0, 0),
    };
    let layer = (heads + kv_heads) * 2 * dim * hidden + 3 * inner * hidden;
    // A chunk holds most in its feed-forward block, unless an exhaustive search holds more.
    let feed_forward = chunk * (2 * heads * dim + hidden + 3 * inner) * BF16;
    let activations = feed_forward.max(chunk * heads * dim * BF16 + scores * WORD);
    let mut parts = vec![
        ("keys and values of a layer", 2 * t * kv_heads * dim * BF16),
        ("pyramid of a layer", 2 * nodes * kv_heads * dim * BF16),
        ("masks and masses of a layer", heads * (2 * query_blocks * k + t + focus * k * bk) * WORD),
        ("a chunk of activations", activations),
        ("weights of a layer", layer * BF16),
    ];
    // The embedding is there only before the layers, a part of the output layer only after them.
    let of_layers: u64 = parts.iter().map(|part| part.1).sum();
    let table = (c.vocab_size as u64 * hidden).max(VOCABULARY_CHUNK as u64 * hidden) * BF16;
    parts.push(("embedding", table.saturating_sub(of_layers)));
    parts.push(("hidden states", t * hidden * BF16));
    parts.sort_by_key(|part| std::cmp::Reverse(part.1));
    let parts = parts.into_iter().filter(|part| part.1 > 0).map(|(name, bytes)| (name.to_string(), bytes)).collect();
    MemoryPlan { n_tokens, parts, limit }
}
