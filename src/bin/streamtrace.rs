//! The command line: `streamtrace trace | compare | map | show | serve`.
//!
//! Exit codes: 0 done; 1 the run failed, with a sentence on standard error; 2 the arguments make no sense.

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand, ValueEnum};
use serde_json::json;
use streamtrace::{
    DeviceChoice, Error, Estimate, LoadOptions, Search, StreamConfig, Trace, Tracer, engine::serve::serve, memory::parse_bytes,
};

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
    /// Answer a notebook over standard input and output
    Serve,
}

#[derive(Args)]
struct RunArgs {
    /// A Hugging Face model folder
    #[arg(long)]
    model: PathBuf,
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
    #[arg(long, value_enum, default_value = "auto")]
    device: DeviceArg,
    /// Most memory to take, such as 8GB
    #[arg(long, value_parser = parse_bytes)]
    memory: Option<u64>,
    #[command(flatten)]
    search: SearchArgs,
}

/// What to keep
#[derive(Args)]
struct SearchArgs {
    /// Key blocks kept for each head and query block
    #[arg(long, conflicts_with = "pruned")]
    top_k: Option<usize>,
    /// Choose top_k to prune at least this share of the causal pairs, such as 0.95
    #[arg(long)]
    pruned: Option<f64>,
    /// Tokens in a query block
    #[arg(long)]
    block_size_q: Option<usize>,
    /// Tokens in a key block
    #[arg(long)]
    block_size_k: Option<usize>,
    /// Key blocks at the start that are always kept
    #[arg(long)]
    sink_blocks: Option<usize>,
    /// Key blocks before the end of a query block that are always kept
    #[arg(long)]
    local_blocks: Option<usize>,
    /// How the largest product in a range of keys is estimated
    #[arg(long, value_enum, conflicts_with = "exhaustive")]
    estimate: Option<EstimateArg>,
    /// Ranges kept until the last round, in budgets
    #[arg(long)]
    beam: Option<usize>,
    /// Read every key: exact top-k blocks
    #[arg(long)]
    exhaustive: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum DeviceArg {
    Auto,
    Cpu,
    Cuda,
}

#[derive(Clone, Copy, ValueEnum)]
enum EstimateArg {
    First,
    Middle,
    Mean,
    MeanSpread,
}

impl From<DeviceArg> for DeviceChoice {
    fn from(device: DeviceArg) -> Self {
        match device {
            DeviceArg::Auto => DeviceChoice::Auto,
            DeviceArg::Cpu => DeviceChoice::Cpu,
            DeviceArg::Cuda => DeviceChoice::Cuda,
        }
    }
}

impl From<EstimateArg> for Estimate {
    fn from(estimate: EstimateArg) -> Self {
        match estimate {
            EstimateArg::First => Estimate::First,
            EstimateArg::Middle => Estimate::Middle,
            EstimateArg::Mean => Estimate::Mean,
            EstimateArg::MeanSpread => Estimate::MeanSpread,
        }
    }
}

impl SearchArgs {
    fn config(&self) -> StreamConfig {
        let default = StreamConfig::default();
        let search = match (self.exhaustive, self.estimate) {
            (true, _) => Search::Exhaustive,
            (false, Some(estimate)) => Search::Hierarchical(estimate.into()),
            (false, None) => default.search,
        };
        StreamConfig {
            block_size_q: self.block_size_q.unwrap_or(default.block_size_q),
            block_size_k: self.block_size_k.unwrap_or(default.block_size_k),
            top_k: self.top_k.unwrap_or(default.top_k),
            pruned: self.pruned,
            sink_blocks: self.sink_blocks.unwrap_or(default.sink_blocks),
            local_blocks: self.local_blocks.unwrap_or(default.local_blocks),
            search,
            beam: self.beam.unwrap_or(default.beam),
            focus: None,
        }
    }
}

impl RunArgs {
    fn tracer(&self) -> Result<Tracer, Error> {
        let options = LoadOptions { model: self.model.clone(), device: self.device.into(), memory: self.memory };
        Ok(Tracer::load_with(options)?.with(self.search.config()))
    }

    fn prompt(&self) -> Result<String, Error> {
        let Some(path) = &self.prompt_file else {
            return Ok(self.prompt.clone().unwrap_or_default());
        };
        let read = match path.as_os_str() == "-" {
            true => std::io::read_to_string(std::io::stdin()),
            false => std::fs::read_to_string(path),
        };
        read.map_err(|e| Error::File { action: "read the prompt".into(), path: path.display().to_string(), reason: e.to_string() })
    }

    fn run(&self, compare: bool) -> Result<(), Error> {
        let tracer = self.tracer()?;
        let mut trace = tracer.trace(&self.prompt()?)?;
        if compare {
            trace = tracer.compare(&trace)?;
        }
        if let Some(out) = &self.out {
            trace.save(out)?;
        }
        print_trace(&trace, self.json);
        Ok(())
    }
}

fn print_trace(trace: &Trace, as_json: bool) {
    match as_json {
        true => println!("{}", summary_json(trace)),
        false => println!("{trace}"),
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
        Command::Show { trace, json } => {
            print_trace(&Trace::open(trace)?, *json);
            Ok(())
        }
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
