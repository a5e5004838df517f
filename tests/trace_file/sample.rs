//! Small synthetic traces, and the values that should be read from them.

use streamtrace::trace::{
    BlockMask, Blocks, Budgets, ExpertsInfo, LayerRecord, LoadSeconds, ModelInfo, NextToken, Recall, Seconds,
    Span, StreamConfig, Summary, Trace, TraceWriter, token_sentences,
};

/// A trace and the values that it was made from.
pub struct Sample {
    pub trace: Trace,
    pub summary: Summary,
    pub tokens: Vec<u32>,
    pub text: String,
    pub offsets: Vec<(usize, usize)>,
    pub logits: Vec<f32>,
    pub layers: Vec<LayerRecord>,
}

/// The size of a sample.
#[derive(Clone)]
pub struct Size {
    pub n_tokens: usize,
    pub block_size_q: usize,
    pub block_size_k: usize,
    pub top_k: usize,
    pub n_heads: usize,
    pub focus: std::ops::Range<usize>,
    pub windows: Vec<Option<usize>>,
}

/// Returns a size of two layers, one with a window; with rows that see fewer blocks than `top_k`, and lengths
/// that no block size divides.
pub const fn small() -> Size {
    Size {
        n_tokens: 23,
        block_size_q: 8,
        block_size_k: 2,
        top_k: 5,
        n_heads: 3,
        focus: 13..17,
        windows: Vec::new(),
    }
}

impl Size {
    pub fn windows(mut self, windows: &[Option<usize>]) -> Self {
        self.windows = windows.to_vec();
        self
    }

    pub fn sample(&self) -> Sample {
        let tokens: Vec<u32> = (0..self.n_tokens as u32).map(|i| i * 7 % 4096).collect();
        let (text, offsets) = text(self.n_tokens);
        let logits: Vec<f32> = (0..11).map(|i| i as f32 / 3.0 - 2.0).collect();
        let layers: Vec<_> = (0..self.windows.len()).map(|layer| self.layer(layer)).collect();
        let summary = self.summary(logits.len());
        let mut writer = TraceWriter::new(&tokens, &offsets, &text).unwrap();
        layers.iter().enumerate().for_each(|(i, record)| writer.layer(i, record).unwrap());
        let trace = writer.finish(summary.clone(), &logits).unwrap();
        Sample { trace, summary, tokens, text, offsets, logits, layers }
    }

    fn blocks(&self, layer: usize) -> Blocks {
        let (n_tokens, window) = (self.n_tokens, self.windows[layer]);
        Blocks { n_tokens, block_size_q: self.block_size_q, block_size_k: self.block_size_k, window }
    }

    /// Gives each head a block more than the one before.
    fn budgets(&self) -> Budgets {
        Budgets::new((0..self.n_heads).map(|head| self.top_k + head).collect())
    }

    /// Keeps the newest visible blocks, or the oldest in every other head; half precision holds the numbers
    /// exactly.
    fn layer(&self, layer: usize) -> LayerRecord {
        let mut mask = BlockMask::empty(self.blocks(layer), self.budgets());
        for head in 0..self.n_heads {
            for query_block in 0..mask.blocks.n_query_blocks() {
                let visible = mask.blocks.visible(query_block);
                let n = visible.len().min(mask.budgets.top_k(head));
                let mut kept: Vec<usize> = (visible.end - n..visible.end).collect();
                kept[0] = if head % 2 == 0 { visible.start } else { kept[0] };
                let row = mask.row(head, query_block);
                mask.kept[row][..n].iter_mut().zip(kept).for_each(|(slot, block)| *slot = block as u32);
            }
        }
        let exact = |n: usize, step: usize| {
            (0..n).map(|i| ((i * step + layer) % 512) as f32 / 512.0).collect::<Vec<_>>()
        };
        let n_keys = mask.budgets.sum() * self.block_size_k;
        LayerRecord {
            mass: exact(mask.kept.len(), 3),
            received: (0..self.n_heads * self.n_tokens).map(|i| (i + layer) as f32 / 7.0).collect(),
            focus: exact(self.focus.len() * n_keys, 5),
            written: exact(self.n_heads * mask.blocks.n_key_blocks(), 7),
            residual: exact(mask.blocks.n_query_blocks(), 11),
            proximity: exact(mask.kept.len(), 17),
            vertical: exact(
                self.n_heads * token_sentences(&text(self.n_tokens).0, &text(self.n_tokens).1).len(),
                13,
            ),
            recall: exact(self.n_heads, 19),
            on_sink: exact(self.n_heads * mask.blocks.n_query_blocks(), 23),
            experts: (0..2 * self.n_tokens).map(|i| ((i * 7 + layer) % 300) as u16).collect(),
            mask,
        }
    }

    fn summary(&self, vocab_size: usize) -> Summary {
        let config = StreamConfig {
            block_size_q: self.block_size_q,
            block_size_k: self.block_size_k,
            top_k: self.top_k,
            focus: Some(self.focus.clone()),
            proximity: true,
            ..Default::default()
        };
        let model = ModelInfo {
            name: "made-up \"model\" \u{e9}".into(),
            architecture: "qwen3".into(),
            n_layers: self.windows.len(),
            n_heads: self.n_heads,
            n_kv_heads: 1,
            head_dim: 4,
            hidden_size: 8,
            vocab_size,
            n_parameters: u64::MAX,
            windows: self.windows.clone(),
            context_length: None,
            fingerprint: None,
        };
        Summary {
            model,
            config,
            n_tokens: self.n_tokens,
            focus: Span::from(self.focus.clone()),
            next_token: NextToken { id: 3, text: " \u{fffd}".into(), logprob: -0.1234567890123456 },
            pruned: 1.0 / 3.0,
            recall: Some(Recall { mean: 0.875, least_head: 0.25, rows: 8 }),
            on_sinks: Some(0.125),
            experts: Some(ExpertsInfo { n_experts: 300, per_token: 2 }),
            keys_read_per_query_block: Some(12.5),
            seconds: Seconds {
                load: 0.1,
                load_parts: Some(LoadSeconds { tokenizer: 0.1, ..LoadSeconds::default() }),
                search: 1e-9,
                attention: 2.5,
                total: 1e6,
            },
            peak_memory_bytes: 1 << 40,
            planned_memory_bytes: 7,
            device: "cpu".into(),
            fidelity: None,
            version: "0.1.0".into(),
        }
    }
}

/// Makes text for `n_tokens` tokens of two bytes each, with characters of one, two and four bytes; some
/// tokens split a character.
fn text(n_tokens: usize) -> (String, Vec<(usize, usize)>) {
    let mut text: String = "né😀 "
        .chars()
        .cycle()
        .take_while({
            let mut n_bytes = 0;
            move |c| {
                n_bytes += c.len_utf8();
                n_bytes <= 2 * n_tokens
            }
        })
        .collect();
    text.push_str(&"x".repeat(2 * n_tokens - text.len()));
    (text, (0..n_tokens).map(|i| (2 * i, 2 * i + 2)).collect())
}
