//! Does a chain of thought continue as it would without pruning?
//! `cargo bench --features engine --bench chains`
//!
//! A prompt is a word problem whose facts are scattered over prose, followed by the worked chain of thought.
//! Prints the share of the chain's tokens at which the most likely token is that of dense attention. Options:
//! `-- --prompts 12 --tokens 8192 --pruned 0.97 --seed 1000 --model MODEL`.

mod common;

use std::error::Error;

use streamtrace::{Estimate, ScoreConfig, Search, StreamConfig, tasks::WordProblem};

use common::{model, option_or};

/// As in the binary.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> Result<(), Box<dyn Error>> {
    let tracer = model()?;
    let (n_prompts, n_tokens, seed): (u64, usize, u64) =
        (option_or("--prompts", 12)?, option_or("--tokens", 8192)?, option_or("--seed", 1000)?);
    let share = option_or("--pruned", 0.97)?;
    let base = StreamConfig { pruned: Some(share), ..StreamConfig::default() };
    let contenders = [
        ("exhaustive", StreamConfig { search: Search::Exhaustive, ..base.clone() }),
        ("two means", base.clone()),
        ("mean + spread, published", base.clone().published(Estimate::MeanSpread)),
        ("middle key, published", base.published(Estimate::Middle)),
    ];
    let (mut same, mut n_chain) = ([0; 4], 0);
    for i in 0..n_prompts {
        let seed = seed + i;
        let problem = WordProblem::generate(12 + seed as usize * 5 % 13, seed)?;
        let prompt = problem.prompt(n_tokens, &mut |text| tracer.count_tokens(text))?;
        let (before, chain) = prompt.text.split_at(prompt.chain[0].start);
        let dense = tracer.score_with(before, chain, &ScoreConfig { dense: true })?;
        n_chain += dense.tokens.len();
        for (same, (_, config)) in same.iter_mut().zip(&contenders) {
            let sparse = tracer.with(config.clone()).score(before, chain)?;
            *same += dense
                .tokens
                .iter()
                .zip(&sparse.tokens)
                .filter(|(a, b)| a.most_likely == b.most_likely)
                .count();
        }
        eprintln!("{} of {n_prompts} prompts", i + 1);
    }
    println!(
        "{n_prompts} prompts, {n_tokens} tokens, {share} pruned\n\n| search | tokens as dense attention says |\n|---|---|"
    );
    for ((name, _), same) in contenders.iter().zip(same) {
        println!("| {name} | {:.3} |", same as f64 / n_chain as f64);
    }
    Ok(())
}
