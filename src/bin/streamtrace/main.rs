//! The command line: `streamtrace demo | trace | compare | smallest-top-k | generate | read | attention-map |
//! readers | overview | explore | report | edges | show | thought-anchors | routes | test-routes | batch | prompt |
//! ruler | retrieval-heads | bench | doctor | serve`.
//!
//! Exit codes: 0 done; 1 the run failed, with a sentence on standard error; 2 the arguments make no sense.

mod args;
mod at_once;
mod batch;
mod bench;
mod claims;
mod demo;
mod doctor;
mod generate;
mod heads;
mod open;
mod output;
mod pictures;
mod prompt;
mod prompt_args;
mod readers;
mod ruler;
mod smallest;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use streamtrace::{Error, Trace, trace::CompareConfig};

use args::{ModelArgs, ServeArgs};
use batch::BatchArgs;
use bench::BenchArgs;
use claims::{AnchorsArgs, RoutesArgs, TestRoutesArgs};
use demo::DemoArgs;
use doctor::DoctorArgs;
use generate::GenerateArgs;
use heads::RetrievalHeadsArgs;
use output::{Format, check_writable, wrote};
use pictures::{AttentionMapArgs, EdgesArgs, ExploreArgs, OverviewArgs, ReportArgs};
use prompt::TaskPromptArgs;
use prompt_args::PromptArgs;
use readers::{ReadArgs, ReadersArgs};
use ruler::RulerArgs;
use smallest::SmallestArgs;

/// Keeps the memory of large activations, which the system's allocator hands back and faults in again chunk
/// by chunk.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The verbs by what one wants, as the help lists them.
const GROUPS: [(&str, &[&str]); 5] = [
    ("Run a model", &["demo", "trace", "compare", "generate", "smallest-top-k"]),
    ("Look", &["read", "explore", "overview", "attention-map", "report", "show"]),
    ("Ask", &["readers", "thought-anchors", "routes", "test-routes", "retrieval-heads", "edges"]),
    ("Measure", &["batch", "prompt", "ruler", "bench"]),
    ("Set up", &["doctor", "serve"]),
];

const EXAMPLES: &str = "\
Examples:
  streamtrace demo --open
  streamtrace trace --model Qwen/Qwen3-0.6B --prompt-file my.txt --out my.trace
  streamtrace read my.trace --out read.svg
  streamtrace explore my.trace --out my.html

`streamtrace VERB -h` lists a verb's daily options, `--help` all of them. Progress goes to standard error: one line in
a terminal, else one every 10 seconds, or as the variable STREAMTRACE_PROGRESS_SECONDS says.
Exit codes: 0 done; 1 the run failed, with a sentence on standard error; 2 the arguments make no sense.";

/// What did a language model look at over a very long prompt?
#[derive(Parser)]
#[command(version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Trace 16,000 tokens with a small model that is included, and make a page of it
    Demo(DemoArgs),
    /// Run a prompt and save which tokens each head looked at
    Trace(RunArgs),
    /// Trace a prompt and measure how faithful the trace is to dense attention
    Compare(CompareArgs),
    /// Find the fewest key blocks at which the model still gives the same answer
    SmallestTopK(SmallestArgs),
    /// Continue a prompt, with pruned attention
    Generate(GenerateArgs),
    /// Draw one head's attention map
    #[command(visible_alias = "map")]
    AttentionMap(AttentionMapArgs),
    /// Show what a token read over the whole prompt: the passages in text, and the heads
    Read(ReadArgs),
    /// Rank the heads by their attention on a text
    Readers(ReadersArgs),
    /// Draw all heads as small multiples
    Overview(OverviewArgs),
    /// Make an interactive HTML page of a trace; it opens offline
    Explore(ExploreArgs),
    /// Make a report to share: settings, measurements and figures in one file
    Report(ReportArgs),
    /// Write the attention as a table: a row for each kept block or pair of sentences
    Edges(EdgesArgs),
    /// Summarize a trace: the run, its settings, its result
    Show(ShowArgs),
    /// Find thought anchors: sentences of a chain of thought that later ones keep looking at
    #[command(visible_alias = "anchors")]
    ThoughtAnchors(AnchorsArgs),
    /// Trace how a text of the prompt reaches the output: layer by layer, head by head
    Routes(RoutesArgs),
    /// Test a route: block it, keep only it, block random ones; does the answer survive?
    #[command(visible_alias = "knock-out")]
    TestRoutes(TestRoutesArgs),
    /// Trace many prompts, and tell what heads and anchors do on each as tables
    Batch(BatchArgs),
    /// Make a needle-in-a-haystack test prompt (RULER), whose answer is known
    Prompt(TaskPromptArgs),
    /// Measure on RULER's tasks how often pruning keeps the right answer
    Ruler(RulerArgs),
    /// Rank the heads that copy needles into answers
    #[command(visible_alias = "heads")]
    RetrievalHeads(RetrievalHeadsArgs),
    /// Time each stage of a layer on this GPU, with random weights
    Bench(BenchArgs),
    /// Check this machine (Rust, Jupyter, a GPU) and say how to get what is missing
    Doctor(DoctorArgs),
    /// Run as an engine for a notebook elsewhere, over ssh
    Serve(ServeArgs),
}

#[derive(Args)]
struct RunArgs {
    /// Trace file to write, compressed if the name ends in .gz
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Write only these layers, such as 3,4
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
        check_writable(self.out.as_deref())?;
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
        self.format.print(trace.summary(), &trace)?;
        match &self.out {
            Some(out) if is_figure(out) => wrote(out, ""),
            Some(out) => {
                let page = out.with_extension("html");
                wrote(out, &format!("streamtrace explore {} --out {}", out.display(), page.display()));
            }
            None if compare.is_none() && !self.format.json => {
                eprintln!("not kept: --out FILE keeps the trace")
            }
            None => {}
        }
        Ok(())
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
        self.format.print(trace.summary(), &trace)
    }
}

#[derive(Args)]
#[command(mut_arg("out", |out| out.help(COMPARE_OUT)))]
struct CompareArgs {
    /// Measure recall on about this many rows of the sparse run, in O(rows · T); the next token is not
    /// compared
    #[arg(long)]
    rows: Option<usize>,
    /// Compare the next token after this many positions, spread evenly over the prompt; 256 if left out, 0
    /// for none
    #[arg(long, conflicts_with = "rows")]
    positions: Option<usize>,
    /// Tokens that the positions are spread over, such as 2048..8192; all if left out
    #[arg(long, value_name = "TOKENS", value_parser = args::tokens)]
    over: Option<std::ops::Range<usize>>,
    /// Compare how likely this text is after the prompt
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    answer: Option<String>,
    #[command(flatten)]
    run: RunArgs,
}

/// What [`RunArgs`] says of `--out`, and what `compare` draws beside.
const COMPARE_OUT: &str = "Trace file to write, compressed if the name ends in .gz, or the recall of each head as a \
                           picture: .svg or .png";

/// Whether the file's ending is that of a picture.
fn is_figure(file: &Path) -> bool {
    file.extension()
        .is_some_and(|ending| ending.eq_ignore_ascii_case("svg") || ending.eq_ignore_ascii_case("png"))
}

fn run(command: &Command) -> Result<(), Error> {
    match command {
        Command::Demo(args) => args.run(),
        Command::Trace(args) => args.run(None),
        Command::Compare(CompareArgs { run, rows, positions, over, answer }) => {
            let (over, answer) = (over.clone(), answer.clone());
            run.run(Some(&CompareConfig { rows: *rows, positions: *positions, over, answer }))
        }
        Command::SmallestTopK(args) => args.run(),
        Command::Generate(args) => args.run(),
        Command::AttentionMap(args) => args.run(),
        Command::Read(args) => args.run(),
        Command::Readers(args) => args.run(),
        Command::Overview(args) => args.run(),
        Command::Explore(args) => args.run(),
        Command::Report(args) => args.run(),
        Command::Edges(args) => args.run(),
        Command::Show(args) => args.run(),
        Command::ThoughtAnchors(args) => args.run(),
        Command::Routes(args) => args.run(),
        Command::TestRoutes(args) => args.run(),
        Command::Batch(args) => args.run(),
        Command::Prompt(args) => args.run(),
        Command::Ruler(args) => args.run(),
        Command::RetrievalHeads(args) => args.run(),
        Command::Bench(args) => args.run(),
        Command::Doctor(args) => args.run(),
        Command::Serve(args) => args.run(),
    }
}

/// The command line with its verbs in groups.
fn command() -> clap::Command {
    let command = Cli::command();
    let about = |verb: &str| {
        let Some(verb) = command.find_subcommand(verb) else { return String::new() };
        let short: String = verb.get_visible_aliases().map(|short| format!(" [alias: {short}]")).collect();
        format!("{}{short}", verb.get_about().map_or_else(String::new, ToString::to_string))
    };
    let line = |verb: &&str| format!("  {verb:<16} {}\n", about(verb));
    let group = |(name, verbs): &(&str, &[&str])| {
        format!("{name}:\n{}\n", verbs.iter().map(line).collect::<String>())
    };
    let groups: String = GROUPS.iter().map(group).collect();
    let template = format!("{{about}}\n\n{{usage-heading}} {{usage}}\n\n{groups}{EXAMPLES}\n");
    Cli::command().help_template(template)
}

/// Leaves NVLink's multicast out of NCCL, unless the caller has chosen: programs that use it have put whole hosts out
/// of service, and rows are brought to all cards without it.
#[expect(unsafe_code, reason = "variables of this process are set before it has a second thread")]
fn without_multicast() {
    const SETTING: &str = "NCCL_NVLS_ENABLE";
    if std::env::var_os(SETTING).is_none() {
        // SAFETY: called before any thread is started.
        unsafe { std::env::set_var(SETTING, "0") };
    }
}

fn main() -> ExitCode {
    without_multicast();
    let matches = command().get_matches();
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    match run(&cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("streamtrace: {error}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_verb_stands_in_one_group() {
        let verbs = Cli::command();
        let mut verbs: Vec<&str> = verbs.get_subcommands().map(|verb| verb.get_name()).collect();
        let mut grouped: Vec<&str> = GROUPS.iter().flat_map(|(_, verbs)| *verbs).copied().collect();
        verbs.sort_unstable();
        grouped.sort_unstable();
        assert_eq!(verbs, grouped);
        assert!(command().render_help().to_string().contains("  read             Show what a token read"));
    }

    #[test]
    fn every_argument_of_every_verb_is_explained() {
        Cli::command().debug_assert();
        for verb in Cli::command().get_subcommands() {
            let silent = verb.get_arguments().filter(|argument| argument.get_help().is_none());
            let silent: Vec<_> = silent.map(|argument| argument.get_id().as_str()).collect();
            assert!(verb.get_about().is_some() && silent.is_empty(), "{}: {silent:?}", verb.get_name());
        }
    }

    /// Settings that the published search changes are left out unless they are given; help must name the true
    /// defaults.
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
