//! The results on the prompts of one task, length and search.

use serde_json::{Value, json};
use streamtrace::{
    Error, Tracer,
    tasks::{Prompt, Task},
    trace::Seconds,
    words::numbers,
};

use super::written::{Written, on_kept_blocks, survives};

#[derive(Default)]
pub struct Tally {
    /// Prompts that count for `n_survives`: all, or those that dense attention answers by RULER's score.
    n_counted: usize,
    /// Prompts whose answer stays the most likely at every token, after the model's own words before it; of
    /// several references, as many written as dense attention writes, or all.
    n_survives: usize,
    /// RULER's score of each prompt.
    pub scores: Vec<f64>,
    pub dense_scores: Vec<f64>,
    recall: Vec<f64>,
    pub pruned: Vec<f64>,
    keys_read: Vec<f64>,
    top_k: Vec<f64>,
    seconds: Vec<Seconds>,
}

pub const HEADER: [&str; 11] = [
    "task",
    "tokens",
    "search",
    "score",
    "dense score",
    "survives",
    "recall",
    "pruned",
    "keys read",
    "seconds",
    "",
];

impl Tally {
    /// Answers a prompt on what the search keeps, and compares with what dense attention writes, if given.
    pub fn of_prompt(
        tracer: &Tracer,
        prompt: &Prompt,
        max_tokens: usize,
        dense: Option<&Written>,
    ) -> Result<Self, Error> {
        let sparse = Written::by(tracer, prompt, max_tokens, false)?;
        let answer = on_kept_blocks(tracer, prompt, &sparse, dense)?;
        let survives = match &prompt.answers[..] {
            [_] => survives(&answer),
            // The model may write them in another order than asked for.
            _ => sparse.score >= dense.map_or(1.0, |dense| dense.score),
        };
        let counts = dense.is_none_or(|dense| dense.score > 0.0);
        Ok(Tally {
            n_counted: usize::from(counts),
            n_survives: usize::from(counts && survives),
            scores: vec![sparse.score],
            dense_scores: dense.iter().map(|dense| dense.score).collect(),
            recall: answer.recall.iter().map(|recall| recall.mean).collect(),
            pruned: vec![answer.pruned],
            keys_read: answer.keys_read_per_query_block.into_iter().collect(),
            top_k: vec![answer.top_k as f64],
            seconds: vec![answer.seconds],
        })
    }

    /// Adds the results on more prompts.
    pub fn join(&mut self, more: Self) {
        self.n_counted += more.n_counted;
        self.n_survives += more.n_survives;
        let lists = [
            (&mut self.scores, more.scores),
            (&mut self.dense_scores, more.dense_scores),
            (&mut self.recall, more.recall),
            (&mut self.pruned, more.pruned),
            (&mut self.keys_read, more.keys_read),
            (&mut self.top_k, more.top_k),
        ];
        lists.into_iter().for_each(|(all, more)| all.extend(more));
        self.seconds.extend(more.seconds);
    }

    pub fn json(&self) -> Value {
        json!({
            "n_prompts": self.scores.len(),
            "counted": self.n_counted,
            "sparse_score": mean(&self.scores),
            "dense_score": mean(&self.dense_scores),
            "survives": self.n_survives,
            "recall": mean(&self.recall),
            "pruned": median(&self.pruned),
            "top_k": median(&self.top_k).map(|top_k| top_k as usize),
            "keys_read_per_query_block": mean(&self.keys_read),
            "seconds": self.seconds(),
        })
    }

    /// Means over the prompts.
    fn seconds(&self) -> Seconds {
        let of = |part: fn(&Seconds) -> f64| {
            mean(&self.seconds.iter().map(part).collect::<Vec<_>>()).unwrap_or_default()
        };
        Seconds {
            load: of(|s| s.load),
            load_parts: None,
            search: of(|s| s.search),
            attention: of(|s| s.attention),
            total: of(|s| s.total),
        }
    }

    /// A row of the table, in the order of [`HEADER`].
    pub fn cells(&self, task: Task, n_tokens: usize, search: &str, note: &str) -> Vec<String> {
        let number =
            |value: Option<f64>, decimals: usize| value.map_or("–".into(), |v| format!("{v:.decimals$}"));
        vec![
            task.to_string(),
            n_tokens.to_string(),
            search.into(),
            number(mean(&self.scores), 3),
            number(mean(&self.dense_scores), 3),
            format!("{} of {}", self.n_survives, self.n_counted),
            number(mean(&self.recall), 3),
            number(median(&self.pruned), 3),
            number(mean(&self.keys_read), 0),
            format!("{:.2}", self.seconds().total),
            self.note(note),
        ]
    }

    /// A remark to read before the numbers are compared.
    fn note(&self, note: &str) -> String {
        let unanswered = !self.dense_scores.is_empty() && self.n_counted == 0;
        let unanswered =
            unanswered.then(|| format!("dense attention answers none of {} prompts", self.scores.len()));
        unanswered
            .into_iter()
            .chain((!note.is_empty()).then(|| note.to_string()))
            .collect::<Vec<_>>()
            .join("; ")
    }
}

pub fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

pub fn median(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| numbers::median(values))
}
