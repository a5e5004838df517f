//! `streamtrace batch`: many prompts, told as tables.

use std::{path::PathBuf, str::FromStr, sync::mpsc, thread};

use clap::Args;
use serde_json::json;
use streamtrace::{
    Error, Tracer,
    client::{Traced, part_of},
    study::{Prompts, Rows, Shard, Study, Tables, lines::Line},
};

use crate::{
    args::ModelArgs,
    at_once::{AtOnceArgs, on_each},
    output::{Format, table},
};

#[derive(Args)]
pub struct BatchArgs {
    /// A JSON object a line: {"id", "prompt" or "messages", "answer"?, "spans"?: {NAME: TEXT}}
    #[arg(long, value_name = "FILE.jsonl")]
    prompts: PathBuf,
    /// Folder of the tables prompts, heads, spans and anchors, a Parquet file for each prompt in each; what is there
    /// is not run again
    #[arg(long, value_name = "FOLDER")]
    out: PathBuf,
    /// Part of the prompts to run, such as 2/8; /8 takes the number from Slurm's, Kubernetes' or torchrun's variables, and
    /// without this option they give both if they are set
    #[arg(long, value_name = "I/N")]
    shard: Option<ShardArg>,
    /// What to keep beside the tables: nothing, traces, or layers=3,4 of each trace
    #[arg(long, value_name = "WHAT", default_value = "nothing")]
    keep: Keep,
    /// Folder of the same tables with one file each, written at the end of all that are in the other
    #[arg(long, value_name = "FOLDER")]
    merged: Option<PathBuf>,
    #[command(flatten)]
    at_once: AtOnceArgs,
    #[command(flatten)]
    format: Format,
    #[command(flatten)]
    model: ModelArgs,
}

#[derive(Clone, Copy)]
enum ShardArg {
    Given(Shard),
    /// How many there are; which one the variables say.
    Of(usize),
}

impl FromStr for ShardArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.strip_prefix('/') {
            Some(of) => match of.parse() {
                Ok(of) if of > 0 => Ok(ShardArg::Of(of)),
                _ => Err("expected how many shards there are, such as /8".into()),
            },
            None => text.parse().map(ShardArg::Given),
        }
    }
}

#[derive(Clone)]
enum Keep {
    Nothing,
    Traces,
    Layers(Vec<usize>),
}

impl FromStr for Keep {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = "expected nothing, traces, or layers=3,4";
        match (text, text.strip_prefix("layers=")) {
            ("nothing", _) => Ok(Keep::Nothing),
            ("traces", _) => Ok(Keep::Traces),
            (_, Some(layers)) => {
                let layers: Result<_, _> = layers.split(',').map(str::parse).collect();
                layers.map(Keep::Layers).map_err(|_| expected.into())
            }
            _ => Err(expected.into()),
        }
    }
}

/// What became of the prompts of a shard.
#[derive(Default)]
struct Done {
    before: usize,
    traced: usize,
    failed: usize,
    n_tokens: usize,
    seconds: f64,
}

impl BatchArgs {
    pub fn run(&self) -> Result<(), Error> {
        let shard = self.shard()?;
        let n = Prompts::count(&self.prompts, shard)?;
        let lines = Prompts::open(&self.prompts, shard)?;
        let tables = Tables::open(&self.out)?;
        let tracers = self.at_once.tracers(&self.model)?;
        if let Keep::Layers(layers) = &self.keep {
            tracers[0].model().chosen(layers)?;
        }
        let done = self.trace_all(&tracers, lines, &tables, n);
        part_of("");
        let Done { before, traced, failed, n_tokens, seconds } = done?;
        if let Some(merged) = &self.merged {
            Study::open(&self.out)?.save(merged)?;
        }
        let object = json!({
            "shard": shard.to_string(), "before": before, "traced": traced, "failed": failed, "n_tokens": n_tokens,
            "seconds": seconds,
        });
        let header = ["shard", "done before", "traced", "failed", "tokens", "seconds of runs"];
        let cells = [before, traced, failed, n_tokens].map(|n| n.to_string());
        let row = [vec![shard.to_string()], cells.to_vec(), vec![format!("{seconds:.1}")]].concat();
        self.format.print(object, table(&header, &[row]))?;
        eprintln!("tables in {}: FROM '{}/heads/*.parquet'", self.out.display(), self.out.display());
        Ok(())
    }

    fn shard(&self) -> Result<Shard, Error> {
        let of = match self.shard {
            Some(ShardArg::Given(shard)) => return Ok(shard),
            // Then the launcher's variables tell ranks, which take every prompt together.
            None if self.model.is_of_ranks() => return Ok(Shard::WHOLE),
            Some(ShardArg::Of(of)) => Some(of),
            None => None,
        };
        match (Shard::from_variables(of, |name| std::env::var(name).ok()), of) {
            (Some((shard, variable)), _) => {
                eprintln!("shard {shard}, by {variable}");
                Ok(shard)
            }
            (None, None) => Ok(Shard::WHOLE),
            (None, Some(of)) => Err(Error::setting(
                "shard",
                "SLURM_ARRAY_TASK_ID, JOB_COMPLETION_INDEX or RANK with a number below that of the shards",
                format!("none for one of {of}"),
                "give --shard 1/8, say",
            )),
        }
    }

    /// Traces what is not done; rows are written while the next prompts run.
    fn trace_all(
        &self,
        tracers: &[Tracer],
        lines: Prompts,
        tables: &Tables,
        n: usize,
    ) -> Result<Done, Error> {
        thread::scope(|scope| {
            let (send, traced) = mpsc::sync_channel(1);
            let writing = scope.spawn(move || self.write_all(traced, tables));
            let ended = || Error::engine("the tables' writer ended", "please report this");
            // Whether a line was done before.
            let was_done = on_each(tracers, lines.enumerate(), |tracer, (i, line)| {
                let line = line?;
                if tables.has(&line.id()) {
                    return Ok(true);
                }
                part_of(&format!("prompt {} of {n}", i + 1));
                // The writer ends at the first error of the disk, which is told instead of this one.
                let sent = send.send(traced_line(tracer, line));
                sent.map(|()| false).map_err(|_| ended())
            });
            drop(send);
            let done = writing.join().unwrap_or_else(|_| Err(ended()))?;
            let before = was_done?.into_iter().filter(|before| *before).count();
            Ok(Done { before, ..done })
        })
    }

    fn write_all(&self, all: mpsc::Receiver<Traced>, tables: &Tables) -> Result<Done, Error> {
        let mut done = Done::default();
        for traced in all {
            let rows = traced.rows();
            if let Some(error) = &rows.prompt.error {
                eprintln!("{}: {error}", rows.prompt.id);
            }
            let trace = match (&traced.found, &self.keep) {
                (Err(_), _) | (_, Keep::Nothing) => None,
                (Ok((_, trace)), Keep::Traces) => Some(trace.clone()),
                (Ok((_, trace)), Keep::Layers(layers)) => Some(trace.of_layers(layers)?),
            };
            tables.write(&rows, trace.as_ref())?;
            done.add(&rows);
        }
        Ok(done)
    }
}

impl Done {
    fn add(&mut self, rows: &Rows) {
        let row = &rows.prompt;
        let count = if row.error.is_none() { &mut self.traced } else { &mut self.failed };
        *count += 1;
        self.n_tokens += row.n_tokens.unwrap_or(0);
        self.seconds += row.seconds.unwrap_or(0.0);
    }
}

fn traced_line(tracer: &Tracer, line: Line) -> Traced {
    let id = line.id();
    Traced { id, found: line.prompt.and_then(|prompt| tracer.trace_prompt(&prompt)) }
}
