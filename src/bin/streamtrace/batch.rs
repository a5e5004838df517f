//! `streamtrace batch`: many prompts, told as tables.

use std::{
    iter::Enumerate,
    num::NonZeroUsize,
    path::PathBuf,
    str::FromStr,
    sync::{Mutex, PoisonError, mpsc},
    thread,
};

use clap::Args;
use serde_json::json;
use streamtrace::{
    Error, Tracer,
    client::{Traced, part_of},
    study::{Prompts, Rows, Shard, Study, Tables, lines::Line},
};

use crate::{
    args::ModelArgs,
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
    /// Prompts that share the device; each has the model for itself, and its part of the memory
    #[arg(long, value_name = "PROMPTS", default_value_t = NonZeroUsize::MIN)]
    at_once: NonZeroUsize,
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
        if self.model.is_of_ranks() && self.at_once.get() > 1 {
            let fix = "leave at-once out, or the ranks";
            return Err(Error::setting(
                "at-once",
                "1 prompt, which all ranks trace together",
                self.at_once,
                fix,
            ));
        }
        let shard = self.shard()?;
        let n = Prompts::count(&self.prompts, shard)?;
        let lines = Prompts::open(&self.prompts, shard)?;
        let tables = Tables::open(&self.out)?;
        let tracers = self.model.tracers(self.at_once)?;
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

    /// Traces what is not done, each tracer a prompt at a time; rows are written while the next prompts run.
    fn trace_all(
        &self,
        tracers: &[Tracer],
        lines: Prompts,
        tables: &Tables,
        n: usize,
    ) -> Result<Done, Error> {
        let lines = Mutex::new(lines.enumerate());
        thread::scope(|scope| {
            let (send, traced) = mpsc::sync_channel(1);
            let writing = scope.spawn(move || self.write_all(traced, tables));
            let trace = |tracer, send| trace_lines(tracer, &lines, tables, n, &send);
            let tracing: Vec<_> = tracers
                .iter()
                .map(|tracer| (tracer, send.clone()))
                .map(|(t, send)| scope.spawn(move || trace(t, send)))
                .collect();
            drop(send);
            let lost = |_| Err(Error::engine("a thread of the batch ended", "please report this"));
            let before =
                tracing.into_iter().map(|tracing| tracing.join().unwrap_or_else(lost)).sum::<Result<_, _>>();
            let done = writing
                .join()
                .map_err(|_| Error::engine("the tables' writer ended", "please report this"))??;
            before.map(|before| Done { before, ..done })
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

/// Traces lines that are not done as long as there are some; counts those that were done before.
fn trace_lines(
    tracer: &Tracer,
    lines: &Mutex<Enumerate<Prompts>>,
    tables: &Tables,
    n: usize,
    send: &mpsc::SyncSender<Traced>,
) -> Result<usize, Error> {
    let mut before = 0;
    loop {
        let Some((i, line)) = lines.lock().unwrap_or_else(PoisonError::into_inner).next() else {
            return Ok(before);
        };
        let line = line?;
        if tables.has(&line.id()) {
            before += 1;
            continue;
        }
        part_of(&format!("prompt {} of {n}", i + 1));
        // The writer stops at the first error of the disk.
        if send.send(traced_line(tracer, line)).is_err() {
            return Ok(before);
        }
    }
}

fn traced_line(tracer: &Tracer, line: Line) -> Traced {
    let id = line.id();
    Traced { id, found: line.prompt.and_then(|prompt| tracer.trace_prompt(&prompt)) }
}
