//! Computes the GPU memory that a run will take, before anything runs.

use crate::{
    engine::{
        device::{Purpose, VOCABULARY_CHUNK},
        model::config::ModelConfig,
    },
    protocol::{Layout, MemoryPlan},
    trace::{Estimate, Search, StreamConfig},
};

/// Rows of a chunk, the fastest first; rounded to whole query blocks.
const CHUNKS: [usize; 6] = [8192, 4096, 2048, 1024, 512, 256];

/// Bytes of a bf16 number.
const BF16: u64 = 2;

/// Bytes of an f32 or u32.
const WORD: u64 = 4;

/// Returns what a run over `n_tokens` will hold at its peak, in the fastest layout that fits, else in the
/// smallest. `config.top_k` as it will be used; `limit` in bytes.
pub fn plan(
    model: &ModelConfig,
    n_tokens: usize,
    config: &StreamConfig,
    purpose: Purpose,
    limit: u64,
) -> MemoryPlan {
    let layouts = layouts(config.block_size_q, n_tokens, purpose);
    let (fastest, smallest) = (layouts[0], layouts[layouts.len() - 1]);
    let plan = |layout| MemoryPlan {
        slower: slower(layout, fastest),
        ..laid_out(model, n_tokens, config, purpose, limit, layout)
    };
    layouts.into_iter().map(plan).find(|plan| plan.total() <= limit).unwrap_or_else(|| plan(smallest))
}

/// Returns all layouts, from the fastest to the smallest: first each layer waits for its weights, then chunks
/// become smaller, then hidden states leave the card.
fn layouts(block_size_q: usize, n_tokens: usize, purpose: Purpose) -> Vec<Layout> {
    // Chunks longer than the prompt are no different from the prompt.
    let whole = n_tokens.max(1).next_multiple_of(block_size_q);
    let rows = CHUNKS.map(|rows| rows.next_multiple_of(block_size_q).min(whole));
    let waiting =
        |hidden_on_host| rows.map(|chunk_rows| Layout { chunk_rows, weights_ahead: false, hidden_on_host });
    let ahead = |hidden_on_host| Layout { chunk_rows: rows[0], weights_ahead: true, hidden_on_host };
    match purpose {
        Purpose::Trace => [false, true]
            .into_iter()
            .flat_map(|host| [ahead(host)].into_iter().chain(waiting(host)))
            .collect(),
        Purpose::Generate => waiting(false).into(),
    }
}

/// Returns how a layout is slower than the fastest.
fn slower(layout: Layout, fastest: Layout) -> Option<String> {
    let chunks = format!("chunks of {} rows instead of {}", layout.chunk_rows, fastest.chunk_rows);
    let reasons = [
        (layout.chunk_rows < fastest.chunk_rows, chunks.as_str()),
        (layout.hidden_on_host, "hidden states in the host's memory"),
        (layout.weights_ahead != fastest.weights_ahead, "each layer waits for its weights"),
    ];
    let reasons: Vec<&str> = reasons.into_iter().filter(|reason| reason.0).map(|reason| reason.1).collect();
    (!reasons.is_empty()).then(|| reasons.join(", "))
}

fn laid_out(
    c: &ModelConfig,
    n_tokens: usize,
    config: &StreamConfig,
    purpose: Purpose,
    limit: u64,
    layout: Layout,
) -> MemoryPlan {
    let n = purpose.layers_held(c.n_layers) as u64;
    let [t, hidden, heads, kv_heads, dim] =
        [n_tokens, c.hidden_size, c.n_heads, c.n_kv_heads, c.head_dim].map(|n| n as u64);
    let [inner, k, bk, bq] =
        [c.intermediate_size, config.top_k, config.block_size_k, config.block_size_q].map(|n| n as u64);
    let focus = config.focus.as_ref().map_or(StreamConfig::DEFAULT_FOCUS, |focus| focus.len()) as u64;
    let chunk = (layout.chunk_rows as u64).min(t);
    let (query_blocks, key_blocks) = (t.div_ceil(bq), t.div_ceil(bk));
    // Query blocks for which every key is read.
    let exact = match config.search {
        Search::Exhaustive => query_blocks,
        Search::Hierarchical(_) => query_blocks - config.first_exact_block(n_tokens) as u64,
        Search::Window | Search::Random { .. } => 0,
    };
    let scores = heads * exact.min(chunk.div_ceil(bq)) * key_blocks;
    // Bytes of all nodes: two rows of each, and of clusters their spreads and sums.
    let nodes = match config.search {
        Search::Hierarchical(Estimate::MeanSpread) => 2 * key_blocks * 2 * dim * BF16,
        Search::Hierarchical(Estimate::TwoMeans) => 2 * key_blocks * (2 * dim * BF16 + 6 * WORD),
        _ => 0,
    };
    let layer = (heads + kv_heads) * 2 * dim * hidden + 3 * inner * hidden;
    let activations = [
        chunk * (2 * hidden + 3 * inner) * BF16,      // feed-forward
        chunk * (2 * heads * dim + hidden) * BF16,    // queries before and after their rotation
        chunk * (heads * dim * BF16) + scores * WORD, // search
        chunk * heads * (2 * dim * BF16 + WORD),      // attention
    ];
    let rows = if layout.hidden_on_host { chunk } else { t };
    let n_weights = if layout.weights_ahead { n + 1 } else { n };
    let activations = activations.into_iter().max().unwrap_or(0);
    let of_layers =
        |what: &str| if n == 1 { format!("{what} of a layer") } else { format!("{what} of {n} layers") };
    let mut parts = vec![
        (of_layers("keys and values"), n * 2 * t * kv_heads * dim * BF16),
        (of_layers("pyramid"), n * nodes * kv_heads),
        (of_layers("masks and masses"), n * heads * (2 * query_blocks * k + 3 * t + focus * k * bk) * WORD),
        ("a chunk of activations".into(), activations),
        (
            "proximity".into(),
            if config.proximity { heads * k * (query_blocks + chunk.div_ceil(bq) * bk) * WORD } else { 0 },
        ),
        (
            if layout.weights_ahead { "weights of 2 layers".into() } else { of_layers("weights") },
            n_weights * layer * BF16,
        ),
    ];
    // A part of the output layer is there only after the layers.
    let all_parts: u64 = parts.iter().map(|part| part.1).sum();
    parts.push(match purpose {
        Purpose::Trace => {
            ("output layer".into(), (VOCABULARY_CHUNK as u64 * hidden * BF16).saturating_sub(all_parts))
        }
        Purpose::Generate => ("output layer".into(), c.vocab_size as u64 * hidden * BF16),
    });
    let hidden_states = if layout.hidden_on_host { "a chunk of hidden states" } else { "hidden states" };
    parts.push((hidden_states.into(), rows * hidden * BF16));
    parts.sort_by_key(|part| std::cmp::Reverse(part.1));
    parts.retain(|part| part.1 > 0);
    MemoryPlan { n_tokens, parts, limit, layout, slower: None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        engine::model::{
            config::Activation,
            rope::{RopeConfig, RopeScaling},
        },
        error::Error,
    };

    /// Returns the plan of an 8B model over a million tokens.
    fn million(limit: u64) -> MemoryPlan {
        let model = ModelConfig {
            architecture: "llama".into(),
            hidden_size: 4096,
            intermediate_size: 14_336,
            n_layers: 32,
            n_heads: 32,
            n_kv_heads: 8,
            head_dim: 128,
            vocab_size: 128_256,
            rms_norm_eps: 1e-5,
            norm_offset: 0.0,
            post_norms: false,
            rope: RopeConfig { theta: 500_000.0, n_rotated: 128, scaling: RopeScaling::None },
            window_rope: None,
            activation: Activation::Silu,
            embedding_scale: 1.0,
            query_scale: 1.0,
            attention_soft_cap: None,
            logit_soft_cap: None,
            fused: false,
            tied_embeddings: false,
            qkv_bias: false,
            output_bias: false,
            mlp_bias: false,
            qk_norm: false,
            windows: vec![None; 32],
        };
        let config = StreamConfig { block_size_q: 128, block_size_k: 64, top_k: 32, ..Default::default() };
        plan(&model, 1_000_000, &config, Purpose::Trace, limit)
    }

    #[test]
    fn what_costs_most_time_is_given_up_last() {
        let free = million(u64::MAX);
        assert_eq!(
            (free.layout, &free.slower),
            (Layout { chunk_rows: 8192, weights_ahead: true, hidden_on_host: false }, &None)
        );
        assert_eq!(million(free.total()), MemoryPlan { limit: free.total(), ..free.clone() });
        let waiting = [8192, 4096, 2048, 1024, 512, 256].map(|rows| (rows, false));
        let mut limit = free.total();
        for (i, (rows, ahead)) in waiting.into_iter().chain([(8192, true)]).chain(waiting).enumerate() {
            let plan = million(limit - 1);
            let hidden_on_host = i >= waiting.len();
            assert_eq!(plan.layout, Layout { chunk_rows: rows, weights_ahead: ahead, hidden_on_host });
            let why = plan.slower.as_deref().unwrap();
            assert_eq!(why.contains("each layer waits for its weights"), !ahead, "{why}");
            assert_eq!(why.contains(&format!("chunks of {rows} rows instead of 8192")), rows < 8192, "{why}");
            assert_eq!(why.contains("hidden states in the host's memory"), hidden_on_host, "{why}");
            assert!(plan.check().is_ok());
            limit = plan.total();
        }
        // Eight gigabytes of hidden states are not on the card.
        assert!(limit < free.total() - 8_000_000_000, "{limit}");
    }

    #[test]
    fn a_refusal_names_the_smallest_budget_that_would_do() {
        let Err(Error::Memory { needed, fix, .. }) = million(4_000_000_000).check() else {
            panic!("4 GB are not enough")
        };
        assert!(fix.contains(&format!("raise the limit to {needed}")), "{fix}");
        let enough = crate::words::numbers::parse_bytes(&needed).unwrap();
        assert!(
            million(enough).check().is_ok() && million(enough - 100_000_000).check().is_err(),
            "{needed}"
        );
    }
}
