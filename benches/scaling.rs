//! Measures how a trace's time and memory grow with the prompt, on the CPU:
//! `cargo bench --features engine --bench scaling`.
//!
//! Prints a table with the exponent of the time, and draws the curve into `benches/scaling.svg`. The lengths
//! are traced in turn, three times each, so that the machine's other work affects all of them; medians are
//! shown. At one length the published search runs too.

use std::{error::Error, path::Path};

use plotters::prelude::*;
use streamtrace::{
    DeviceChoice, Estimate, LoadOptions, StreamConfig, Tracer,
    tasks::{RulerConfig, Task},
    trace::Summary,
};

/// As in the binary.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const LENGTHS: [usize; 5] = [8_192, 16_384, 32_768, 65_536, 131_072];
const ROUNDS: usize = 3;

/// Prompt length at which the search is compared with the published one.
const COMPARED: usize = 2;

fn main() -> Result<(), Box<dyn Error>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let options = LoadOptions {
        model: root.join("models/needle-6m"),
        device: DeviceChoice::Cpu,
        ..LoadOptions::default()
    };
    let tracer = Tracer::load_with(options)?;
    let published = tracer.with(StreamConfig::default().published(Estimate::Middle));
    let (mut runs, mut ratios) = (vec![Vec::new(); LENGTHS.len()], Vec::new());
    for round in 0..ROUNDS {
        for (&n_tokens, runs) in LENGTHS.iter().zip(&mut runs) {
            let task = RulerConfig {
                task: Task::NiahMultikey1,
                n_tokens,
                seed: round as u64,
                ..RulerConfig::default()
            };
            let prompt = tracer.prompt(&task)?;
            let summary = tracer.trace(&prompt.text)?.summary().clone();
            if n_tokens == LENGTHS[COMPARED] {
                ratios.push(summary.seconds.search / published.trace(&prompt.text)?.summary().seconds.search);
            }
            runs.push(summary);
        }
    }
    let medians: Vec<Summary> = runs.into_iter().map(median).collect();
    println!("| tokens | seconds | search | attention | peak memory MB | planned MB | pruned |");
    println!("|---|---|---|---|---|---|---|");
    for s in &medians {
        let [peak, planned] = [s.peak_memory_bytes, s.planned_memory_bytes].map(|bytes| bytes / 1_000_000);
        let seconds = s.seconds;
        println!(
            "| {} | {:.2} | {:.2} | {:.2} | {peak} | {planned} | {:.3} |",
            s.n_tokens, seconds.total, seconds.search, seconds.attention, s.pruned
        );
    }
    let time = exponent(medians.iter().map(|s| (s.n_tokens as f64, s.seconds.total)));
    let search = exponent(medians.iter().map(|s| (s.n_tokens as f64, s.seconds.search)));
    let memory = exponent(medians.iter().map(|s| (s.n_tokens as f64, s.peak_memory_bytes as f64)));
    println!(
        "\ntime grows with T^{time:.2}, that of the search with T^{search:.2}, memory with T^{memory:.2}"
    );
    ratios.sort_by(f64::total_cmp);
    let (ratio, n_tokens) = (ratios[ratios.len() / 2], LENGTHS[COMPARED]);
    println!(
        "at {n_tokens} tokens the search takes {ratio:.2} times as long as the published one with middle keys"
    );
    draw(&root.join("benches/scaling.svg"), &medians, time)
}

/// Returns the run of median time, with the lowest of the memory peaks: in the first round, no longer prompt
/// has left memory behind.
fn median(mut runs: Vec<Summary>) -> Summary {
    runs.sort_by(|a, b| a.seconds.total.total_cmp(&b.seconds.total));
    let peak_memory_bytes = runs.iter().map(|s| s.peak_memory_bytes).min().unwrap_or(0);
    Summary { peak_memory_bytes, ..runs.swap_remove(runs.len() / 2) }
}

/// Returns the slope of the least-squares line through the logarithms.
fn exponent(points: impl Iterator<Item = (f64, f64)>) -> f64 {
    let points: Vec<(f64, f64)> = points.map(|(x, y)| (x.ln(), y.ln())).collect();
    let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / points.len() as f64;
    let (x, y) = (mean(|p| p.0), mean(|p| p.1));
    let covariance: f64 = points.iter().map(|p| (p.0 - x) * (p.1 - y)).sum();
    covariance / points.iter().map(|p| (p.0 - x).powi(2)).sum::<f64>()
}

fn draw(path: &Path, medians: &[Summary], exponent: f64) -> Result<(), Box<dyn Error>> {
    let root = SVGBackend::new(path, (640, 420)).into_drawing_area();
    root.fill(&WHITE)?;
    let longest = medians.iter().map(|s| s.seconds.total).fold(0.0, f64::max);
    let mut chart = ChartBuilder::on(&root)
        .caption(
            format!("One trace of needle-6m on the CPU: time grows with T^{exponent:.2}"),
            ("sans-serif", 18),
        )
        .margin(16)
        .x_label_area_size(44)
        .y_label_area_size(56)
        .build_cartesian_2d(
            (LENGTHS[0] as f64 * 0.8..LENGTHS[4] as f64 * 1.2)
                .log_scale()
                .with_key_points(LENGTHS.map(|n| n as f64).into()),
            (0.3..longest * 1.5).log_scale().with_key_points(vec![1.0, 3.0, 10.0, 30.0, 100.0]),
        )?;
    let thousands = |tokens: &f64| format!("{:.0}k", tokens / 1024.0);
    chart
        .configure_mesh()
        .x_desc("tokens")
        .y_desc("seconds")
        .x_label_formatter(&thousands)
        .y_label_formatter(&|seconds| format!("{seconds:.0}"))
        .light_line_style(BLACK.mix(0.06))
        .draw()?;
    type Stage = (&'static str, RGBColor, fn(&Summary) -> f64);
    let stages: [Stage; 3] = [
        ("total", RGBColor(0, 0, 0), |s| s.seconds.total),
        ("search", RGBColor(0, 114, 178), |s| s.seconds.search),
        ("attention", RGBColor(213, 94, 0), |s| s.seconds.attention),
    ];
    for (name, color, of) in stages {
        let points: Vec<(f64, f64)> = medians.iter().map(|s| (s.n_tokens as f64, of(s))).collect();
        chart.draw_series(points.iter().map(|&point| Circle::new(point, 4, color.filled())))?;
        let line = chart.draw_series([PathElement::new(points, color.stroke_width(2))])?;
        line.label(name).legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], color.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.9))
        .border_style(BLACK.mix(0.2))
        .draw()?;
    root.present()?;
    Ok(())
}
