//! Do memory and results stay the same over many traces in one engine?
//! `cargo bench --features engine --bench soak`
//!
//! Traces prompts of five lengths up to `--tokens`, shuffled in each round, after two rounds to warm up.
//! Prints the slope of each round's lowest memory, and the number of traces that differ from the first of
//! their prompt: in any bit on a CPU, in the kept blocks on a GPU. Options: `-- --traces 200 --tokens 8192`
//! (at least 2000).

mod common;

use std::error::Error;

use streamtrace::{
    Trace,
    tasks::{RulerConfig, Task},
};

use common::{model, option_or};

/// As in the binary.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const LENGTHS: usize = 5;
const WARM_UP: usize = 2 * LENGTHS;

fn main() -> Result<(), Box<dyn Error>> {
    let tracer = model()?;
    let (n_traces, longest): (usize, usize) = (option_or("--traces", 200)?, option_or("--tokens", 8192)?);
    // The shortest prompt is shorter than a chunk, and its length is odd.
    let lengths: [usize; LENGTHS] = [longest, longest / 2, longest / 3, longest / 7, longest / 20];
    let task = |n_tokens| RulerConfig { task: Task::NiahSingle2, n_tokens, ..RulerConfig::default() };
    let prompts = lengths.iter().map(|&n| tracer.prompt(&task(n))).collect::<Result<Vec<_>, _>>()?;
    let (mut first, mut held, mut n_different) = ([const { None }; LENGTHS], Vec::new(), 0);
    let (mut random, mut order): (_, Vec<usize>) = (fastrand::Rng::with_seed(0), (0..LENGTHS).collect());
    for i in 0..n_traces + WARM_UP {
        if i % LENGTHS == 0 {
            random.shuffle(&mut order);
        }
        let which = order[i % LENGTHS];
        let trace = tracer.trace(&prompts[which].text)?;
        match &first[which] {
            None => first[which] = Some(trace),
            Some(first) if is_same(first, &trace, tracer.device() == "cpu")? => {}
            Some(_) => n_different += 1,
        }
        if i >= WARM_UP {
            held.push(resident()?);
        }
    }
    let (least, most) = (held.iter().min().unwrap_or(&0), held.iter().max().unwrap_or(&0));
    // The other readings of a round depend on how much memory the allocator still keeps after the longest
    // prompt.
    let rounds: Vec<u64> =
        held.chunks_exact(LENGTHS).filter_map(|round| round.iter().min().copied()).collect();
    println!("{n_traces} traces of {} to {longest} tokens on {}", longest / 20, tracer.device());
    println!("memory held: {least} to {most} kB, slope {:.1} kB a trace", slope(&rounds) / LENGTHS as f64);
    println!("different from the first of their prompt: {n_different}");
    Ok(())
}

/// Returns whether two traces keep the same blocks and, if `to_the_bit`, record the same numbers.
fn is_same(a: &Trace, b: &Trace, to_the_bit: bool) -> Result<bool, streamtrace::Error> {
    for layer in 0..a.n_layers() {
        let records = || {
            Ok::<_, streamtrace::Error>(
                a.residual(layer)? == b.residual(layer)? && a.masses(layer)? == b.masses(layer)?,
            )
        };
        if a.mask(layer)? != b.mask(layer)? || to_the_bit && !records()? {
            return Ok(false);
        }
        for head in 0..if to_the_bit { a.n_heads() } else { 0 } {
            if a.head(layer, head)? != b.head(layer, head)?
                || a.vertical(layer, head)? != b.vertical(layer, head)?
            {
                return Ok(false);
            }
        }
    }
    Ok(!to_the_bit || a.logits()? == b.logits()?)
}

/// Returns the kilobytes of memory that this process holds, without mapped files.
fn resident() -> Result<u64, Box<dyn Error>> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"))
        .ok_or("no RssAnon in /proc/self/status")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

/// Returns the slope of the least-squares line through the readings.
fn slope(held: &[u64]) -> f64 {
    let n = held.len() as f64;
    let (x, y) = ((n - 1.0) / 2.0, held.iter().sum::<u64>() as f64 / n);
    let covariance: f64 = held.iter().enumerate().map(|(i, &kb)| (i as f64 - x) * (kb as f64 - y)).sum();
    covariance / (0..held.len()).map(|i| (i as f64 - x).powi(2)).sum::<f64>()
}
