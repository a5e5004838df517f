//! Synthetic traces that look like attention, for tests and the gallery: a sink, a diagonal, a needle and
//! stray blocks.

use streamtrace::trace::{
    BlockMask, Blocks, Budgets, ExpertsInfo, Fidelity, LayerRecord, LoadSeconds, ModelInfo, NextToken,
    PositionFidelity, Recall, RowsOf, Seconds, Span, StreamConfig, Summary, Trace, TraceWriter,
    token_sentences,
};

/// Geometry of a synthetic trace.
#[derive(Clone)]
pub struct Shape {
    pub n_tokens: usize,
    pub n_layers: usize,
    pub n_heads: usize,
    pub block_size_q: usize,
    pub block_size_k: usize,
    pub top_k: usize,
    pub window: Option<usize>,
    pub focus: usize,
    /// The longest prompt that the model was made for.
    pub context_length: Option<usize>,
    pub experts: Option<ExpertsInfo>,
}

impl Default for Shape {
    fn default() -> Self {
        Shape {
            n_tokens: 2000,
            n_layers: 2,
            n_heads: 2,
            block_size_q: 32,
            block_size_k: 8,
            top_k: 16,
            window: None,
            focus: 32,
            context_length: None,
            experts: None,
        }
    }
}

/// Words of the synthetic prompt, one per token.
const WORDS: [&str; 8] = [" the", " magic", " number", " for", " river", " is", ":", "\n"];

/// Makes a trace in which the last tenth of the prompt attends to a needle a tenth into it, more in higher
/// heads.
pub fn trace(shape: &Shape) -> Trace {
    let words: Vec<String> = (0..shape.n_tokens).map(|t| WORDS[t * 7 % 8].into()).collect();
    trace_of_words(shape, &words)
}

/// Makes such a trace of a prompt whose tokens are `words`.
pub fn trace_of_words(shape: &Shape, words: &[String]) -> Trace {
    let ends: Vec<usize> = words
        .iter()
        .scan(0, |end, w| {
            *end += w.len();
            Some(*end)
        })
        .collect();
    let offsets: Vec<(usize, usize)> = ends.iter().zip(words).map(|(&end, w)| (end - w.len(), end)).collect();
    let tokens: Vec<u32> = (0..shape.n_tokens as u32).collect();
    let mut writer = TraceWriter::new(&tokens, &offsets, &words.concat()).unwrap();
    let summary = summary(shape);
    let n_sentences = token_sentences(&words.concat(), &offsets).len();
    for layer in 0..shape.n_layers {
        writer.layer(layer, &record(shape, &summary, layer, n_sentences)).unwrap();
    }
    writer.finish(summary, &[0.0; 4]).unwrap()
}

fn summary(shape: &Shape) -> Summary {
    let focus = shape.focus.min(shape.n_tokens);
    Summary {
        model: model(shape),
        config: StreamConfig {
            block_size_q: shape.block_size_q,
            block_size_k: shape.block_size_k,
            top_k: shape.top_k,
            ..Default::default()
        },
        n_tokens: shape.n_tokens,
        focus: Span { start: shape.n_tokens - focus, end: shape.n_tokens },
        next_token: NextToken { id: 3, text: "9".into(), logprob: -0.02 },
        pruned: 0.951,
        recall: Some(Recall { mean: 0.97, least_head: 0.97, rows: 512 }),
        on_sinks: None,
        experts: shape.experts,
        keys_read_per_query_block: Some(412.5),
        seconds: Seconds {
            load: 0.1,
            load_parts: Some(LoadSeconds { find: 0.0, files: 0.01, tokenizer: 0.03, device: 0.06 }),
            search: 1.2,
            attention: 2.3,
            total: 3.6,
        },
        peak_memory_bytes: 612_000_000,
        planned_memory_bytes: 700_000_000,
        device: "cpu".into(),
        fidelity: Some(fidelity(shape)),
        version: "0.1.0".into(),
    }
}

fn model(shape: &Shape) -> ModelInfo {
    ModelInfo {
        name: "synthetic".into(),
        architecture: "none".into(),
        n_layers: shape.n_layers,
        n_heads: shape.n_heads,
        n_kv_heads: 1,
        head_dim: 64,
        hidden_size: 256,
        vocab_size: 4,
        n_parameters: 6_260_000,
        windows: vec![shape.window; shape.n_layers],
        context_length: shape.context_length,
        fingerprint: None,
    }
}

fn fidelity(shape: &Shape) -> Fidelity {
    Fidelity {
        recall_by_head: vec![vec![0.9934; shape.n_heads]; shape.n_layers],
        recall: 0.9934,
        n_rows: 512,
        rows_of: RowsOf::Dense,
        same_next_token: Some(true),
        kl: Some(0.0012),
        dense_next_token: Some(NextToken { id: 3, text: "9".into(), logprob: -0.01 }),
        positions: Some(PositionFidelity { n: 256, same_next_token: 0.9375, mean_kl: 0.021, p99_kl: 0.31 }),
        answer: None,
    }
}

fn record(shape: &Shape, summary: &Summary, layer: usize, n_sentences: usize) -> LayerRecord {
    let blocks = summary.blocks(layer);
    let mut mask = BlockMask::empty(blocks, Budgets::uniform(shape.n_heads, shape.top_k));
    let mut mass = vec![0.0; mask.kept.len()];
    let mut received = vec![0.0; shape.n_heads * shape.n_tokens];
    for head in 0..shape.n_heads {
        for query_block in 0..blocks.n_query_blocks() {
            let row = mask.row(head, query_block);
            let kept = kept(shape, &blocks, layer * shape.n_heads + head, query_block);
            for (at, (block, weight)) in row.zip(kept) {
                mask.kept[at] = block as u32;
                mass[at] = weight;
                let keys = blocks.keys(block);
                let share = weight * blocks.queries(query_block).len() as f32 / keys.len() as f32;
                received[head * shape.n_tokens..][keys].iter_mut().for_each(|r| *r += share);
            }
        }
    }
    LayerRecord {
        focus: focus(shape, summary, &mask, &mass),
        written: (0..shape.n_heads * blocks.n_key_blocks()).map(|i| 1.0 + (i % 5) as f32).collect(),
        residual: vec![8.0; blocks.n_query_blocks()],
        proximity: Vec::new(),
        vertical: (0..shape.n_heads * n_sentences).map(|i| 0.01 * (i % 7) as f32).collect(),
        recall: vec![0.97; shape.n_heads],
        on_sink: Vec::new(),
        experts: experts(shape),
        mask,
        mass,
        received,
    }
}

/// Returns the experts of each token, which differ from one to the next.
fn experts(shape: &Shape) -> Vec<u16> {
    let Some(ExpertsInfo { n_experts, per_token }) = shape.experts else { return Vec::new() };
    (0..shape.n_tokens * per_token).map(|i| (i % n_experts) as u16).collect()
}

/// Returns the kept blocks of a row, ascending, with masses that sum to 1.
fn kept(shape: &Shape, blocks: &Blocks, head: usize, query_block: usize) -> Vec<(usize, f32)> {
    let visible = blocks.visible(query_block);
    let needle = blocks.n_key_blocks() / 10;
    let asks_for_needle = query_block * 10 >= blocks.n_query_blocks() * 9;
    let stray = visible.len().div_ceil(1000);
    let near = visible.end.saturating_sub(64).max(visible.start);
    let mut scored: Vec<(usize, f64)> = visible
        .clone()
        .filter(|&block| block % stray == 0 || block == needle || block >= near)
        .map(|block| {
            let noise = (f64::from(hash([head as u32, query_block as u32, block as u32]))
                / f64::from(u32::MAX))
            .powi(3);
            let distance = (visible.end - 1 - block) as f64;
            let sink = if block == 0 { 60.0 } else { 0.0 };
            let found = if block == needle && asks_for_needle { 8.0 * (1 + head % 7) as f64 } else { 0.0 };
            (block, sink + found + 12.0 * (-distance / (2.0 + head as f64)).exp() + 0.3 * noise)
        })
        .collect();
    scored.sort_by(|a, b| b.1.total_cmp(&a.1));
    scored.truncate(shape.top_k);
    scored.sort_by_key(|s| s.0);
    let sum: f64 = scored.iter().map(|s| s.1).sum();
    scored.into_iter().map(|(block, score)| (block, (score / sum) as f32)).collect()
}

/// Returns the attention of each focus token: a block's mass is spread over its keys, most to the first.
fn focus(shape: &Shape, summary: &Summary, mask: &BlockMask, mass: &[f32]) -> Vec<f32> {
    let weights: Vec<f32> = (0..shape.block_size_k).map(|i| 0.5f32.powi(i as i32 + 1)).collect();
    let mut rows = Vec::new();
    for head in 0..shape.n_heads {
        for token in summary.focus.range() {
            let row = mask.row(head, token / shape.block_size_q);
            rows.extend(mass[row].iter().flat_map(|m| weights.iter().map(move |w| m * w)));
        }
    }
    rows
}

/// Returns a pseudorandom number (the finaliser of MurmurHash3).
fn hash(values: [u32; 3]) -> u32 {
    values.into_iter().fold(0x9e37_79b9, |state, value| {
        let mut h = state ^ value.wrapping_mul(0x85eb_ca6b);
        h = (h ^ (h >> 16)).wrapping_mul(0xc2b2_ae35);
        (h ^ (h >> 13)).wrapping_mul(0x27d4_eb2f) ^ (h >> 15)
    })
}
