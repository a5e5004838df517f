//! `streamtrace retrieval-heads`: which heads copy needles into answers.

use clap::{Args, value_parser};
use serde_json::json;
use streamtrace::{
    Error, Tracer,
    analysis::RetrievalHeads,
    client::part_of,
    tasks::{RulerConfig, Task},
};

use crate::{
    args::ModelArgs,
    at_once::{AtOnceArgs, on_each},
    output::{Output, check_writable, table, wrote},
    prompt_args::ChatArgs,
};

#[derive(Args)]
pub struct RetrievalHeadsArgs {
    /// RULER's task: one that hides one answer in one needle
    #[arg(long, default_value_t = Task::NiahMultikey1)]
    task: Task,
    /// Length of each prompt in tokens
    #[arg(long, alias = "tokens", value_name = "TOKENS", default_value_t = 4096)]
    n_tokens: usize,
    /// Number of prompts to average over
    #[arg(
        long,
        alias = "samples",
        value_name = "PROMPTS",
        default_value_t = 5,
        value_parser = value_parser!(u64).range(1..)
    )]
    n_prompts: u64,
    /// Seed of the first prompt; each next prompt takes the next seed
    #[arg(long, default_value_t = 0)]
    seed: u64,
    #[command(flatten)]
    at_once: AtOnceArgs,
    #[command(flatten)]
    chat: ChatArgs,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    model: ModelArgs,
}

/// Number of heads that the table shows.
const SHOWN: usize = 10;

impl RetrievalHeadsArgs {
    pub fn run(&self) -> Result<(), Error> {
        check_writable(self.output.out.as_deref())?;
        let tracers = self.at_once.tracers(&self.model)?;
        let chat = self.chat.frame(&tracers[0])?;
        let config = RulerConfig { task: self.task, n_tokens: self.n_tokens, chat, ..RulerConfig::default() };
        let seeds = self.seed..self.seed.saturating_add(self.n_prompts);
        let prompts = on_each(&tracers, seeds.enumerate(), |tracer, (n, seed)| {
            part_of(&format!("prompt {} of {}", n + 1, self.n_prompts));
            one_prompt(tracer, &RulerConfig { seed, ..config.clone() })
        })?;
        part_of("");
        let heads = RetrievalHeads::mean(&prompts)?;
        if let Some(out) = &self.output.out {
            heads.map().save(out)?;
            wrote(out, "");
        }
        let ranking = heads.ranking();
        let object = json!({ "n_prompts": heads.n_prompts, "scores": heads.scores, "ranking": ranking });
        let header = ["layer", "head", "share of the answer's tokens copied"];
        let mut rows = Vec::new();
        for head in ranking.iter().take(SHOWN) {
            rows.push(vec![head.layer.to_string(), head.head.to_string(), format!("{:.3}", head.score)]);
        }
        self.output.format.print(object, table(&header, &rows))
    }
}

/// The scores of all heads on one prompt.
fn one_prompt(tracer: &Tracer, config: &RulerConfig) -> Result<RetrievalHeads, Error> {
    let prompt = tracer.prompt(config)?;
    let [reference] = &prompt.answers[..] else {
        return Err(Error::setting(
            "task",
            "a task with one answer, which stands in one needle",
            format!("{}, which has {}", config.task, prompt.answers.len()),
            "choose one of niah_single_1 to niah_multikey_3",
        ));
    };
    let (trace, answer) = tracer.trace_answer(&prompt.text, &prompt.answer)?;
    trace.retrieval_heads(trace.find(reference)?, answer)
}
