//! Does a model go on thinking as it would have? `cargo bench --features engine --bench chains`
//!
//! Word problems whose facts are scattered over prose, then the worked chain of thought: the share of the chain's tokens whose
//! most likely token is dense attention's. Options: `-- --prompts 12 --tokens 8192 --pruned 0.97 --seed 1000`.

use std::{error::Error, path::Path};

use streamtrace::{DeviceChoice, Estimate, LoadOptions, Search, StreamConfig, Tracer, tasks::WordProblem};

/// As in the binary.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> Result<(), Box<dyn Error>> {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/needle-6m");
    let tracer = Tracer::load_with(LoadOptions { model, device: DeviceChoice::Auto, memory: None })?;
    let [n_prompts, n_tokens, seed] = [("--prompts", 12), ("--tokens", 8192), ("--seed", 1000)].map(|(name, n)| number(name, n));
    let share = option("--pruned").unwrap_or("0.97".into()).parse()?;
    let base = StreamConfig { pruned: Some(share), ..StreamConfig::default() };
    let contenders = [
        ("exhaustive", StreamConfig { search: Search::Exhaustive, ..base.clone() }),
        ("two means", base.clone()),
        ("mean + spread, published", base.clone().published(Estimate::MeanSpread)),
        ("middle key, published", base.published(Estimate::Middle)),
    ];
    let (mut same, mut n_chain) = ([0; 4], 0);
    for seed in seed..seed + n_prompts {
        let problem = WordProblem::generate(12 + seed as usize * 5 % 13, seed)?;
        let prompt = problem.prompt(n_tokens as usize, &mut |text| tracer.count_tokens(text))?;
        let (before, chain) = prompt.text.split_at(prompt.chain[0].start);
        let dense = tracer.score_dense(before, chain)?;
        n_chain += dense.tokens.len();
        for (same, (_, config)) in same.iter_mut().zip(&contenders) {
            let sparse = tracer.with(config.clone()).score(before, chain)?;
            *same += dense.tokens.iter().zip(&sparse.tokens).filter(|(a, b)| a.most_likely == b.most_likely).count();
        }
        eprintln!("{} of {n_prompts} prompts", seed + 1 - number("--seed", 1000));
    }
    println!("{n_prompts} prompts, {n_tokens} tokens, {share} pruned\n\n| search | tokens as dense attention says |\n|---|---|");
    for ((name, _), same) in contenders.iter().zip(same) {
        println!("| {name} | {:.3} |", same as f64 / n_chain as f64);
    }
    Ok(())
}

fn number(name: &str, default: u64) -> u64 {
    option(name).and_then(|value| value.parse().ok()).unwrap_or(default)
}

/// The value after a name among the arguments.
fn option(name: &str) -> Option<String> {
    std::env::args().skip_while(|argument| argument != name).nth(1)
}
