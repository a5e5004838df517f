//! The arguments that choose a model, a device and a search.

use std::{
    num::NonZeroUsize,
    ops::Range,
    path::{Path, PathBuf},
    process,
    str::FromStr,
};

use clap::{Args, ValueEnum};
use streamtrace::{
    Budget, DeviceChoice, Error, Estimate, Gpus, LoadOptions, Search, StreamConfig, Tracer,
    engine::{
        ranks::{self, Place},
        serve::serve,
    },
    words::numbers::parse_bytes,
};

/// A model. A heading of `--help` covers all arguments below it, so a verb's own arguments come first.
#[derive(Args)]
#[command(next_help_heading = "Model")]
pub struct LoadArgs {
    /// A Hugging Face model folder, a .gguf file, or a name on the hub such as Qwen/Qwen3-0.6B or owner/name:Q8_0
    #[arg(long)]
    model: PathBuf,
    #[command(flatten)]
    place: PlaceArgs,
}

impl LoadArgs {
    /// Loads the model. A process that is not the first of ranks does not return: it works for the first one, and
    /// ends with it.
    pub fn tracer(&self) -> Result<Tracer, Error> {
        if self.place.gpus == Gpus::Ranks {
            let place = Place::from_environment()?;
            if place.rank > 0 {
                ranks::work(&place, false)?;
                process::exit(0);
            }
        }
        Tracer::load_with(self.place.options(&self.model))
    }

    /// Loads the model `n` times, each for its part of the memory.
    fn tracers(&self, n: NonZeroUsize) -> Result<Vec<Tracer>, Error> {
        let first = self.tracer()?;
        if n.get() == 1 {
            return Ok(vec![first]);
        }
        let memory = first.plan(1)?.limit / n.get() as u64;
        drop(first);
        let options = LoadOptions { memory: Some(memory), ..self.place.options(&self.model) };
        (0..n.get()).map(|_| Tracer::load_with(options.clone())).collect()
    }
}

/// A model, and how it searches
#[derive(Args)]
pub struct ModelArgs {
    #[command(flatten)]
    load: LoadArgs,
    #[command(flatten)]
    search: SearchArgs,
}

impl ModelArgs {
    /// Whether this process is one of several ranks.
    pub fn is_of_ranks(&self) -> bool {
        self.load.place.gpus == Gpus::Ranks
    }

    pub fn tracer(&self) -> Result<Tracer, Error> {
        Ok(self.load.tracer()?.with(self.search.config()))
    }

    /// Loads the model `n` times, each for its part of the memory.
    pub fn tracers(&self, n: NonZeroUsize) -> Result<Vec<Tracer>, Error> {
        Ok(self.load.tracers(n)?.into_iter().map(|tracer| tracer.with(self.search.config())).collect())
    }
}

/// Where a model runs
#[derive(Args)]
struct PlaceArgs {
    /// Where the model runs; auto takes a GPU if one works, else the CPU
    #[arg(long, value_enum, default_value = "auto")]
    device: DeviceChoice,
    /// Most memory to use, such as 8GB; all free memory if left out
    #[arg(long, value_name = "AMOUNT", value_parser = parse_bytes)]
    memory: Option<u64>,
    /// Cards that share out the rows of a trace: a number, all, or ranks for one in each process that torchrun, srun
    /// or mpirun has started; auto takes all of this machine where one is too small or slow
    #[arg(long, hide_short_help = true, value_name = "CARDS", default_value = "auto", value_parser = Gpus::from_str)]
    gpus: Gpus,
    /// Run the model as one of this family, such as qwen2, whatever its files say
    #[arg(long = "as", value_name = "FAMILY")]
    family: Option<String>,
}

impl PlaceArgs {
    fn options(&self, model: &Path) -> LoadOptions {
        LoadOptions {
            model: model.into(),
            device: self.device,
            memory: self.memory,
            gpus: self.gpus,
            family: self.family.clone(),
        }
    }
}

#[derive(Args)]
pub struct ServeArgs {
    /// Model to open at the start; the notebook may name another
    #[arg(long)]
    model: Option<PathBuf>,
    #[command(flatten)]
    place: PlaceArgs,
    /// Where the first of several ranks listens, which has started this process
    #[arg(long, hide = true, value_name = "ADDRESS", requires_all = ["rank", "ranks"])]
    join: Option<String>,
    /// Number of this process among them
    #[arg(long, hide = true, default_value_t = 0)]
    rank: usize,
    /// Number of ranks
    #[arg(long, hide = true, default_value_t = 1)]
    ranks: usize,
}

impl ServeArgs {
    pub fn run(&self) -> Result<(), Error> {
        if let Some(address) = self.join.clone() {
            let (rank, n_ranks) = (self.rank, self.ranks);
            return ranks::work(&Place { rank, n_ranks, local_rank: rank, address }, true);
        }
        serve(self.model.as_ref().map(|model| self.place.options(model)))
    }
}

/// The search
#[derive(Args)]
#[command(next_help_heading = "Search")]
struct SearchArgs {
    /// Key blocks that each head may look at, for a block of queries, on average
    #[arg(
        long,
        value_name = "BLOCKS",
        default_value_t = StreamConfig::default().top_k,
        conflicts_with = "pruned"
    )]
    top_k: usize,
    /// Or: skip at least this share of all query-key pairs, such as 0.95; sets the largest top_k that does
    #[arg(long, value_name = "SHARE")]
    pruned: Option<f64>,
    /// How a layer's budget is shared out among its heads; by-head if left out
    #[arg(long, hide_short_help = true, value_enum)]
    budget: Option<Budget>,
    /// Keep as many blocks in each head as bring its recall to this share, such as 0.95
    #[arg(long, hide_short_help = true, value_name = "SHARE", conflicts_with_all = ["top_k", "pruned", "baseline"])]
    recall: Option<f64>,
    /// Queries spread over the prompt for which every key is read, to tell recall and choose budgets
    #[arg(long, hide_short_help = true, value_name = "QUERIES", default_value_t = StreamConfig::default().sample)]
    sample: usize,
    /// Tokens in a query block; 32 if left out, or 16 for up to 12,288 tokens with --pruned or --recall
    #[arg(long, hide_short_help = true, value_name = "TOKENS")]
    block_size_q: Option<usize>,
    /// Tokens in a key block; 8 if left out, or 4 where query blocks have 16
    #[arg(long, hide_short_help = true, value_name = "TOKENS")]
    block_size_k: Option<usize>,
    /// Key blocks at the start that are always kept
    #[arg(long, hide_short_help = true, value_name = "BLOCKS", default_value_t = StreamConfig::default().sink_blocks)]
    sink_blocks: usize,
    /// Key blocks before the end of a query block that are always kept
    #[arg(long, hide_short_help = true, value_name = "BLOCKS", default_value_t = StreamConfig::default().local_blocks)]
    local_blocks: usize,
    /// How the largest query·key in a range of keys is estimated; two-means if left out
    #[arg(long, hide_short_help = true, value_enum, conflicts_with = "exhaustive")]
    estimate: Option<Estimate>,
    /// Smallest number of ranges kept in a round; 64 if left out, 0 for top_k
    #[arg(long, hide_short_help = true, value_name = "RANGES")]
    beam: Option<usize>,
    /// Number of parts that a kept range is split into: 2, 4 or 8; 4 if left out
    #[arg(long, hide_short_help = true, value_name = "PARTS")]
    split: Option<usize>,
    /// Rank the blocks of the last round by their keys; true if left out
    #[arg(long, hide_short_help = true)]
    rescore: Option<bool>,
    /// Read every key for this many last queries, rounded to query blocks; 128 if left out
    #[arg(long, hide_short_help = true, value_name = "QUERIES")]
    exact_queries: Option<usize>,
    /// The search of the paper, for comparison: one key for each range, no beam, ranges halved, no
    /// rescoring, no exact queries
    #[arg(
        long, hide_short_help = true,
        value_name = "ESTIMATE",
        value_enum,
        conflicts_with_all = ["exhaustive", "estimate", "baseline"]
    )]
    published: Option<Estimate>,
    /// Read every key: exact top-k blocks
    #[arg(long, hide_short_help = true)]
    exhaustive: bool,
    /// Attend to all keys while blocks are found: the model's own run, in O(T²) time and O(T) memory
    #[arg(long)]
    exact: bool,
    /// Read no key: sinks and the last blocks, or random ones
    #[arg(long, hide_short_help = true, value_enum, conflicts_with_all = ["exhaustive", "estimate"])]
    baseline: Option<BaselineArg>,
    /// Tokens whose attention is recorded key by key, such as 100..200; the last tokens if left out
    #[arg(long, hide_short_help = true, value_name = "TOKENS", value_parser = tokens)]
    focus: Option<Range<usize>>,
    /// Record L1 proximity, for routes --measure proximity
    #[arg(long, hide_short_help = true)]
    proximity: bool,
    /// Record which experts each token takes, of a model that has experts
    #[arg(long, hide_short_help = true)]
    experts: bool,
}

/// Tokens as `FIRST..END`, the end left out.
pub fn tokens(text: &str) -> Result<Range<usize>, String> {
    let ends = text.split_once("..").and_then(|(start, end)| Some((start.parse().ok()?, end.parse().ok()?)));
    ends.map(|(start, end)| start..end).ok_or("expected the first token and the end, such as 100..200".into())
}

/// The searches that read no key.
#[derive(Clone, Copy, ValueEnum)]
enum BaselineArg {
    Window,
    Random,
}

impl SearchArgs {
    fn config(&self) -> StreamConfig {
        let default = StreamConfig::default();
        let default = self.published.map_or(default.clone(), |estimate| default.published(estimate));
        let search = match (self.baseline, self.estimate) {
            (Some(BaselineArg::Window), _) => Search::Window,
            (Some(BaselineArg::Random), _) => Search::Random { seed: 0 },
            (None, Some(estimate)) => Search::Hierarchical(estimate),
            (None, None) if self.exhaustive => Search::Exhaustive,
            (None, None) => default.search,
        };
        let (block_size_q, block_size_k) = match (self.block_size_q, self.block_size_k) {
            (None, None) => (default.block_size_q, default.block_size_k),
            (q, k) => (q.unwrap_or(32), k.unwrap_or(8)),
        };
        StreamConfig {
            block_size_q,
            block_size_k,
            top_k: self.top_k,
            pruned: self.pruned,
            budget: self.budget.unwrap_or(default.budget),
            recall: self.recall,
            sample: self.sample,
            sink_blocks: self.sink_blocks,
            local_blocks: self.local_blocks,
            search,
            exact: self.exact,
            beam: self.beam.unwrap_or(default.beam),
            split: self.split.unwrap_or(default.split),
            rescore: self.rescore.unwrap_or(default.rescore),
            exact_queries: self.exact_queries.unwrap_or(default.exact_queries),
            focus: self.focus.clone(),
            proximity: self.proximity,
            experts: self.experts,
        }
    }
}
