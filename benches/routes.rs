use std::{error::Error, path::Path, time::Instant};

use streamtrace::{
    DeviceChoice, LoadOptions, Search, Span, StreamConfig, Tracer,
    analysis::{RouteConfig, RouteMeasure},
    tasks::{RulerConfig, Task},
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> Result<(), Box<dyn Error>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let options = LoadOptions { model: root.join("models/needle-6m"), device: DeviceChoice::Cpu, memory: None };
    let tracer = Tracer::load_with(options)?;
    let args: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    let n: u64 = args[1].parse()?;
    let tokens: usize = args[2].parse()?;
    let mut config = StreamConfig { pruned: Some(0.95), ..Default::default() };
    if args[0] == "exhaustive" {
        config.search = Search::Exhaustive;
    }
    let tracer = tracer.with(config);
    for seed in 0..n {
        let prompt = tracer.prompt(&RulerConfig {
            task: Task::NiahMultikey1,
            n_tokens: tokens,
            seed: 5000 + seed,
            ..Default::default()
        })?;
        let t0 = Instant::now();
        let text = format!("{}{}", prompt.text, prompt.answer);
        let trace = tracer.trace(&text)?;
        let t1 = Instant::now();
        let answer = trace.covering(prompt.text.len()..text.len())?.span;
        let question = trace.covering(prompt.question.clone())?.span;
        let needle = trace.covering(prompt.needles[0].clone())?.span;
        let to = Span { start: answer.start - 1, end: answer.end - 1 };
        for measure in [RouteMeasure::Written, RouteMeasure::Rollout] {
            let t2 = Instant::now();
            let routes = trace.routes_with(needle, to, RouteConfig { measure, ..Default::default() })?;
            let t3 = Instant::now();
            let mut all =
                vec![routes.intervention(), routes.alone(&trace, Span { start: question.start, end: trace.n_tokens() })];
            all.extend(routes.controls(&trace, 20, seed)?);
            let effects = tracer.knock_out(&trace, &all, answer)?;
            let mut drops: Vec<f64> = effects[2..].iter().map(|e| e.drop()).collect();
            drops.sort_by(f64::total_cmp);
            println!(
                "{seed} {measure:?}: base {:.3} route drop {:.3}, alone {:.3} retained {} controls {:.4} max {:.3} first {} | trace {:.1}s routes {:.2}s knock {:.1}s hidden {:.2} edges {} by layer {:.2?}",
                effects[0].before(),
                effects[0].drop(),
                effects[1].drop(),
                effects[1].retained(),
                drops[10],
                drops[19],
                all[0].first_query(),
                (t1 - t0).as_secs_f64(),
                (t3 - t2).as_secs_f64(),
                t3.elapsed().as_secs_f64(),
                routes.hidden,
                routes.n_edges,
                routes.by_layer
            );
            if seed < 2 {
                for e in &routes.edges[..12] {
                    println!("   {}.{} q {} k {} {:.4}", e.layer, e.head, e.queries, e.keys, e.flow);
                }
                println!("  needle {needle} to {to} question {question}");
            }
        }
    }
    Ok(())
}
