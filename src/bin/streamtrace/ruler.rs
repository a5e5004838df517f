//! `streamtrace ruler`: how often does the answer survive the pruning?

use clap::Args;
use serde_json::json;
use streamtrace::{
    Error, Tracer,
    tasks::{RulerConfig, Task},
    trace::AnswerScore,
};

use crate::{args::ModelArgs, print};

#[derive(Args)]
pub struct RulerArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// Tasks, separated by commas, or all
    #[arg(long, default_value = "niah_multikey_1")]
    task: String,
    /// Length of a prompt
    #[arg(long, default_value_t = 16_384)]
    tokens: usize,
    /// Prompts of each task
    #[arg(long, default_value_t = 20)]
    samples: u64,
    /// Seed of the first prompt; the others follow
    #[arg(long, default_value_t = 1000)]
    seed: u64,
    /// Run dense attention too, and count only the prompts that it answers
    #[arg(long)]
    dense: bool,
    /// One JSON object on standard output
    #[arg(long)]
    json: bool,
}

/// What the prompts of one task gave.
#[derive(Default)]
struct Tally {
    n_prompts: usize,
    n_dense: usize,
    n_retained: usize,
    pruned: Vec<f64>,
    top_k: Vec<usize>,
    seconds: Vec<f64>,
}

impl RulerArgs {
    pub fn run(&self) -> Result<(), Error> {
        let tasks = match self.task.as_str() {
            "all" => Task::ALL.to_vec(),
            names => names.split(',').map(str::parse).collect::<Result<Vec<Task>, Error>>()?,
        };
        let tracer = self.model.tracer()?;
        let mut results = serde_json::Map::new();
        for task in tasks {
            let tally = self.tally(&tracer, task)?;
            if !self.json {
                print(tally.line(task, self.tokens))?;
            }
            results.insert(task.to_string(), tally.json());
        }
        match self.json {
            true => print(serde_json::Value::from(results)),
            false => Ok(()),
        }
    }

    fn tally(&self, tracer: &Tracer, task: Task) -> Result<Tally, Error> {
        let mut tally = Tally::default();
        for seed in self.seed..self.seed + self.samples {
            let prompt = tracer.prompt(&RulerConfig { task, n_tokens: self.tokens, seed, ..RulerConfig::default() })?;
            tally.n_prompts += 1;
            if self.dense && !tracer.score_dense(&prompt.text, &prompt.answer)?.retained() {
                continue;
            }
            tally.n_dense += 1;
            tally.add(&tracer.score(&prompt.text, &prompt.answer)?);
            eprintln!("{task}: {} of {} retained", tally.n_retained, tally.n_dense);
        }
        Ok(tally)
    }
}

impl Tally {
    fn add(&mut self, score: &AnswerScore) {
        self.n_retained += score.retained() as usize;
        self.pruned.push(score.pruned);
        self.top_k.push(score.top_k);
        self.seconds.push(score.seconds.total);
    }

    fn json(&self) -> serde_json::Value {
        json!({
            "prompts": self.n_prompts,
            "counted": self.n_dense,
            "needle_retained": self.n_retained,
            "pruned": median(&self.pruned),
            "top_k": median(&self.top_k),
            "seconds": median(&self.seconds),
        })
    }

    fn line(&self, task: Task, n_tokens: usize) -> String {
        let Tally { n_retained, n_dense, .. } = self;
        let number = |values: &[f64]| median(values).map_or("-".into(), |v| format!("{v:.3}"));
        let (pruned, seconds) = (number(&self.pruned), number(&self.seconds));
        let known = if task.in_training() { "" } else { " (not in the bundled model's training)" };
        format!("{task} {n_tokens} tokens: {n_retained} of {n_dense} retained, {pruned} pruned, {seconds} s{known}")
    }
}

fn median<T: Copy + PartialOrd>(values: &[T]) -> Option<T> {
    let mut sorted = values.to_vec();
    sorted.sort_by(|a, b| a.partial_cmp(b).unwrap_or(std::cmp::Ordering::Equal));
    sorted.get(sorted.len() / 2).copied()
}
