//! What a run on the CPU will take, and what it took.

use crate::{
    engine::{
        device::{Purpose, VOCABULARY_CHUNK},
        model::Model,
    },
    protocol::{Layout, MemoryPlan},
    trace::{Estimate, ModelInfo, Search, StreamConfig},
};

/// Rows of a chunk, rounded to whole query blocks: they stay in the cache.
const CHUNK: usize = 1024;

/// Bytes of a number: the CPU works in f32.
const F32: u64 = 4;

/// Program, tokenizer, and what the allocator keeps of pieces of other sizes and of earlier runs.
const PROGRAM: u64 = 80_000_000;

/// What a run over `n_tokens` will hold at its peak, in bytes. `config.top_k` as it will be used.
pub fn plan(
    model: &Model,
    n_tokens: usize,
    config: &StreamConfig,
    purpose: Purpose,
    limit: Option<u64>,
) -> MemoryPlan {
    let (c, info) = (&model.config, model.info());
    let n_held = purpose.layers_held(c.n_layers) as u64;
    let [t, hidden, heads, kv_heads, dim] =
        [n_tokens, c.hidden_size, c.n_heads, c.n_kv_heads, c.head_dim].map(|n| n as u64);
    let [inner, k, bk, bq] =
        [c.intermediate_size, config.top_k, config.block_size_k, config.block_size_q].map(|n| n as u64);
    let chunk_rows = CHUNK.next_multiple_of(config.block_size_q);
    let chunk = (chunk_rows as u64).min(t);
    let moments = match config.search {
        Search::Hierarchical(Estimate::MeanSpread) => 2,
        // A half more while it is built.
        Search::Hierarchical(Estimate::TwoMeans) => 3,
        _ => 0,
    };
    let n_query_blocks = t.div_ceil(bq);
    let focus = config.focus.as_ref().map_or(StreamConfig::DEFAULT_FOCUS, |f| f.len()) as u64;
    let layer = (heads + kv_heads) * 2 * dim * hidden + 3 * inner * hidden;
    let vocabulary = (VOCABULARY_CHUNK.min(c.vocab_size) as u64) * hidden;
    // One layer's are written while the next one's are made.
    let (n_masks, output) = match purpose {
        Purpose::Trace => (2, vocabulary * (F32 + 2)),
        Purpose::Generate => (n_held, c.vocab_size as u64 * hidden * F32 + vocabulary * 2),
    };
    // Shares of a chunk key by key, output weights column by column, and what comes of it.
    let proximity =
        heads * (chunk.div_ceil(bq) * k * bk.min(t) + dim * hidden + 2 * n_query_blocks * k) * F32;
    let of_layers = |what: &str, n: u64| {
        if n == 1 { format!("{what} of a layer") } else { format!("{what} of {n} layers") }
    };
    let parts = [
        ("hidden states".into(), t * hidden * F32),
        (of_layers("keys and values", n_held), n_held * 2 * t * kv_heads * dim * F32),
        ("rotary angles".into(), (1 + c.window_rope.iter().len() as u64) * t * dim * F32),
        (of_layers("pyramid", n_held), n_held * moments * 2 * t.div_ceil(bk) * kv_heads * dim * F32),
        (
            of_layers("masks and masses", n_masks),
            (n_query_blocks * 2 + focus * bk)
                .saturating_mul(k)
                .saturating_add(t)
                .saturating_mul(n_masks * heads * F32),
        ),
        ("what keys write, and get from later sentences".into(), 3 * t * heads * F32),
        ("proximity".into(), if config.proximity { proximity } else { 0 }),
        // Half as much again and once more stays with the allocator, in pieces of other sizes.
        ("a chunk of activations".into(), chunk * (3 * hidden + 3 * heads * dim + 3 * inner) * F32 * 5 / 2),
        ("a chunk's attention".into(), heads * chunk.div_ceil(bq) * (bq * dim + 2 * k * bk.min(t)) * F32),
        (of_layers("weights", n_held), layer * (n_held * F32 + 2)),
        ("embedding and output layer".into(), output),
        // Text, tokens, where they lie, and what is left of the tokenizer's work.
        ("prompt".into(), t * 400),
        ("mapped weights".into(), mapped(&info)),
        ("program".into(), PROGRAM),
    ];
    MemoryPlan {
        n_tokens,
        parts: parts.into_iter().filter(|part| part.1 > 0).collect(),
        limit: limit.unwrap_or_else(available),
        layout: Layout { chunk_rows, weights_ahead: false, hidden_on_host: false },
        slower: None,
    }
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
