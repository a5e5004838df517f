//! Tables of settings, memory plans, answers and generated text.

use crate::{
    protocol::{
        Criterion, DeviceChoice, End, GenerateConfig, Generated, Gpus, LoadOptions, MemoryPlan, Message,
        Progress, ScoreConfig, SmallestTopK, Tried,
    },
    trace::{AnswerScore, AnswerToken, Budget, Estimate, Search, Span, StreamConfig},
    words::{
        numbers::{count, format_bytes, nats, percent, thousands},
        table::{Describe, Table, keys_read, show_as_table},
    },
};

show_as_table!(
    AnswerScore,
    AnswerToken,
    Criterion,
    DeviceChoice,
    Gpus,
    Estimate,
    GenerateConfig,
    Generated,
    LoadOptions,
    MemoryPlan,
    Progress,
    ScoreConfig,
    Search,
    SmallestTopK,
    StreamConfig,
    Tried
);

impl Describe for StreamConfig {
    fn table(&self) -> Table {
        let budget = match self.pruned {
            Some(share) => format!("blocks such that {} is pruned", percent(share)),
            None if self.recall.is_some() => "blocks such that each head has its recall".into(),
            None => count(self.top_k, "key block"),
        };
        let heads = match (self.recall, self.budget) {
            (Some(recall), _) => format!("to a recall of {recall} in each head"),
            (None, Budget::ByHead) => format!("by head, on a sample of {}", count(self.sample, "row")),
            (None, Budget::Uniform) => "the same for all heads".into(),
        };
        let block = |size| if size == 0 { "by the prompt's length".into() } else { count(size, "token") };
        let focus =
            self.focus.clone().map_or(format!("the last {}", count(Self::DEFAULT_FOCUS, "token")), |f| {
                format!("tokens {}", Span::from(f))
            });
        Table::new("Stream settings")
            .row("query block", block(self.block_size_q))
            .row("key block", block(self.block_size_k))
            .row("kept", budget)
            .row("shared out", heads)
            .row("always kept", format!("first {}, last {}", self.sink_blocks, self.effective_local_blocks()))
            .row("search", self.search.name())
            .row("beam", self.beam)
            .row("key by key", focus)
    }
}

impl Describe for MemoryPlan {
    fn table(&self) -> Table {
        let title = format!("{} for {}", format_bytes(self.total()), count(self.n_tokens, "token"));
        let parts = self
            .parts
            .iter()
            .fold(Table::new(title), |table, (name, bytes)| table.row(name, format_bytes(*bytes)));
        let parts =
            parts.row("limit", format_bytes(self.limit)).row("chunk", count(self.layout.chunk_rows, "token"));
        self.slower.iter().fold(parts, |table, why| table.row("slower", why))
    }
}

impl Describe for AnswerScore {
    fn table(&self) -> Table {
        let title = format!("Answer of {}", count(self.tokens.len(), "token"));
        let tokens = self
            .tokens
            .iter()
            .fold(Table::new(title), |table, token| table.row(&format!("{:?}", token.text), token.line()));
        tokens
            .row("survives", if self.survives() { "yes" } else { "no" })
            .row("pruned", percent(self.pruned))
            .maybe("read by the search", self.keys_read_per_query_block.map(keys_read))
    }
}

impl Describe for AnswerToken {
    fn table(&self) -> Table {
        Table::new(format!("{:?}", self.text)).row("id", self.id).row("probability", self.line())
    }
}

impl AnswerToken {
    fn line(&self) -> String {
        let likely = if self.is_argmax { "the most likely token" } else { "another token is more likely" };
        format!("{}, {likely}", percent(self.logprob.exp()))
    }
}

impl Describe for GenerateConfig {
    fn table(&self) -> Table {
        let choice = match self.temperature {
            0.0 => "the most likely token".into(),
            temperature => format!("drawn at temperature {temperature}, seed {}", self.seed),
        };
        Table::new(format!("Generate up to {}", count(self.max_tokens, "token")))
            .row("each token", choice)
            .maybe("top-p", self.top_p.map(percent))
            .maybe("stop texts", (!self.stop.is_empty()).then(|| format!("{:?}", self.stop)))
            .row("attention", if self.dense { "dense" } else { "blocks that the search keeps" })
    }
}

impl Describe for ScoreConfig {
    fn table(&self) -> Table {
        let attention = if self.dense { "dense" } else { "what the search keeps" };
        Table::new("Score an answer").row("attention", attention)
    }
}

impl Describe for Generated {
    fn table(&self) -> Table {
        let end = match &self.end {
            End::EndOfText => "end of text".into(),
            End::Stop(stop) => format!("stop text {stop:?}"),
            End::MaxTokens => "largest number of tokens reached".into(),
        };
        let attention =
            self.top_k.map_or("dense".into(), |top_k| format!("{} a query block", count(top_k, "key block")));
        Table::new(format!("Generated after {}", count(self.n_prompt, "token")))
            .row("text", &self.text)
            .row("length", count(self.tokens.len(), "token"))
            .row("end", end)
            .row("attention", attention)
            .row("time", format!("{:.1} s", self.seconds.total))
    }
}

impl Describe for Criterion {
    fn table(&self) -> Table {
        Table::new(self.line())
    }
}

impl Criterion {
    fn line(&self) -> String {
        match self {
            Criterion::SameNextToken => "the same next token".into(),
            Criterion::KlAtMost(nats) => format!("KL of at most {nats} nats"),
            Criterion::AnswerSurvives(answer) => format!("the answer {answer:?}"),
        }
    }
}

impl Describe for Tried {
    fn table(&self) -> Table {
        Table::new(count(self.top_k, "key block")).row("result", self.line())
    }
}

impl Tried {
    fn line(&self) -> String {
        let passes = if self.passes { "passes" } else { "fails" };
        format!(
            "{passes}: {} pruned, KL {}, log-probability {:.3}",
            percent(self.pruned),
            nats(self.kl),
            self.logprob
        )
    }
}

impl Describe for SmallestTopK {
    fn table(&self) -> Table {
        let found = count(self.top_k, "key block");
        let all = thousands(self.n_key_blocks as u64);
        let table = Table::new(format!("{found} of {all} for {}", self.criterion.line()))
            .row("search", self.search.name());
        self.tried.iter().fold(table, |table, tried| table.row(&format!("k = {}", tried.top_k), tried.line()))
    }
}

impl Describe for Message {
    fn table(&self) -> Table {
        Table::new(format!("{}'s message", self.role)).row("content", &self.content)
    }
}

impl Describe for LoadOptions {
    fn table(&self) -> Table {
        let limit = self.memory.map_or("all that is free".into(), format_bytes);
        Table::new(format!("Model {}", self.model.display()))
            .row("device", format!("{:?}", self.device))
            .row("memory", limit)
            .row("GPUs", format!("{:?}", self.gpus))
    }
}

impl Describe for Gpus {
    fn table(&self) -> Table {
        Table::new(format!("{self:?}"))
    }
}

impl Describe for DeviceChoice {
    fn table(&self) -> Table {
        Table::new(format!("{self:?}"))
    }
}

impl Describe for Search {
    fn table(&self) -> Table {
        Table::new(format!("{self:?}"))
    }
}

impl Describe for Estimate {
    fn table(&self) -> Table {
        Table::new(format!("{self:?}"))
    }
}

impl Describe for Progress {
    fn table(&self) -> Table {
        Table::new(self.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn assert_reads(value: &dyn Describe, expected: &str) {
        assert_eq!(value.table().text(), expected);
    }

    #[test]
    fn settings_say_what_they_do() {
        let drawn = GenerateConfig {
            temperature: 0.5,
            seed: 3,
            top_p: Some(0.9),
            stop: vec![".".into()],
            ..Default::default()
        };
        assert_reads(
            &drawn,
            "Generate up to 64 tokens\n  \
             each token  drawn at temperature 0.5, seed 3\n  top-p       90 %\n  \
             stop texts  [\".\"]\n  attention   blocks that the search keeps",
        );
        let options =
            LoadOptions { model: "a/b".into(), memory: Some(8_000_000_000), ..LoadOptions::default() };
        assert_reads(&options, "Model a/b\n  device  Auto\n  memory  8.0 GB\n  GPUs    Auto");
        assert_reads(&Criterion::KlAtMost(0.01), "KL of at most 0.01 nats");
        let stream =
            StreamConfig { pruned: Some(0.95), focus: Some(5..9), ..StreamConfig::default() }.table();
        for row in [
            ("kept", "blocks such that 95 % is pruned"),
            ("always kept", "first 1, last 6"),
            ("key by key", "tokens 5 to 8"),
        ] {
            assert!(stream.rows.contains(&(row.0.into(), row.1.into())), "{row:?} in {:?}", stream.rows);
        }
    }

    #[test]
    fn answers_say_whether_they_survive() {
        let token = |is_argmax| AnswerToken {
            id: 7,
            text: "7".into(),
            logprob: 0.5f64.ln(),
            most_likely: 7,
            is_argmax,
        };
        let score = |is_argmax| AnswerScore {
            recall: None,
            tokens: vec![token(true), token(is_argmax)],
            pruned: 0.95,
            keys_read_per_query_block: None,
            top_k: 53,
            n_tokens: 900,
            seconds: Default::default(),
        };
        let score = |is_argmax| score(is_argmax).table();
        assert_eq!(score(true).rows[2], ("survives".into(), "yes".into()));
        assert_eq!(score(false).rows[1], ("\"7\"".into(), "50 %, another token is more likely".into()));
        assert_eq!(score(false).rows[2], ("survives".into(), "no".into()));
    }

    #[test]
    fn generated_text_says_why_it_ended() {
        for (end, says) in [
            (End::EndOfText, "end of text"),
            (End::Stop("\n".into()), "stop text \"\\n\""),
            (End::MaxTokens, "largest number of tokens reached"),
        ] {
            let written = Generated {
                text: "42".into(),
                tokens: Vec::new(),
                end,
                n_prompt: 9,
                top_k: None,
                seconds: Default::default(),
            };
            let table = written.table();
            assert_eq!(table.title, "Generated after 9 tokens");
            assert!(table.rows.contains(&("end".into(), says.into())));
            assert!(table.rows.contains(&("attention".into(), "dense".into())));
        }
    }

    #[test]
    fn a_smallest_top_k_shows_what_was_tried() {
        let tried = |top_k, passes| Tried { top_k, pruned: 0.9, passes, kl: 0.25, logprob: -1.0 };
        let found = SmallestTopK {
            criterion: Criterion::AnswerSurvives("42".into()),
            search: Search::Exhaustive,
            top_k: 9,
            n_key_blocks: 1000,
            tried: vec![tried(8, false), tried(9, true)],
        };
        let expected = "9 key blocks of 1,000 for the answer \"42\"\n  search  exhaustive\n  \
                        k = 8   fails: 90 % pruned, KL 0.2500 nats, log-probability -1.000\n  \
                        k = 9   passes: 90 % pruned, KL 0.2500 nats, log-probability -1.000";
        assert_reads(&found, expected);
    }
}
