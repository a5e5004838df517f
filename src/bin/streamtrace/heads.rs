//! `streamtrace heads`: which heads copy needles into answers.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;
use streamtrace::{
    Error,
    analysis::RetrievalHeads,
    tasks::{RulerConfig, Task},
};

use crate::{
    args::{Format, ModelArgs},
    print, writable,
};

#[derive(Args)]
pub struct HeadsArgs {
    /// A needle task with one answer
    #[arg(long, default_value_t = Task::NiahMultikey1)]
    task: Task,
    /// Length of a prompt, in tokens
    #[arg(long, default_value_t = 4096)]
    tokens: usize,
    /// Prompts to average over
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..))]
    samples: u64,
    /// Seed of the first prompt; the others follow
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Draw the scores by layer and head: .svg or .png
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    #[command(flatten)]
    format: Format,
    #[command(flatten)]
    model: ModelArgs,
}

/// Heads of the ranking that are printed.
const SHOWN: usize = 10;

impl HeadsArgs {
    pub fn run(&self) -> Result<(), Error> {
        self.out.as_deref().map_or(Ok(()), writable)?;
        let tracer = self.model.tracer()?;
        let of_prompt = |seed| {
            let prompt = tracer.prompt(&RulerConfig {
                task: self.task,
                n_tokens: self.tokens,
                seed,
                ..RulerConfig::default()
            })?;
            let [reference] = &prompt.answers[..] else {
                return Err(Error::setting(
                    "task",
                    "a task with one answer, which stands in one needle",
                    format!("{}, which has {}", self.task, prompt.answers.len()),
                    "choose one of niah_single_1 to niah_multikey_3",
                ));
            };
            let (trace, answer) = tracer.trace_answer(&prompt.text, &prompt.answer)?;
            trace.retrieval_heads(trace.find(reference)?, answer)
        };
        let of_prompts = (self.seed..self.seed.saturating_add(self.samples))
            .map(of_prompt)
            .collect::<Result<Vec<_>, _>>()?;
        let heads = RetrievalHeads::mean(&of_prompts)?;
        if let Some(out) = &self.out {
            heads.map().save(out)?;
        }
        if self.format.json {
            return print(
                json!({ "prompts": heads.n_prompts, "scores": heads.scores, "ranking": heads.ranking() }),
            );
        }
        print("| layer | head | share of the answer's tokens copied |\n|---|---|---|")?;
        heads
            .ranking()
            .iter()
            .take(SHOWN)
            .try_for_each(|h| print(format!("| {} | {} | {:.3} |", h.layer, h.head, h.score)))
    }
}
