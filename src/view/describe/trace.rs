//! Tables of a trace, its parts and its comparison with dense attention.

use std::fmt;

use crate::{
    trace::{
        AnswerFidelity, BlockMask, Blocks, CompareConfig, Covering, Fidelity, HeadTrace, LayerRecord,
        ModelInfo, NextToken, PositionFidelity, Recall, RowsOf, SentenceKind, Span, Summary, Trace,
    },
    words::{
        numbers::{count, format_bytes, millions, nats, percent, thousands},
        table::{Describe, Table, keys_read, show_as_table},
    },
};

show_as_table!(
    AnswerFidelity,
    BlockMask,
    Blocks,
    CompareConfig,
    Covering,
    Fidelity,
    HeadTrace,
    LayerRecord,
    ModelInfo,
    NextToken,
    PositionFidelity,
    Recall,
    RowsOf,
    SentenceKind,
    Span,
    Summary,
    Trace
);

impl Describe for Trace {
    fn table(&self) -> Table {
        self.summary().table()
    }
}

impl Describe for Summary {
    fn table(&self) -> Table {
        let config = &self.config;
        let query_blocks = self.n_tokens.div_ceil(config.block_size_q);
        let key_blocks = self.n_tokens.div_ceil(config.block_size_k);
        let blocks = |n: usize, kind: &str, size: usize| {
            format!("{} of {}", count(n, &format!("{kind} block")), count(size, "token"))
        };
        let kept = count(config.top_k.min(key_blocks), "key block");
        let query_blocks = blocks(query_blocks, "query", config.block_size_q);
        let key_blocks = blocks(key_blocks, "key", config.block_size_k);
        let memory = format!(
            "{} of {} planned",
            format_bytes(self.peak_memory_bytes),
            format_bytes(self.planned_memory_bytes)
        );
        let on_sinks = self.on_sinks.map(|share| format!("{} of all attention", percent(share)));
        let experts =
            self.experts.map(|e| format!("{} of {} for each token, recorded", e.per_token, e.n_experts));
        Table::new(format!("Trace of {}", count(self.n_tokens, "token")))
            .row("model", self.model.line())
            .maybe("too long", too_long(self))
            .maybe("windows", self.model.windows_note(self.n_tokens))
            .row("blocks", format!("{query_blocks}, {key_blocks}"))
            .row("kept", format!("{kept} per query block and head"))
            .row("pruned", format!("{} of all causal pairs", percent(self.pruned)))
            .maybe("on learned sinks", on_sinks)
            .maybe("experts", experts)
            .maybe("read by the search", self.keys_read_per_query_block.map(keys_read))
            .row("key by key", format!("tokens {}", self.focus))
            .row("next token", self.next_token.line())
            .row("time", self.seconds.line())
            .maybe("load", self.seconds.load_parts.map(|parts| parts.line()))
            .row("memory", memory)
            .row("device", &self.device)
            .maybe("recall", self.recall.map(|told| told.line()))
            .maybe("compared", self.fidelity.as_ref().map(Fidelity::line))
    }
}

/// Says that a prompt is longer than the model was made for.
fn too_long(summary: &Summary) -> Option<String> {
    let length = summary.model.exceeded_by(summary.n_tokens)?;
    Some(format!("the model was made for prompts of {}", count(length, "token")))
}

impl Describe for Recall {
    fn table(&self) -> Table {
        Table::new("Recall").row("told", self.line())
    }
}

impl Recall {
    /// Mean, least head and sample on one line.
    pub(crate) fn line(&self) -> String {
        let rows = count(self.rows, "sampled row");
        format!("{:.3}, least head {:.3} ({rows} in each layer)", self.mean, self.least_head)
    }
}

impl Describe for ModelInfo {
    fn table(&self) -> Table {
        let windows: Vec<usize> = self.windows.iter().flatten().copied().collect();
        let window = windows
            .iter()
            .max()
            .map(|w| format!("up to {}, in {}", count(*w, "token"), count(windows.len(), "layer")));
        Table::new(self.line())
            .row("key-value heads", self.n_kv_heads)
            .row("head size", self.head_dim)
            .row("hidden size", thousands(self.hidden_size as u64))
            .row("vocabulary", thousands(self.vocab_size as u64))
            .maybe("sliding window", window)
            .maybe(
                "made for",
                self.context_length.map(|length| format!("prompts of {}", count(length, "token"))),
            )
    }
}

impl ModelInfo {
    pub(crate) fn line(&self) -> String {
        let layers = count(self.n_layers, "layer");
        let heads = count(self.n_heads, "head");
        let parameters = millions(self.n_parameters);
        format!("{} ({}, {layers} × {heads}, {parameters} parameters)", self.name, self.architecture)
    }
}

impl Describe for NextToken {
    fn table(&self) -> Table {
        Table::new("Next token")
            .row("text", format!("{:?}", self.text))
            .row("id", self.id)
            .row("probability", percent(self.logprob.exp()))
    }
}

impl NextToken {
    /// Text and probability on one line.
    pub(crate) fn line(&self) -> String {
        format!("{:?}, probability {}", self.text, percent(self.logprob.exp()))
    }
}

impl Describe for Span {
    fn table(&self) -> Table {
        Table::new(format!("Tokens {self}"))
    }
}

impl Describe for Covering {
    fn table(&self) -> Table {
        let more = |n: usize| (n > 0).then(|| count(n, "more byte"));
        self.span
            .table()
            .maybe("held before the text", more(self.before))
            .maybe("held after the text", more(self.after))
    }
}

impl Describe for Blocks {
    fn table(&self) -> Table {
        Table::new(format!("Blocks of {}", count(self.n_tokens, "token")))
            .row(
                "query blocks",
                format!(
                    "{} of {}",
                    thousands(self.n_query_blocks() as u64),
                    count(self.block_size_q, "token")
                ),
            )
            .row(
                "key blocks",
                format!("{} of {}", thousands(self.n_key_blocks() as u64), count(self.block_size_k, "token")),
            )
            .maybe("sliding window", self.window.map(|w| count(w, "token")))
    }
}

impl Describe for BlockMask {
    fn table(&self) -> Table {
        let n_heads = self.n_heads();
        let all = self.blocks.causal_pairs() as f64 * n_heads as f64;
        let table = self.blocks.table().titled(format!("Kept blocks of {}", count(n_heads, "head")));
        let least = self.budgets.as_slice().iter().min().copied().unwrap_or_default();
        let kept = match self.budgets.most() {
            most if most == least => count(most, "key block"),
            most => format!("{} to {}, by head,", thousands(least as u64), count(most, "key block")),
        };
        table
            .row("kept", format!("up to {kept} per query block"))
            .row("pruned", percent(1.0 - self.kept_pairs() as f64 / all))
    }
}

impl Describe for HeadTrace {
    fn table(&self) -> Table {
        let received = self.received().iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
        let kept: usize = (0..self.blocks.n_query_blocks()).map(|q| self.row(q).count()).sum();
        let table = self.blocks.table().titled("One head");
        table.row("kept", format!("{} blocks", thousands(kept as u64))).maybe(
            "most received",
            received.map(|(key, mass)| format!("key {}: {mass:.1}", thousands(key as u64))),
        )
    }
}

impl Describe for LayerRecord {
    fn table(&self) -> Table {
        self.mask.table()
    }
}

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.table().text())
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.table().text())
    }
}

impl Describe for Fidelity {
    fn table(&self) -> Table {
        let heads = self
            .recall_by_head
            .iter()
            .enumerate()
            .flat_map(|(l, heads)| heads.iter().enumerate().map(move |(h, r)| (l, h, *r)));
        let worst = heads
            .min_by(|a, b| a.2.total_cmp(&b.2))
            .map(|(l, h, recall)| format!("{recall:.4} in layer {l}, head {h}"));
        let run = match self.rows_of {
            RowsOf::Dense => "dense",
            RowsOf::Sparse => "sparse",
        };
        Table::new("Against dense attention")
            .row(
                "recall",
                format!("{:.4}, mean over {} of the {run} run", self.recall, count(self.n_rows, "row")),
            )
            .maybe("lowest recall", worst)
            .maybe(
                "next token",
                self.same_next_token.map(|same| if same { "the same" } else { "a different one" }),
            )
            .maybe("of dense attention", self.dense_next_token.as_ref().map(NextToken::line))
            .maybe("KL(dense ‖ sparse)", self.kl.map(nats))
            .maybe("over the prompt", self.positions.as_ref().map(PositionFidelity::line))
            .maybe("answer", self.answer.as_ref().map(AnswerFidelity::line))
    }
}

impl Fidelity {
    /// The comparison on one line.
    pub(crate) fn line(&self) -> String {
        let token = self
            .same_next_token
            .map(|same| if same { "; same next token" } else { "; different next token" });
        let kl = self.kl.map(|kl| format!(", KL {}", nats(kl)));
        let sample = (self.rows_of == RowsOf::Sparse).then(|| format!(", on {}", count(self.n_rows, "row")));
        let positions = self.positions.as_ref().map(|positions| format!("; {}", positions.share()));
        let rest = [token.map(String::from), kl, positions, sample].into_iter().flatten().collect::<String>();
        format!("{:.4} of the dense attention mass{rest}", self.recall)
    }
}

impl Describe for PositionFidelity {
    fn table(&self) -> Table {
        Table::new(format!("Next tokens after {}", count(self.n, "position")))
            .row("the same", percent(self.same_next_token))
            .row("mean KL(dense ‖ sparse)", nats(self.mean_kl))
            .row("99th percentile", nats(self.p99_kl))
    }
}

impl PositionFidelity {
    fn line(&self) -> String {
        let [mean, p99] = [self.mean_kl, self.p99_kl].map(nats);
        format!("{}, mean KL {mean}, 99th percentile {p99}", self.share())
    }

    fn share(&self) -> String {
        format!("{} the same after {}", percent(self.same_next_token), count(self.n, "position"))
    }
}

impl Describe for AnswerFidelity {
    fn table(&self) -> Table {
        let likely = |survives| if survives { "most likely at every token" } else { "not the most likely" };
        let line = |logprob: f64, survives| format!("log-probability {logprob:.4}, {}", likely(survives));
        Table::new(format!("Answer {:?}", self.text))
            .row("dense", line(self.dense_logprob, self.dense_survives))
            .row("sparse", line(self.sparse_logprob, self.sparse_survives))
    }
}

impl AnswerFidelity {
    fn line(&self) -> String {
        let outcome = match (self.dense_survives, self.sparse_survives) {
            (true, true) => "survives",
            (true, false) => "lost",
            (false, _) => "not the answer of dense attention",
        };
        format!(
            "log-probability {:.3} dense, {:.3} sparse: {outcome}",
            self.dense_logprob, self.sparse_logprob
        )
    }
}

impl Describe for RowsOf {
    fn table(&self) -> Table {
        Table::new(format!("{self:?}"))
    }
}

impl Describe for SentenceKind {
    fn table(&self) -> Table {
        Table::new(self.name())
    }
}

impl Describe for CompareConfig {
    fn table(&self) -> Table {
        let rows = self
            .rows
            .map_or("all, of a dense run".into(), |n| format!("{}, of a sparse run", count(n, "row")));
        Table::new("Compare with dense attention")
            .row("recall on", rows)
            .row("next token after", count(self.n_positions(), "position"))
            .maybe("answer", self.answer.as_ref())
    }
}

/// Writes the first and the last token.
impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.end.saturating_sub(self.start) {
            0 => write!(f, "empty, at {}", thousands(self.start as u64)),
            1 => write!(f, "{}", thousands(self.start as u64)),
            _ => write!(f, "{} to {}", thousands(self.start as u64), thousands(self.end as u64 - 1)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::synthetic::{Shape, trace};

    #[test]
    fn a_trace_says_what_matters() {
        let text = trace(&Shape { n_tokens: 16_384, ..Default::default() }).to_string();
        for part in [
            "16,384 tokens",
            "synthetic",
            "6.3 M",
            "512 query blocks of 32",
            "2,048 key blocks of 8",
            "95.1 %",
            "98 %",
            "612 MB",
            "3.6 s",
            "find 0 ms, files 10 ms, tokenizer 30 ms, device 60 ms",
            "0.9934 of the dense attention mass; same next token, KL 0.0012 nats; 93.8 % the same after 256 positions",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
        assert!(!text.contains('<'));
    }

    #[test]
    fn a_comparison_says_how_the_whole_prompt_goes_on() {
        let trace = trace(&Shape::default());
        let fidelity = trace.summary().fidelity.as_ref().unwrap();
        let line = "93.8 % the same after 256 positions, mean KL 0.0210 nats, 99th percentile 0.3100 nats";
        for shown in [fidelity.table().text(), fidelity.table().html()] {
            assert!(shown.contains("over the prompt") && shown.contains(line), "{shown}");
        }
        let without = Fidelity { positions: None, ..fidelity.clone() };
        assert!(!without.table().text().contains("over the prompt"));
    }

    #[test]
    fn html_is_escaped() {
        let hostile =
            NextToken { id: 1, text: "</td><script>alert('x')</script>\u{1b}[2J".into(), logprob: 0.0 };
        let html = hostile.table().html();
        let text = hostile.table().text();
        assert!(!html.contains("<script") && html.contains("&lt;script"), "{html}");
        assert!(!html.contains("<style") && !text.contains('\u{1b}'));
    }
}
