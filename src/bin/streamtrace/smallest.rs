//! `streamtrace smallest-top-k`: the smallest budget that preserves what the model does, compared with exact
//! blocks.

use clap::Args;
use serde_json::json;
use streamtrace::{Criterion, Error, Search, SmallestTopK, StreamConfig};

use crate::{
    args::ModelArgs,
    output::{Format, table},
    prompt_args::PromptArgs,
};

#[derive(Args)]
pub struct SmallestArgs {
    /// The answer that must survive: at each of its tokens the most likely one; the next token if left out
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    answer: Option<String>,
    /// Preserve the next token's distribution instead: KL(dense ‖ sparse) is at most NATS
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
        let exact = if found.search == Search::Exhaustive {
            found.clone()
        } else {
            let exact = StreamConfig { search: Search::Exhaustive, ..tracer.config().clone() };
            tracer.with(exact).smallest_top_k(&prompt, &criterion)?
        };
        let ratio = found.top_k as f64 / exact.top_k as f64;
        let object = json!({ "found": found, "exhaustive": exact, "budget_to_match_exact": ratio });
        let text = format!(
            "{}\n\n{}\n\nsmallest top_k: {}, with exact blocks {}: {ratio:.2} times as many",
            tries_table("search", &found),
            tries_table("exhaustive", &exact),
            found.top_k,
            exact.top_k,
        );
        self.format.print(object, text)
    }
}

/// Each budget that was tried.
fn tries_table(name: &str, found: &SmallestTopK) -> String {
    let top_k = format!("{name}, top_k");
    let header = [&top_k, "pruned", "passes", "KL", "log-probability"];
    let mut rows = Vec::new();
    for tried in &found.tried {
        rows.push(vec![
            tried.top_k.to_string(),
            format!("{:.4}", tried.pruned),
            if tried.passes { "yes" } else { "no" }.into(),
            format!("{:.2e}", tried.kl),
            format!("{:.3}", tried.logprob),
        ]);
    }
    table(&header, &rows)
}
