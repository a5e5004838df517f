//! Do heads and suppression show which sentences a chain of thought depends on?
//! `cargo bench --features engine --bench anchors`
//!
//! A prompt is a word problem whose facts are scattered over prose, followed by the chain of thought; the
//! truth is known by construction. Options: `-- --prompts 24 --tokens 8192 --pruned 0.97 --search
//! exhaustive|default --sinks 1 --local 5 --model MODEL`. Prompts of even number calibrate the heads, and
//! those of odd number are reported; kurtosis, which needs no truth, is the mean over all. Plan and setup are
//! left out as targets. The dense run is the same with all blocks kept.

mod common;

use std::error::Error;

use streamtrace::{
    Search, StreamConfig, Trace, Tracer,
    analysis::{Calibration, HeadRanking, Sentence, SentenceMatrix, SuppressionMeasure, auc},
    tasks::WordProblem,
    trace::SentenceKind,
};

use common::{model, option, option_or};

/// As in the binary.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const LEFT_OUT: [SentenceKind; 2] = [SentenceKind::ProblemSetup, SentenceKind::PlanGeneration];

/// The measures that turn the changes of a sentence into a number.
const MEASURES: [SuppressionMeasure; 2] = [SuppressionMeasure::Published, SuppressionMeasure::Peak];

/// Number of calibrated heads whose peak attention is averaged.
const N_CALIBRATED: usize = 1;

/// Results of all prompts for one way to run.
#[derive(Default)]
struct Run {
    calibration: Calibration,
    held_out: Vec<(Trace, Vec<Sentence>, Vec<Vec<usize>>)>,
    /// One for each of the two measures.
    suppression: [Vec<(f64, bool)>; 2],
    kurtosis: Vec<HeadRanking>,
    pruned: f64,
}

fn main() -> Result<(), Box<dyn Error>> {
    let tracer = model()?;
    let n_prompts: u64 = option_or("--prompts", 24)?;
    let n_tokens: usize = option_or("--tokens", 8192)?;
    let pruned: f64 = option_or("--pruned", 0.97)?;
    let sink_blocks: usize = option_or("--sinks", 1)?;
    let local_blocks: usize = option_or("--local", 5)?;
    let small = StreamConfig { sink_blocks, local_blocks, ..StreamConfig::default() };
    let search =
        if option("--search").as_deref() == Some("exhaustive") { Search::Exhaustive } else { small.search };
    let dense = StreamConfig { top_k: n_tokens, search: Search::Exhaustive, ..small.clone() };
    let sparse = StreamConfig { pruned: Some(pruned), search, ..small };
    let mut runs = [(dense, Run::default()), (sparse, Run::default())];
    for seed in 0..n_prompts {
        let problem = WordProblem::generate(12 + (seed as usize * 5) % 13, 100 + seed)?;
        for (config, run) in &mut runs {
            run.add(&tracer.with(config.clone()), &problem, n_tokens, seed % 2 == 0)?;
        }
    }
    report(&runs.map(|(_, run)| run))
}

impl Run {
    fn add(
        &mut self,
        tracer: &Tracer,
        problem: &WordProblem,
        n_tokens: usize,
        calibrates: bool,
    ) -> Result<(), Box<dyn Error>> {
        let prompt = tracer.word_problem(problem, n_tokens)?;
        let trace = tracer.trace_focused(&prompt.text, prompt.thoughts())?;
        let sentences = trace.sentences_at(&problem.chain_pieces(&prompt))?;
        let needs = problem.dependencies();
        self.kurtosis.push(trace.thought_anchors()?.kurtosis);
        self.pruned = trace.summary().pruned;
        if calibrates {
            self.calibration.add(&trace, &sentences, &needs, &LEFT_OUT)?;
        } else {
            let suppressions = SentenceMatrix::suppressions(&sentences);
            let effects = tracer.knock_out(&trace, &suppressions, SentenceMatrix::asked(&sentences))?;
            for (measure, cases) in MEASURES.into_iter().zip(&mut self.suppression) {
                cases.extend(
                    SentenceMatrix::of_effects(&sentences, &effects, measure, "").cases(&needs, &LEFT_OUT),
                );
            }
            self.held_out.push((trace, sentences, needs));
        }
        Ok(())
    }

    /// Returns how well the peak attention of the best heads predicts the dependencies of the held-out
    /// prompts.
    fn edges(&self, heads: &HeadRanking, n: usize) -> Result<f64, Box<dyn Error>> {
        let mut cases = Vec::new();
        for (trace, sentences, needs) in &self.held_out {
            let links: SentenceMatrix = trace.sentence_links(sentences, heads, n)?;
            cases.extend(links.cases(needs, &LEFT_OUT));
        }
        Ok(auc(&cases).unwrap_or(f64::NAN))
    }
}

fn report([dense, sparse]: &[Run; 2]) -> Result<(), Box<dyn Error>> {
    println!(
        "{} prompts held out, {:.3} pruned\n\n| | dense | sparse |\n|---|---|---|",
        dense.held_out.len(),
        sparse.pruned
    );
    let row = |name: &str, values: [f64; 2]| println!("| {name} | {:.3} | {:.3} |", values[0], values[1]);
    let rankings = [dense, sparse].map(|run| run.calibration.ranking());
    for n in [N_CALIBRATED, 2, 3] {
        row(
            &format!("edges, best {n} of the calibrated heads: AUC"),
            [dense.edges(&rankings[0], n)?, sparse.edges(&rankings[1], n)?],
        );
    }
    for (i, measure) in MEASURES.iter().enumerate() {
        row(
            &format!("suppression, {measure:?}: AUC"),
            [dense, sparse].map(|run| auc(&run.suppression[i]).unwrap_or(f64::NAN)),
        );
    }
    let kurtosis =
        [dense, sparse].map(|run| HeadRanking::mean(&run.kurtosis).expect("prompts were held out"));
    row(
        "edges, 10 heads of highest kurtosis: AUC",
        [dense.edges(&kurtosis[0], 10)?, sparse.edges(&kurtosis[1], 10)?],
    );
    let [a, b] = kurtosis.map(|ranking| ranking.best(10));
    println!(
        "\nof the 10 heads of highest kurtosis, {} are those of dense attention",
        b.iter().filter(|h| a.contains(h)).count()
    );
    println!("calibrated: {:?} dense, {:?} sparse", rankings[0].best(3), rankings[1].best(3));
    Ok(())
}
