//! How many more blocks does the search need than exact selection?
//! `cargo bench --features engine --bench smallest`
//!
//! For each needle prompt, finds the smallest `top_k` at which the answer survives, with the default and the
//! exhaustive search. Options: `-- --prompts 50 --tokens 8192 --seed 1000`.

mod common;

use std::error::Error;

use streamtrace::{
    Criterion, ScoreConfig, Search, StreamConfig,
    tasks::{RulerConfig, Task},
};

use common::{model, option_or};

/// As in the binary.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> Result<(), Box<dyn Error>> {
    let tracer = model()?;
    let (n_prompts, n_tokens, seed): (u64, usize, u64) =
        (option_or("--prompts", 50)?, option_or("--tokens", 8192)?, option_or("--seed", 1000)?);
    let exact = tracer.with(StreamConfig { search: Search::Exhaustive, ..StreamConfig::default() });
    let mut found: Vec<(usize, usize)> = Vec::new();
    for seed in seed..seed + n_prompts {
        let task = RulerConfig { task: Task::NiahMultikey1, n_tokens, seed, ..RulerConfig::default() };
        let prompt = tracer.prompt(&task)?;
        let criterion = Criterion::AnswerSurvives(prompt.answer.clone());
        if !tracer
            .score_with(&prompt.text, &prompt.answer, &ScoreConfig { dense: true })?
            .tokens
            .iter()
            .all(|token| token.is_argmax)
        {
            continue;
        }
        let [ours, theirs] = [&tracer, &exact].map(|tracer| tracer.smallest_top_k(&prompt.text, &criterion));
        found.push((ours?.top_k, theirs?.top_k));
        eprintln!("seed {seed}: {:?}", found.last());
    }
    let ratio = |&(ours, theirs): &(usize, usize)| ours as f64 / theirs as f64;
    println!(
        "{} of {n_prompts} prompts that dense attention answers, {n_tokens} tokens, niah_multikey_1\n",
        found.len()
    );
    println!("| smallest top_k that keeps the answer | median |\n|---|---|");
    println!("| default search | {} |", median(found.iter().map(|pair| pair.0 as f64)));
    println!("| exhaustive search | {} |", median(found.iter().map(|pair| pair.1 as f64)));
    println!("| how many times as many | {:.2} |", median(found.iter().map(ratio)));
    Ok(())
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
