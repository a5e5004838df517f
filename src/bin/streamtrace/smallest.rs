//! `streamtrace smallest-top-k`: the smallest budget that preserves what the model does, beside that of exact blocks.

use clap::Args;
use serde_json::json;
use streamtrace::{Criterion, Error, Search, SmallestTopK, StreamConfig};

use crate::{
    args::{Format, ModelArgs, PromptArgs},
    print,
};

#[derive(Args)]
pub struct SmallestArgs {
    /// Keep this text the most likely one after the prompt, token by token; the next token if left out
    #[arg(long, value_name = "TEXT")]
    answer: Option<String>,
    /// Keep the next token's distribution: KL(dense ‖ sparse) of at most so many nats
    #[arg(long, value_name = "NATS", conflicts_with = "answer")]
    kl: Option<f64>,
    #[command(flatten)]
    format: Format,
    #[command(flatten)]
    prompt: PromptArgs,
    #[command(flatten)]
    model: ModelArgs,
}

impl SmallestArgs {
    pub fn run(&self) -> Result<(), Error> {
        let criterion = match (&self.answer, self.kl) {
            (Some(answer), _) => Criterion::AnswerSurvives(answer.clone()),
            (None, Some(nats)) => Criterion::KlAtMost(nats),
            (None, None) => Criterion::SameNextToken,
        };
        criterion.validate()?;
        let (prompt, tracer) = self.prompt.with_tracer(&self.model)?;
        let found = tracer.smallest_top_k(&prompt, &criterion)?;
        let exact = match found.search {
            Search::Exhaustive => found.clone(),
            _ => {
                let exact = StreamConfig { search: Search::Exhaustive, ..tracer.config().clone() };
                tracer.with(exact).smallest_top_k(&prompt, &criterion)?
            }
        };
        let ratio = found.top_k as f64 / exact.top_k as f64;
        if self.format.json {
            return print(json!({ "found": found, "exhaustive": exact, "budget_to_match_exact": ratio }));
        }
        table("search", &found)?;
        table("exhaustive", &exact)?;
        print(format!(
            "smallest top_k: {}, with exact blocks {}: {ratio:.2} times as many",
            found.top_k, exact.top_k
        ))
    }
}

/// What was tried, as Markdown.
fn table(name: &str, found: &SmallestTopK) -> Result<(), Error> {
    print(format!("| {name}, top_k | pruned | passes | KL | log-probability |\n|---|---|---|---|---|"))?;
    for tried in &found.tried {
        let passes = if tried.passes { "yes" } else { "no" };
        print(format!(
            "| {} | {:.4} | {passes} | {:.2e} | {:.3} |",
            tried.top_k, tried.pruned, tried.kl, tried.logprob
        ))?;
    }
    print("")
}
