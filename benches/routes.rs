//! Does the answer take the route? `cargo bench --features engine --bench routes`
//!
//! The prompts hold needles among other needles in prose. The route leads from the needle to the rows that
//! predict the answer. It is knocked out, then kept as the only attention of the question's and the answer's
//! query blocks, and compared with random routes of the same layers and query blocks.
//! Options: `-- --prompts 50 --tokens 16384 --pruned 0.95 --search exhaustive|default --controls 20 --measure
//! proximity|rollout --depth 0.9`; without a depth, needles stand at RULER's 40 depths. A run costs as much as
//! the prompt from the needle on.

mod common;

use std::{error::Error, time::Instant};

use streamtrace::{
    CausalTest, Search, Span, StreamConfig, Tracer,
    analysis::RouteMeasure,
    tasks::{RulerConfig, Task},
};

use common::{model, option, option_or};

/// As in the binary.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Results of one prompt. A drop is the fall of the answer's log-probability, in nats.
struct Row {
    before: f64,
    route: f64,
    control: f64,
    alone: bool,
    seconds: f64,
}

fn main() -> Result<(), Box<dyn Error>> {
    let tracer = model()?;
    let n_prompts: u64 = option_or("--prompts", 50)?;
    let n_tokens: usize = option_or("--tokens", 16384)?;
    let pruned: f64 = option_or("--pruned", 0.95)?;
    let n_controls: usize = option_or("--controls", 20)?;
    let search = if option("--search").as_deref() == Some("exhaustive") {
        Search::Exhaustive
    } else {
        tracer.config().search
    };
    let measure = match option("--measure").as_deref() {
        Some("proximity") => RouteMeasure::Proximity,
        Some("rollout") => RouteMeasure::Rollout,
        _ => RouteMeasure::Written,
    };
    let proximity = measure == RouteMeasure::Proximity;
    let tracer =
        tracer.with(StreamConfig { pruned: Some(pruned), search, proximity, ..StreamConfig::default() });
    let depth = option("--depth").map(|depth| depth.parse()).transpose()?;
    println!(
        "| prompt | answer before | drop without the route | median of {n_controls} controls | route alone | routes, s |"
    );
    println!("|---|---|---|---|---|---|");
    let mut rows = Vec::new();
    for seed in 5000..5000 + n_prompts {
        let task = RulerConfig { task: Task::NiahMultikey1, n_tokens, seed, depth, ..RulerConfig::default() };
        let row = prompt(&tracer, &task, measure, n_controls)?;
        let Row { before, route, control, alone, seconds } = row;
        let alone = if alone { "kept" } else { "lost" };
        println!("| {seed} | {before:.3} | {route:.3} | {control:.4} | {alone} | {seconds:.2} |");
        rows.push(row);
    }
    // A control that does not make the answer less likely counts as smaller than any drop.
    let passed = rows.iter().filter(|row| row.route > 0.0 && row.route >= 10.0 * row.control).count();
    let alone = rows.iter().filter(|row| row.alone).count();
    println!(
        "\ndrop at least 10 times the median control: {passed} of {}; answer kept by the route alone: {alone}",
        rows.len()
    );
    Ok(())
}

fn prompt(
    tracer: &Tracer,
    task: &RulerConfig,
    measure: RouteMeasure,
    n_controls: usize,
) -> Result<Row, Box<dyn Error>> {
    let prompt = tracer.prompt(task)?;
    let text = format!("{}{}", prompt.text, prompt.answer);
    let trace = tracer.trace(&text)?;
    let span = |bytes| Ok::<Span, streamtrace::Error>(trace.covering(bytes)?.span);
    let (needle, question, answer) = (
        span(prompt.needles[0].clone())?,
        span(prompt.question.clone())?,
        span(prompt.text.len()..text.len())?,
    );
    let start = Instant::now();
    let routes = trace.routes_with(needle, answer.predictors(), measure)?;
    let seconds = start.elapsed().as_secs_f64();
    let mut interventions =
        vec![routes.intervention(), routes.alone(&trace, question.start..trace.n_tokens())];
    interventions.extend(routes.controls(&trace, n_controls, task.seed)?);
    let effects = tracer.knock_out(&trace, &interventions, answer)?;
    let control = CausalTest::of_effects(&effects[0], &effects[2..], "").control();
    Ok(Row {
        before: effects[0].before(),
        route: effects[0].drop(),
        control,
        alone: effects[1].survives(),
        seconds,
    })
}
