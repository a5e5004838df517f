//! Memory of a run on the CPU: planned before it starts, measured while it runs.

use crate::{
    engine::{
        device::{Purpose, Sizes, VOCABULARY_CHUNK, in_layers},
        model::config::ModelConfig,
    },
    protocol::{Layout, MemoryPlan, Weights},
    trace::{Estimate, Search, StreamConfig},
};

/// Rows of a chunk, rounded to whole query blocks: they stay in the cache.
const CHUNK: usize = 1024;

/// Bytes of a number: the CPU works in f32, and searches in bf16.
const F32: u64 = 4;
const BF16: u64 = 2;

/// Bytes of a number in its file, at most. Those of a weight are in memory while it is converted.
const STORED: u64 = 2;

/// Program, tokenizer, and memory that the allocator keeps of earlier pieces of other sizes.
const PROGRAM: u64 = 88_000_000;

/// The same of a model whose vocabulary lies in a file with blocks, and what each of its tokens adds.
const WITH_BLOCKS: [u64; 2] = [37_000_000, 480];

/// Bytes of a token's text, id and offsets, and of what remains of the tokenizer's work.
const PROMPT: u64 = 400;

/// Bytes of a file that the system maps around one that is read.
const AROUND: u64 = 1 << 16;

/// Memory that a run over `n_tokens` will hold at its peak. `config.top_k` is the one that will be used;
/// without a `limit` in bytes, the run may take all that the system can give.
pub fn plan(
    model: &ModelConfig,
    n_tokens: usize,
    config: &StreamConfig,
    purpose: Purpose,
    limit: Option<u64>,
    n_ranks: usize,
) -> MemoryPlan {
    let layout = Layout {
        chunk_rows: chunk_rows(config),
        weights: match purpose {
            Purpose::Generate if model.in_blocks > 0 => Weights::Mapped,
            Purpose::Generate => Weights::Held,
            Purpose::Trace => Weights::Waiting,
        },
        hidden_on_host: false,
        record_first: false,
        experts_when_chosen: model.experts.is_some(),
    };
    let run = Sizes::new(model, n_tokens, config, layout, n_ranks);
    let n_held = purpose.layers_held(model.n_layers) as u64;
    // In a trace, one layer's are written while the next one's are made.
    let n_masks = if purpose == Purpose::Trace { 2 } else { n_held };
    let n_ropes = 1 + model.window_rope.iter().len() as u64;
    let parts = [
        ("hidden states".into(), run.rows * run.hidden * F32),
        (in_layers("keys and values", n_held), n_held * 2 * run.tokens * run.kv_width * F32),
        ("rotary angles".into(), n_ropes * run.tokens * run.head_dim * F32),
        (in_layers("searched keys", n_held), n_held * run.tokens * run.kv_width * BF16),
        (in_layers("pyramid", n_held), n_held * run.pyramid(config)),
        (in_layers("masks and masses", n_masks), run.masks(config).saturating_mul(n_masks)),
        (in_layers("sampled masses", n_held), n_held * run.sampled_masses(config) * F32),
        ("what keys write, and get from later sentences".into(), 3 * run.tokens * run.heads * F32),
        ("proximity".into(), if config.proximity { run.proximity() } else { 0 }),
        ("a chunk of activations".into(), run.activations()),
        ("a chunk's attention".into(), run.attention()),
        run.weights(model, purpose),
        ("embedding and output layer".into(), run.output(model, purpose)),
        ("prompt".into(), run.tokens * PROMPT),
        ("mapped weights".into(), mapped(model, &run, purpose)),
        ("program".into(), program(model)),
    ];
    MemoryPlan {
        n_tokens,
        parts: parts.into_iter().filter(|part| part.1 > 0).collect(),
        limit: limit.unwrap_or_else(available),
        layout,
        slower: None,
    }
}

/// Bytes of the parts of a run.
impl Sizes {
    /// Bytes of the estimates of one layer's keys: about two nodes for each key block.
    fn pyramid(&self, config: &StreamConfig) -> u64 {
        let rows_of_node = match config.search {
            Search::Hierarchical(Estimate::MeanSpread) => 2,
            // In bf16; as much again while they are built.
            Search::Hierarchical(Estimate::TwoMeans) => 2,
            _ => 0,
        };
        rows_of_node * 2 * self.key_blocks * self.kv_width * F32
    }

    /// Bytes of one layer's kept blocks, their masses, the focus and the received mass.
    fn masks(&self, config: &StreamConfig) -> u64 {
        let focus = Sizes::focus(config);
        let numbers = (self.query_blocks * 2 + focus * self.block_size_k).saturating_mul(self.top_k);
        numbers.saturating_add(self.tokens).saturating_mul(self.heads * F32)
    }

    /// Bytes of a chunk's shares key by key, of output weights column by column, and of the proximities.
    fn proximity(&self) -> u64 {
        let shares = self.chunk_blocks * self.kept_keys();
        let found = 2 * self.query_blocks * self.top_k;
        self.heads * (shares + self.head_dim * self.hidden + found) * F32
    }

    /// Bytes of a chunk's activations. The allocator keeps as much again and a half, in pieces of other
    /// sizes.
    fn activations(&self) -> u64 {
        self.chunk * 3 * (self.hidden + self.width + self.inner) * F32 * 5 / 2
    }

    /// Bytes of the outputs, masses and received shares of a chunk's query blocks.
    fn attention(&self) -> u64 {
        let block_numbers = self.block_size_q * self.head_dim + 2 * self.kept_keys();
        self.heads * self.chunk_blocks * block_numbers * F32
    }

    /// Name and bytes of the weights that are held as numbers: those of a layer, or of all if a run writes and
    /// cannot multiply with them in their file.
    fn weights(&self, model: &ModelConfig, purpose: Purpose) -> (String, u64) {
        if model.in_blocks > 0 {
            return (in_layers("weights", 1), (self.layer + self.expert) * F32);
        }
        let n_held = purpose.layers_held(model.n_layers) as u64;
        let held = if n_held > 1 { self.layers } else { self.layer };
        // The largest weight is about a third of a layer, or of an expert.
        let converted = self.layer.max(self.expert) / 3 * STORED;
        (in_layers("weights", n_held), (held + self.expert) * F32 + converted)
    }

    /// Bytes of the output layer: all of it to write tokens, a part at a time to trace.
    fn output(&self, model: &ModelConfig, purpose: Purpose) -> u64 {
        let part = VOCABULARY_CHUNK.min(model.vocab_size) as u64 * self.hidden;
        match purpose {
            Purpose::Trace => part * (F32 + STORED),
            // Its logits, and their probabilities to draw from.
            Purpose::Generate if model.in_blocks > 0 => 4 * model.vocab_size as u64 * F32,
            Purpose::Generate => model.vocab_size as u64 * self.hidden * F32 + part * STORED,
        }
    }
}

/// Bytes of program and tokenizer.
fn program(model: &ModelConfig) -> u64 {
    let [program, token] = WITH_BLOCKS;
    if model.in_blocks > 0 { program + token * model.vocab_size as u64 } else { PROGRAM }
}

/// Bytes of the weights file that stay resident: where a run multiplies in the file all of it, else the tokens' rows of
/// the embedding, for other weights are given back once they are numbers.
fn mapped(model: &ModelConfig, run: &Sizes, purpose: Purpose) -> u64 {
    let vocabulary = model.vocab_size as u64 * run.hidden;
    let embedding = match model.in_blocks {
        0 => STORED * vocabulary,
        bytes => (bytes as f64 * vocabulary as f64 / n_parameters(model, run) as f64) as u64,
    };
    match purpose {
        Purpose::Generate if model.in_blocks > 0 => model.in_blocks,
        _ => embedding.min(run.tokens * AROUND),
    }
}

/// Weights of all layers and of the vocabulary, without norms and biases.
fn n_parameters(model: &ModelConfig, run: &Sizes) -> u64 {
    let n_vocabularies = if model.tied_embeddings { 1 } else { 2 };
    let experts =
        model.experts.as_ref().map_or(0, |experts| experts.n_experts * experts.in_layers.len()) as u64;
    run.layers + experts * run.expert + n_vocabularies * (model.vocab_size * model.hidden_size) as u64
}

fn chunk_rows(config: &StreamConfig) -> usize {
    CHUNK.next_multiple_of(config.block_size_q)
}

/// Memory that the system can give, in bytes. Linux alone says; elsewhere a plan fits whatever it takes.
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
