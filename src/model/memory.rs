//! What a run on the CPU will take, and what it took.

use super::{Model, decoder::VOCABULARY_CHUNK};
use crate::{
    config::{Estimate, Search, StreamConfig},
    memory::MemoryPlan,
    trace::ModelInfo,
};

/// Rows of a chunk, rounded to whole query blocks: they stay in the cache.
const CHUNK: usize = 1024;

/// Bytes of a number: the CPU works in f32.
const F32: u64 = 4;

/// Program, tokenizer and allocator.
const PROGRAM: u64 = 60_000_000;

/// What a trace of `n_tokens` will hold at its peak, in bytes. `config.top_k` as it will be used.
pub fn plan(model: &Model, n_tokens: usize, config: &StreamConfig, limit: Option<u64>) -> MemoryPlan {
    let (c, info) = (&model.config, model.info());
    let [t, hidden, heads, kv_heads, dim] = [n_tokens, c.hidden_size, c.n_heads, c.n_kv_heads, c.head_dim].map(|n| n as u64);
    let [inner, k, bk, bq] = [c.intermediate_size, config.top_k, config.block_size_k, config.block_size_q].map(|n| n as u64);
    let chunk_rows = CHUNK.next_multiple_of(config.block_size_q);
    let chunk = (chunk_rows as u64).min(t);
    let moments = match config.search {
        Search::Hierarchical(Estimate::Mean) => 1,
        Search::Hierarchical(Estimate::MeanSpread) => 2,
        _ => 0,
    };
    let n_query_blocks = t.div_ceil(bq);
    let focus = config.focus.as_ref().map_or(StreamConfig::DEFAULT_FOCUS, |f| f.len()) as u64;
    let layer = (heads + kv_heads) * 2 * dim * hidden + 3 * inner * hidden;
    let vocabulary = (VOCABULARY_CHUNK.min(c.vocab_size) as u64) * hidden;
    let parts = [
        ("hidden states", t * hidden * F32),
        ("keys and values of a layer", 2 * t * kv_heads * dim * F32),
        ("rotary angles", t * dim * F32),
        ("pyramid of a layer", moments * 2 * t.div_ceil(bk) * kv_heads * dim * F32),
        (
            // One layer's are written while the next one's are made.
            "masks and masses of two layers",
            (n_query_blocks * 2 + focus * bk).saturating_mul(k).saturating_add(t).saturating_mul(2 * heads * F32),
        ),
        ("what keys write, and get from later sentences", 3 * t * heads * F32),
        ("a chunk of activations", chunk * (3 * hidden + 3 * heads * dim + 3 * inner) * F32),
        ("a chunk's attention", heads * chunk.div_ceil(bq) * (bq * dim + 2 * k * bk.min(t)) * F32),
        ("weights of a layer", layer * (F32 + 2)),
        ("embedding and output layer", vocabulary * (F32 + 2)),
        ("prompt", t * 64),
        ("mapped weights", mapped(&info)),
        ("program", PROGRAM),
    ];
    let parts = parts.into_iter().map(|(name, bytes)| (name.to_string(), bytes)).collect();
    MemoryPlan { n_tokens, parts, limit: limit.unwrap_or_else(available), chunk_rows, slower: None }
}

/// Pages of the weights file that stay resident: the system drops them when it needs to, so count no more than a layer's share.
fn mapped(info: &ModelInfo) -> u64 {
    (2 * info.n_parameters).min(500_000_000)
}

/// Memory that the system can give, in bytes.
fn available() -> u64 {
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    kilobytes(&meminfo, "MemAvailable:").unwrap_or(u64::MAX / 2)
}

/// Most memory that this process has held since [`reset_peak`], in bytes; 0 where the system does not say.
pub fn peak() -> u64 {
    kilobytes(&std::fs::read_to_string("/proc/self/status").unwrap_or_default(), "VmHWM:").unwrap_or(0)
}

/// Starts a new measurement of the peak, where the system can.
pub fn reset_peak() {
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}

fn kilobytes(text: &str, field: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(field))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}
