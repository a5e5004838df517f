//! The command line: `streamtrace trace | compare | map | overview | show | anchors | routes | knock-out | ruler | bench |
//! serve`.
//!
//! Exit codes: 0 done; 1 the run failed, with a sentence on standard error; 2 the arguments make no sense.

mod args;
mod bench;
mod explain;
mod ruler;

use std::{
    fmt,
    io::{self, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Args, Parser, Subcommand};
use serde_json::json;
use streamtrace::{Error, Trace, engine::serve::serve};

use args::ModelArgs;
use bench::BenchArgs;
use explain::{AnchorsArgs, KnockOutArgs, RoutesArgs};
use ruler::RulerArgs;

/// Keeps the memory of large activations, which the system's allocator hands back and faults in again chunk by chunk.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What did a language model look at over a very long prompt?
///
/// Exit codes: 0 done; 1 the run failed, with a sentence on standard error; 2 the arguments make no sense.
#[derive(Parser)]
#[command(version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Trace a prompt and write what was attended to into a file
    Trace(RunArgs),
    /// Trace a prompt, run it densely too, and say how faithful the trace is
    Compare(RunArgs),
    /// Draw one head's attention map
    Map {
        trace: PathBuf,
        #[arg(long)]
        layer: usize,
        #[arg(long)]
        head: usize,
        /// The picture to write: .svg or .png
        #[arg(long)]
        out: PathBuf,
    },
    /// Draw all heads as small multiples
    Overview {
        trace: PathBuf,
        /// The picture to write: .svg or .png
        #[arg(long)]
        out: PathBuf,
    },
    /// Say what a trace holds
    Show {
        trace: PathBuf,
        /// One JSON object on standard output
        #[arg(long)]
        json: bool,
    },
    /// Name the sentences that later ones keep coming back to
    Anchors(AnchorsArgs),
    /// Show which attention carries something from one place of a traced prompt to another
    Routes(RoutesArgs),
    /// Run a traced prompt without a route, with nothing but it, and without random ones, and say what that changes
    KnockOut(KnockOutArgs),
    /// Ask for needles in haystacks of known answer, and count how often the search keeps what the answer needs
    Ruler(RulerArgs),
    /// Time each stage of a layer on the GPU at hand, with random weights
    Bench(BenchArgs),
    /// Answer a notebook over standard input and output
    Serve,
}

#[derive(Args)]
struct RunArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// The prompt
    #[arg(long, required_unless_present = "prompt_file", conflicts_with = "prompt_file")]
    prompt: Option<String>,
    /// A file with the prompt; - for standard input
    #[arg(long)]
    prompt_file: Option<PathBuf>,
    /// Where to write the trace
    #[arg(long)]
    out: Option<PathBuf>,
    /// One JSON object on standard output
    #[arg(long)]
    json: bool,
}

impl RunArgs {
    fn prompt(&self) -> Result<String, Error> {
        let Some(path) = &self.prompt_file else {
            return Ok(self.prompt.clone().unwrap_or_default());
        };
        let read = match path.as_os_str() == "-" {
            true => std::io::read_to_string(std::io::stdin()),
            false => std::fs::read_to_string(path),
        };
        read.map_err(Error::io("read the prompt", path))
    }

    fn run(&self, compare: bool) -> Result<(), Error> {
        self.out.as_deref().map_or(Ok(()), writable)?;
        let tracer = self.model.tracer()?;
        let mut trace = tracer.trace(&self.prompt()?)?;
        if compare {
            trace = tracer.compare(&trace)?;
        }
        if let Some(out) = &self.out {
            trace.save(out)?;
        }
        print_trace(&trace, self.json)
    }
}

/// A folder that cannot be written is found before a run that may take long.
fn writable(file: &Path) -> Result<(), Error> {
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    tempfile::tempfile_in(folder).map(drop).map_err(Error::io("write", file))
}

fn print_trace(trace: &Trace, as_json: bool) -> Result<(), Error> {
    match as_json {
        true => print(summary_json(trace)),
        false => print(trace),
    }
}

/// One line, or some, on standard output.
fn print(text: impl fmt::Display) -> Result<(), Error> {
    let mut out = io::stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        // Whoever reads has read enough.
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written.map_err(Error::io("write", Path::new("standard output"))),
    }
}

fn summary_json(trace: &Trace) -> serde_json::Value {
    let summary = trace.summary();
    let mut object = json!({
        "tokens": summary.n_tokens,
        "top_k": summary.config.top_k,
        "pruned": summary.pruned,
        "next_token": summary.next_token,
        "seconds": summary.seconds,
        "peak_memory_bytes": summary.peak_memory_bytes,
        "planned_memory_bytes": summary.planned_memory_bytes,
        "device": summary.device,
    });
    if let Some(fidelity) = &summary.fidelity {
        object["recall"] = json!(fidelity.recall);
        object["same_next_token"] = json!(fidelity.same_next_token);
        object["kl"] = json!(fidelity.kl);
    }
    object
}

fn run(command: &Command) -> Result<(), Error> {
    match command {
        Command::Trace(args) => args.run(false),
        Command::Compare(args) => args.run(true),
        Command::Map { trace, layer, head, out } => Trace::open(trace)?.attention_map(*layer, *head)?.save(out),
        Command::Overview { trace, out } => Trace::open(trace)?.overview()?.save(out),
        Command::Show { trace, json } => print_trace(&Trace::open(trace)?, *json),
        Command::Anchors(args) => args.run(),
        Command::Routes(args) => args.run(),
        Command::KnockOut(args) => args.run(),
        Command::Ruler(args) => args.run(),
        Command::Bench(args) => args.run(),
        Command::Serve => serve(),
    }
}

fn main() -> ExitCode {
    match run(&Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("streamtrace: {error}");
            ExitCode::FAILURE
        }
    }
}
