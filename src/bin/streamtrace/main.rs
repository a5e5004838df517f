//! The command line: `streamtrace trace | compare | smallest-top-k | generate | map | overview | explore | report |
//! edges | show | anchors | routes | knock-out | prompt | ruler | heads | bench | doctor | serve`.
//!
//! Exit codes: 0 done; 1 the run failed, with a sentence on standard error; 2 the arguments make no sense.

mod args;
mod bench;
mod claims;
mod doctor;
mod generate;
mod heads;
mod pictures;
mod prompt;
mod ruler;
mod smallest;

use std::{
    fmt,
    io::{self, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Args, Parser, Subcommand};
use serde_json::json;
use streamtrace::{Error, Trace, trace::CompareConfig};

use args::{Format, ModelArgs, PromptArgs, ServeArgs};
use bench::BenchArgs;
use claims::{AnchorsArgs, KnockOutArgs, RoutesArgs};
use doctor::DoctorArgs;
use generate::GenerateArgs;
use heads::HeadsArgs;
use pictures::{EdgesArgs, ExploreArgs, MapArgs, OverviewArgs, ReportArgs};
use prompt::TaskPromptArgs;
use ruler::RulerArgs;
use smallest::SmallestArgs;

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
    /// Trace a prompt, compare with dense attention, and say how faithful the trace is
    Compare(CompareArgs),
    /// Find the smallest top_k that preserves what dense attention does
    SmallestTopK(SmallestArgs),
    /// Write after a prompt, attending to what the search keeps
    Generate(GenerateArgs),
    /// Draw one head's attention map
    Map(MapArgs),
    /// Draw all heads as small multiples
    Overview(OverviewArgs),
    /// Write a page to look into a trace: all heads, maps, blocks, tokens
    Explore(ExploreArgs),
    /// Write what a trace says of its run, with its figures, as one page
    Report(ReportArgs),
    /// Write attention as a table: one row for each kept block, or for each pair of sentences
    Edges(EdgesArgs),
    /// Say what a trace holds
    Show(ShowArgs),
    /// Name the sentences that later ones keep coming back to
    Anchors(AnchorsArgs),
    /// Show which attention carries something from one place of a traced prompt to another
    Routes(RoutesArgs),
    /// Run a traced prompt without a route, with nothing but it, and without random ones, and say what that changes
    KnockOut(KnockOutArgs),
    /// Write a prompt of known answer
    Prompt(TaskPromptArgs),
    /// Ask for needles in haystacks of known answer, and count how often the search keeps what the answer needs
    Ruler(RulerArgs),
    /// Rank the heads that copy needles into answers
    Heads(HeadsArgs),
    /// Time each stage of a layer on the GPU at hand, with random weights
    Bench(BenchArgs),
    /// Say what of that which notebooks and GPUs need is here, and what to do about the rest; exit code 1 if notebooks miss
    /// something
    Doctor(DoctorArgs),
    /// Answer a notebook over standard input and output, here or through ssh
    Serve(ServeArgs),
}

#[derive(Args)]
struct RunArgs {
    /// The file to write, packed if the name ends in .gz; compare draws the recall of each head if it is .svg or .png
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Write these layers alone, such as 3,4
    #[arg(long, value_delimiter = ',', requires = "out")]
    layers: Option<Vec<usize>>,
    #[command(flatten)]
    format: Format,
    #[command(flatten)]
    prompt: PromptArgs,
    #[command(flatten)]
    model: ModelArgs,
}

impl RunArgs {
    fn run(&self, compare: Option<&CompareConfig>) -> Result<(), Error> {
        self.out.as_deref().map_or(Ok(()), writable)?;
        let (prompt, tracer) = self.prompt.with_tracer(&self.model)?;
        let layers = self.layers.as_ref().map(|layers| tracer.model().chosen(layers)).transpose()?;
        let mut trace = tracer.trace(&prompt)?;
        if let Some(what) = compare {
            trace = tracer.compare_with(&trace, what)?;
        }
        match &self.out {
            Some(out) if compare.is_some() && is_figure(out) => trace.recall_map()?.save(out)?,
            Some(out) => layers.map_or(Ok(trace.clone()), |layers| trace.of_layers(&layers))?.save(out)?,
            None => {}
        }
        self.format.print(summary_json(&trace), &trace)
    }
}

#[derive(Args)]
struct ShowArgs {
    /// The trace to read
    trace: PathBuf,
    #[command(flatten)]
    format: Format,
}

impl ShowArgs {
    fn run(&self) -> Result<(), Error> {
        let trace = Trace::open(&self.trace)?;
        self.format.print(summary_json(&trace), &trace)
    }
}

#[derive(Args)]
struct CompareArgs {
    /// Measure recall on about so many rows of the sparse run alone: time O(rows · T), and no next token to compare
    #[arg(long)]
    rows: Option<usize>,
    /// Compare how likely this text is after the prompt, too
    #[arg(long, value_name = "TEXT")]
    answer: Option<String>,
    #[command(flatten)]
    run: RunArgs,
}

/// Whether a file is to hold a picture, not a trace.
fn is_figure(file: &Path) -> bool {
    file.extension()
        .is_some_and(|ending| ending.eq_ignore_ascii_case("svg") || ending.eq_ignore_ascii_case("png"))
}

/// A folder that cannot be written is found before a run that may take long.
fn writable(file: &Path) -> Result<(), Error> {
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    tempfile::tempfile_in(folder).map(drop).map_err(Error::io("write", file))
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
        "keys_read_per_query_block": summary.keys_read_per_query_block,
        "next_token": summary.next_token,
        "seconds": summary.seconds,
        "peak_memory_bytes": summary.peak_memory_bytes,
        "planned_memory_bytes": summary.planned_memory_bytes,
        "device": summary.device,
    });
    if let Some(fidelity) = &summary.fidelity {
        let fidelity = json!(fidelity);
        for (name, value) in fidelity.as_object().into_iter().flatten() {
            object[name] = value.clone();
        }
    }
    object
}

fn run(command: &Command) -> Result<(), Error> {
    match command {
        Command::Trace(args) => args.run(None),
        Command::Compare(CompareArgs { run, rows, answer }) => {
            run.run(Some(&CompareConfig { rows: *rows, answer: answer.clone() }))
        }
        Command::SmallestTopK(args) => args.run(),
        Command::Generate(args) => args.run(),
        Command::Map(args) => args.run(),
        Command::Overview(args) => args.run(),
        Command::Explore(args) => args.run(),
        Command::Report(args) => args.run(),
        Command::Edges(args) => args.run(),
        Command::Show(args) => args.run(),
        Command::Anchors(args) => args.run(),
        Command::Routes(args) => args.run(),
        Command::KnockOut(args) => args.run(),
        Command::Prompt(args) => args.run(),
        Command::Ruler(args) => args.run(),
        Command::Heads(args) => args.run(),
        Command::Bench(args) => args.run(),
        Command::Doctor(args) => args.run(),
        Command::Serve(args) => args.run(),
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

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn every_argument_of_every_verb_is_explained() {
        Cli::command().debug_assert();
        for verb in Cli::command().get_subcommands() {
            let silent = verb.get_arguments().filter(|argument| argument.get_help().is_none());
            let silent: Vec<_> = silent.map(|argument| argument.get_id().as_str()).collect();
            assert!(verb.get_about().is_some() && silent.is_empty(), "{}: {silent:?}", verb.get_name());
        }
    }

    /// Settings that the published search changes are left out unless they are given; what help says of them is true.
    #[test]
    fn help_names_the_defaults() {
        let verb = Cli::command().find_subcommand("trace").expect("a verb").clone();
        let help = |id: &str| {
            verb.get_arguments()
                .find(|a| a.get_id() == id)
                .and_then(|a| a.get_help())
                .map(ToString::to_string)
        };
        let default = streamtrace::StreamConfig::default();
        for (id, value) in [
            ("beam", default.beam.to_string()),
            ("split", default.split.to_string()),
            ("rescore", default.rescore.to_string()),
            ("exact_queries", default.exact_queries.to_string()),
        ] {
            assert!(help(id).expect(id).contains(&format!("{value} if left out")), "{id}: {:?}", help(id));
        }
    }
}
