//! How many more blocks does the search need than exact selection? `cargo bench --features engine --bench smallest`
//!
//! For each needle prompt the smallest top_k that keeps the answer, with the default search and with the exhaustive one.
//! Options: `-- --prompts 50 --tokens 8192 --seed 1000`.

use std::{error::Error, path::Path};

use streamtrace::{
    Criterion, DeviceChoice, LoadOptions, Search, StreamConfig, Tracer,
    tasks::{RulerConfig, Task},
};

/// As in the binary.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> Result<(), Box<dyn Error>> {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/needle-6m");
    let tracer = Tracer::load_with(LoadOptions { model, device: DeviceChoice::Auto, memory: None })?;
    let [n_prompts, n_tokens, seed] = [("--prompts", 50), ("--tokens", 8192), ("--seed", 1000)].map(|(name, n)| number(name, n));
    let exact = tracer.with(StreamConfig { search: Search::Exhaustive, ..StreamConfig::default() });
    let mut found: Vec<(usize, usize)> = Vec::new();
    for seed in seed..seed + n_prompts {
        let task = RulerConfig { task: Task::NiahMultikey1, n_tokens: n_tokens as usize, seed, ..RulerConfig::default() };
        let prompt = tracer.prompt(&task)?;
        let criterion = Criterion::AnswerKept(prompt.answer.clone());
        if !tracer.score_dense(&prompt.text, &prompt.answer)?.tokens.iter().all(|token| token.is_argmax) {
            continue;
        }
        let [ours, theirs] = [&tracer, &exact].map(|tracer| tracer.smallest_top_k(&prompt.text, &criterion));
        found.push((ours?.top_k, theirs?.top_k));
        eprintln!("seed {seed}: {:?}", found.last());
    }
    let ratio = |&(ours, theirs): &(usize, usize)| ours as f64 / theirs as f64;
    println!("{} of {n_prompts} prompts that dense attention answers, {n_tokens} tokens, niah_multikey_1\n", found.len());
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

fn number(name: &str, default: u64) -> u64 {
    option(name).and_then(|value| value.parse().ok()).unwrap_or(default)
}

/// The value after a name among the arguments.
fn option(name: &str) -> Option<String> {
    std::env::args().skip_while(|argument| argument != name).nth(1)
}
