//! Memory of a run on a GPU, planned before anything runs.

use super::launch::parts;
use crate::{
    engine::{
        device::{Purpose, Sizes, VOCABULARY_CHUNK, in_layers},
        model::config::ModelConfig,
    },
    protocol::{Layout, MemoryPlan, Weights},
    trace::{Estimate, Search, StreamConfig},
};

/// Rows of a chunk, the fastest first; rounded to whole query blocks.
const CHUNKS: [usize; 6] = [8192, 4096, 2048, 1024, 512, 256];

/// Bytes of a bf16 number.
const BF16: u64 = 2;

/// Bytes of an f32 or u32.
const WORD: u64 = 4;

/// Memory that a run over `n_tokens` will hold at its peak, in the fastest layout that fits in `limit` bytes, else in the
/// smallest. `config.top_k` is the one that will be used.
pub fn plan(
    model: &ModelConfig,
    n_tokens: usize,
    config: &StreamConfig,
    purpose: Purpose,
    limit: u64,
    n_ranks: usize,
) -> MemoryPlan {
    let layouts = layouts(model, config.block_size_q, n_tokens, purpose);
    let (fastest, smallest) = (layouts[0], layouts[layouts.len() - 1]);
    let plan = |layout| MemoryPlan {
        slower: slower(layout, fastest),
        ..laid_out(model, n_tokens, config, purpose, limit, layout, n_ranks)
    };
    layouts.into_iter().map(plan).find(|plan| plan.total() <= limit).unwrap_or_else(|| plan(smallest))
}

/// All layouts, from the fastest to the smallest: first all weights stay on the card, then each layer's come while the one
/// before it runs, then it waits for them, then for the record of the one before, then chunks become smaller, then hidden
/// states leave the card, then experts come when rows have chosen them.
fn layouts(model: &ModelConfig, block_size_q: usize, n_tokens: usize, purpose: Purpose) -> Vec<Layout> {
    // Chunks longer than the prompt are no different from the prompt.
    let whole = n_tokens.max(1).next_multiple_of(block_size_q);
    let (large, small) = (large_chunks(model), CHUNKS.to_vec());
    let with = |rows: &[usize], layout: Layout| -> Vec<Layout> {
        let whole_blocks = |rows: &usize| rows.next_multiple_of(block_size_q).min(whole);
        rows.iter().map(|rows| Layout { chunk_rows: whole_blocks(rows), ..layout }).collect()
    };
    let all = [&large[..large.len() - 1], &small].concat();
    let kept = Layout {
        chunk_rows: 0,
        weights: Weights::Kept,
        hidden_on_host: false,
        record_first: false,
        experts_when_chosen: false,
    };
    let of_a_layer = |hidden_on_host| {
        let ahead = Layout { weights: Weights::Ahead, hidden_on_host, ..kept };
        let waiting = Layout { weights: Weights::Waiting, ..ahead };
        let record_first = Layout { record_first: true, ..waiting };
        [with(&large, ahead), with(&large, waiting), with(&all, record_first)].concat()
    };
    let when_chosen = |hidden_on_host| {
        let smallest = Layout { weights: Weights::Waiting, record_first: true, hidden_on_host, ..kept };
        with(&all, Layout { experts_when_chosen: true, ..smallest })
    };
    match purpose {
        Purpose::Trace => {
            let mut layouts = [with(&large, kept), of_a_layer(false), of_a_layer(true)].concat();
            if model.experts.is_some() {
                layouts.extend([false, true].into_iter().flat_map(when_chosen));
            }
            layouts
        }
        Purpose::Generate => with(&small, kept),
    }
}

/// Returns rows of large chunks, the largest first, down to the largest of [`CHUNKS`]. Larger ones are worth it where
/// an expert takes few of them.
fn large_chunks(model: &ModelConfig) -> Vec<usize> {
    let rows_of_one = model.experts.as_ref().map_or(1, |experts| experts.n_experts / experts.routing.top_k);
    let largest = (CHUNKS[0] * rows_of_one / 4).clamp(CHUNKS[0], 4 * CHUNKS[0]);
    [4, 2, 1].map(|n| n * CHUNKS[0]).into_iter().filter(|&rows| rows <= largest).collect()
}

/// Why a layout is slower than the fastest, if it is.
fn slower(layout: Layout, fastest: Layout) -> Option<String> {
    let chunks = format!("chunks of {} rows instead of {}", layout.chunk_rows, fastest.chunk_rows);
    let reasons = [
        (layout.chunk_rows < fastest.chunk_rows, chunks.as_str()),
        (layout.hidden_on_host, "hidden states in the host's memory"),
        (layout.weights == Weights::Waiting, "each layer waits for its weights"),
        (layout.record_first, "and for the record of the one before"),
        (layout.experts_when_chosen, "each chunk waits for its experts"),
    ];
    let reasons: Vec<&str> = reasons.into_iter().filter(|reason| reason.0).map(|reason| reason.1).collect();
    (!reasons.is_empty()).then(|| reasons.join(", "))
}

/// The plan of one layout.
fn laid_out(
    model: &ModelConfig,
    n_tokens: usize,
    config: &StreamConfig,
    purpose: Purpose,
    limit: u64,
    layout: Layout,
    n_ranks: usize,
) -> MemoryPlan {
    let run = Sizes::new(model, n_tokens, config, layout, n_ranks);
    let n = purpose.layers_held(model.n_layers) as u64;
    let (n_weights, weights) = match layout.weights {
        Weights::Kept | Weights::Held => (model.n_layers as u64, run.layers),
        Weights::Ahead => (n + 1, (n + 1) * run.layer),
        Weights::Waiting | Weights::Mapped => (n, n * run.layer),
    };
    // A layer's record leaves the card while the next layer runs.
    let n_records = match purpose {
        Purpose::Trace if !layout.record_first => (model.n_layers as u64).min(2),
        _ => n,
    };
    let mut parts = vec![
        (in_layers("keys and values", n), n * 2 * run.tokens * run.kv_width * BF16),
        (in_layers("pyramid", n), n * run.nodes(config)),
        (in_layers("masks and masses", n_records), n_records * run.records(config)),
        // They are gone before the next layer runs.
        (in_layers("what keys write and sentences get", n), n * 2 * run.heads * run.tokens * WORD),
        (in_layers("sampled masses", n), n * run.sampled_masses(config) * WORD),
        ("a chunk of activations".into(), run.chunk_of_activations(n_tokens, config, purpose)),
        ("logits of a query block".into(), run.logits_of_block(model, purpose)),
        ("proximity".into(), if config.proximity { run.proximities() } else { 0 }),
        (in_layers("weights", n_weights), (weights + run.expert) * BF16),
    ];
    let vocabulary = |rows: usize| rows as u64 * run.hidden * BF16;
    let output = match layout.weights {
        Weights::Kept | Weights::Held => vocabulary(model.vocab_size),
        // A part of the output layer is there only after the layers.
        _ => vocabulary(VOCABULARY_CHUNK).saturating_sub(parts.iter().map(|part| part.1).sum()),
    };
    parts.push(("output layer".into(), output));
    let (hidden_states, rows) = if layout.hidden_on_host {
        // One comes and two leave while the card computes.
        ("chunks of hidden states", 3 * run.chunk)
    } else {
        ("hidden states", run.rows)
    };
    parts.push((hidden_states.into(), rows * run.hidden * BF16));
    parts.sort_by_key(|part| std::cmp::Reverse(part.1));
    parts.retain(|part| part.1 > 0);
    MemoryPlan { n_tokens, parts, limit, layout, slower: None }
}

/// Bytes of the parts of a run.
impl Sizes {
    /// Two rows of each node of one layer's keys; of clusters their spreads and sums, too.
    fn nodes(&self, config: &StreamConfig) -> u64 {
        let of_head = match config.search {
            Search::Hierarchical(Estimate::MeanSpread) => 2 * self.key_blocks * 2 * self.head_dim * BF16,
            Search::Hierarchical(Estimate::TwoMeans) => {
                2 * self.key_blocks * (2 * self.head_dim * BF16 + 6 * WORD)
            }
            _ => 0,
        };
        of_head * self.kv_heads
    }

    /// Kept blocks, masses, focus, and what each key of one layer received.
    fn records(&self, config: &StreamConfig) -> u64 {
        let focus = Sizes::focus(config) * self.top_k * self.block_size_k;
        self.heads * (2 * self.rows.div_ceil(self.block_size_q) * self.top_k + self.tokens + focus) * WORD
    }

    /// The stage of a layer that holds most for a chunk.
    fn chunk_of_activations(&self, n_tokens: usize, config: &StreamConfig, purpose: Purpose) -> u64 {
        // Query blocks for which every key is read.
        let exact = match config.search {
            Search::Exhaustive => self.query_blocks,
            Search::Hierarchical(_) => self.query_blocks - config.first_exact_block(n_tokens) as u64,
            Search::Window | Search::Random { .. } => 0,
        };
        let scores = self.heads * exact.min(self.chunk_blocks) * self.key_blocks;
        let feed_forward = self.chunk * (2 * self.hidden + 3 * self.inner) * BF16;
        let rotation = self.chunk * (2 * self.width + self.hidden) * BF16;
        let norms = self.chunk * self.heads * WORD; // of attention's rows; and those that the search found
        let search = self.chunk * self.width * BF16 + scores * WORD + norms;
        let attention = self.chunk * self.heads * 2 * self.head_dim * BF16 + 2 * norms;
        // A query block that is alone in a chunk, as each token's that is written: its keys are read in parts.
        let is_alone = purpose == Purpose::Generate
            || self.tokens.saturating_sub(1) % self.chunk.max(1) < self.block_size_q;
        let in_parts = if is_alone { self.parts_of_block(n_tokens) } else { 0 };
        feed_forward.max(rotation).max(search).max(attention).max(in_parts)
    }

    /// What the parts of one query block's keys leave.
    fn parts_of_block(&self, n_tokens: usize) -> u64 {
        match parts(self.heads as usize, self.block_size_q as usize, n_tokens) {
            1 => 0,
            n => n as u64 * self.block_size_q * self.heads * (self.head_dim + 1) * WORD,
        }
    }

    /// As each token's that is written.
    fn logits_of_block(&self, model: &ModelConfig, purpose: Purpose) -> u64 {
        let rows = if purpose == Purpose::Generate { self.block_size_q } else { 0 };
        rows * model.vocab_size as u64 * BF16
    }

    fn proximities(&self) -> u64 {
        self.heads * self.top_k * (self.query_blocks + self.chunk_blocks * self.block_size_k) * WORD
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        engine::model::{
            config::Activation,
            experts::{ExpertsConfig, Routing},
            family::{FAMILIES, Family, Fused, QkNorm, Score},
            rope::{RopeConfig, RopeScaling},
        },
        error::Error,
    };

    /// An 8B model.
    fn model() -> ModelConfig {
        ModelConfig {
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
            norms: FAMILIES[0].norms,
            rope: RopeConfig { theta: 500_000.0, n_rotated: 128, scaling: RopeScaling::None },
            window_rope: None,
            activation: Activation::Silu,
            embedding_scale: 1.0,
            residual_scale: 1.0,
            logit_scale: 1.0,
            query_scale: 1.0,
            attention_soft_cap: None,
            logit_soft_cap: None,
            sinks: false,
            experts: None,
            fused: Fused::None,
            tied_embeddings: false,
            qkv_bias: false,
            output_bias: false,
            mlp_bias: false,
            qk_norm: QkNorm::None,
            interleaved: false,
            rotates: vec![true; 32],
            in_blocks: 0,
            windows: vec![None; 32],
        }
    }

    fn config() -> StreamConfig {
        StreamConfig { block_size_q: 128, block_size_k: 64, top_k: 32, ..Default::default() }
    }

    /// The plan of an 8B model over a million tokens.
    fn million(limit: u64) -> MemoryPlan {
        plan(&model(), 1_000_000, &config(), Purpose::Trace, limit, 1)
    }

    #[test]
    fn experts_have_large_chunks_and_come_when_chosen_at_last() {
        let experts = ExpertsConfig {
            tensors: Family::of_name("qwen3_moe").and_then(|family| family.experts).unwrap(),
            n_experts: 128,
            inner: 768,
            shared: 0,
            routing: Routing {
                top_k: 8,
                score: Score::Softmax,
                normalised: true,
                scale: 1.0,
                n_groups: 1,
                top_groups: 1,
            },
            in_layers: vec![true; 32],
        };
        let model = ModelConfig { hidden_size: 2048, experts: Some(experts), ..model() };
        let within = |limit| plan(&model, 131_072, &config(), Purpose::Trace, limit, 1);
        let roomy = within(u64::MAX);
        assert_eq!((roomy.layout.chunk_rows, roomy.layout.weights), (32_768, Weights::Kept));
        let of_all = 32 * 128 * 3 * 768 * 2048 * 2;
        assert!((of_all..of_all * 11 / 10).contains(&roomy.weights()), "{}", roomy.weights());
        let (mut smallest, mut before) = (within(roomy.total() - 1), roomy);
        while smallest.check().is_ok() {
            let next = within(smallest.total() - 1);
            before = std::mem::replace(&mut smallest, next);
        }
        let why = before.slower.as_deref().unwrap();
        assert!(
            before.layout.experts_when_chosen && why.contains("each chunk waits for its experts"),
            "{why}"
        );
        // Of an expert, and of what a layer has beside its experts.
        assert!(before.weights() < 100_000_000, "{}", before.weights());
    }

    #[test]
    fn what_costs_most_time_is_given_up_last() {
        let fastest = |weights| Layout {
            chunk_rows: 8192,
            weights,
            hidden_on_host: false,
            record_first: false,
            experts_when_chosen: false,
        };
        let kept = million(u64::MAX);
        assert_eq!((kept.layout, &kept.slower), (fastest(Weights::Kept), &None));
        assert!(kept.weights() > 15_000_000_000, "{}", kept.weights());
        // What comes while the layer before runs costs no time.
        let free = million(kept.total() - 1);
        assert_eq!((free.layout, &free.slower), (fastest(Weights::Ahead), &None));
        let free = MemoryPlan { limit: u64::MAX, ..free };
        assert_eq!(million(free.total()), MemoryPlan { limit: free.total(), ..free.clone() });
        let meanwhile = [Weights::Ahead, Weights::Waiting].map(|weights| (8192, weights, false));
        let first = [8192, 4096, 2048, 1024, 512, 256].map(|rows| (rows, Weights::Waiting, true));
        let on_card = meanwhile.into_iter().skip(1).chain(first);
        let mut limit = free.total();
        for (i, (chunk_rows, weights, record_first)) in on_card.chain(meanwhile).chain(first).enumerate() {
            let (plan, rows) = (million(limit - 1), chunk_rows);
            let hidden_on_host = i > first.len();
            let expected = Layout { chunk_rows, hidden_on_host, record_first, ..fastest(weights) };
            assert_eq!(plan.layout, expected);
            let why = plan.slower.as_deref().unwrap();
            assert_eq!(
                why.contains("each layer waits for its weights"),
                weights == Weights::Waiting,
                "{why}"
            );
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
