//! `streamtrace ruler`: RULER's scores, and how often the answer survives the pruning.

mod picture;
mod tally;
mod written;

use std::path::PathBuf;

use clap::Args;
use serde_json::{Map, Value, json};
use streamtrace::{
    Error, Estimate, Search, StreamConfig, Tracer,
    client::part_of,
    tasks::{RulerConfig, Task},
    words::text_file::read_text,
};

use crate::{
    args::ModelArgs,
    at_once::{AtOnceArgs, on_each},
    output::{Format, check_writable, print, table, table_row, wrote},
    prompt_args::ChatArgs,
};
use tally::{HEADER, Tally};
use written::Written;

#[derive(Args)]
pub struct RulerArgs {
    /// RULER's tasks, separated by commas, or all
    #[arg(long, default_value = "niah_multikey_1")]
    task: String,
    /// Lengths of the prompts in tokens, separated by commas
    #[arg(long, alias = "tokens", value_name = "TOKENS", value_delimiter = ',', default_value = "16384")]
    n_tokens: Vec<usize>,
    /// Number of prompts of each task and length, and of each depth with --out
    #[arg(
        long,
        alias = "samples",
        value_name = "PROMPTS",
        default_value_t = 20,
        value_parser = clap::value_parser!(u64).range(1..)
    )]
    n_prompts: u64,
    /// Seed of the first prompt; each next prompt takes the next seed
    #[arg(long, default_value_t = 1000)]
    seed: u64,
    /// Run dense attention too, in O(T²): its score and recall; only answers that it gives can survive
    #[arg(long)]
    dense: bool,
    /// A text file to hide needles in, instead of generated prose
    #[arg(long, value_name = "FILE")]
    haystack: Option<PathBuf>,
    /// Most tokens of an answer; RULER's number if left out: 128 for needles
    #[arg(long, value_name = "TOKENS", value_parser = clap::value_parser!(u64).range(1..))]
    max_tokens: Option<u64>,
    /// Measure every search and baseline at the same budget
    #[arg(long, conflicts_with_all = ["exhaustive", "estimate", "baseline"])]
    baselines: bool,
    /// Draw the scores of one task by depth and length, those of --dense beside them: .svg or .png
    #[arg(long, value_name = "FILE", conflicts_with = "baselines")]
    out: Option<PathBuf>,
    /// Number of depths in the picture of --out, evenly from the start to the end of the haystack
    #[arg(long, value_name = "NUMBER", default_value_t = 5, value_parser = clap::value_parser!(u64).range(2..=100))]
    depths: u64,
    #[command(flatten)]
    at_once: AtOnceArgs,
    #[command(flatten)]
    chat: ChatArgs,
    #[command(flatten)]
    format: Format,
    #[command(flatten)]
    model: ModelArgs,
}

/// A search to measure.
struct Contender {
    name: &'static str,
    tracer: Tracer,
}

/// A line of the result.
struct Row {
    task: Task,
    n_tokens: usize,
    search: &'static str,
    tally: Tally,
}

impl RulerArgs {
    pub fn run(&self) -> Result<(), Error> {
        let tasks = self.tasks()?;
        check_writable(self.out.as_deref())?;
        let read = |path: &PathBuf| read_text("read the haystack", path);
        let essay = self.haystack.as_ref().map(read).transpose()?;
        let tracers = self.at_once.tracers(&self.model)?;
        let tracer = &tracers[0];
        let chat = self.chat.frame(tracer)?;
        for &n_tokens in &self.n_tokens {
            tracer.plan(n_tokens)?.check()?;
        }
        if !self.format.json {
            print(table(&HEADER, &[]))?;
        }
        let (contenders, mut rows) = (self.contenders(tracer), Vec::new());
        for (&task, &n_tokens) in tasks.iter().flat_map(|task| self.n_tokens.iter().map(move |n| (task, n))) {
            let (essay, chat) = (essay.clone(), chat.clone());
            let config = RulerConfig { task, n_tokens, essay, chat, ..RulerConfig::default() };
            for (contender, tally) in contenders.iter().zip(self.measure(&tracers, &config)?) {
                let row = Row { task, n_tokens, search: contender.name, tally };
                if !self.format.json {
                    print(table_row(
                        &HEADER,
                        &row.tally.cells(task, n_tokens, row.search, note(tracer, task)),
                    ))?;
                }
                rows.push(row);
            }
        }
        if let Some(out) = &self.out {
            picture::scores(&tracer.model().name, &self.depths(), &rows).save(out)?;
            wrote(out, "");
        }
        match (self.format.json, self.baselines) {
            (false, _) => Ok(()),
            (true, false) => print(by_task(&rows)),
            (true, true) => {
                let of = |name| rows.iter().filter(move |row| row.search == name);
                print(Value::from(
                    contenders
                        .iter()
                        .map(|c| (c.name.to_string(), by_task(of(c.name))))
                        .collect::<Map<_, _>>(),
                ))
            }
        }
    }

    fn tasks(&self) -> Result<Vec<Task>, Error> {
        let tasks = match self.task.as_str() {
            "all" => Task::ALL.to_vec(),
            names => names.split(',').map(str::parse).collect::<Result<Vec<Task>, Error>>()?,
        };
        match (&self.out, &tasks[..]) {
            (None, _) => Ok(tasks),
            (Some(_), [task]) if task.has_depth() => Ok(tasks),
            (Some(_), _) => Err(Error::setting(
                "out",
                "one task whose needle has a depth",
                self.task.clone(),
                "draw one task at a time; cwe and fwe have no depth",
            )),
        }
    }

    /// The search that was asked for; or all, at the budget that was asked for.
    fn contenders(&self, tracer: &Tracer) -> Vec<Contender> {
        if !self.baselines {
            return vec![Contender { name: tracer.config().search.name(), tracer: tracer.clone() }];
        }
        let settings = tracer.config();
        let published =
            [Estimate::MeanSpread, Estimate::First, Estimate::Middle].map(|e| settings.clone().published(e));
        let others = [
            Search::Exhaustive,
            Search::Hierarchical(Estimate::TwoMeans),
            Search::Window,
            Search::Random { seed: 0 },
        ];
        let others = others.map(|search| StreamConfig { search, ..settings.clone() });
        let contender =
            |config: StreamConfig| Contender { name: config.search.name(), tracer: tracer.with(config) };
        others.into_iter().chain(published).map(contender).collect()
    }

    /// A tally of each search over all prompts of a task and length, depth by depth.
    fn measure(&self, tracers: &[Tracer], config: &RulerConfig) -> Result<Vec<Tally>, Error> {
        let seeds = self.seed..self.seed.saturating_add(self.n_prompts);
        let depths = self.depths();
        let n_prompts = depths.len() as u64 * self.n_prompts;
        let prompts =
            depths.into_iter().flat_map(|depth| seeds.clone().map(move |seed| (depth, seed))).enumerate();
        let of_prompts = on_each(tracers, prompts, |tracer, (i, (depth, seed))| {
            let (task, n_tokens) = (config.task, config.n_tokens);
            part_of(&format!("{task}, {n_tokens} tokens, prompt {} of {n_prompts}", i + 1));
            self.one_prompt(&self.contenders(tracer), &RulerConfig { seed, depth, ..config.clone() })
        })?;
        part_of("");
        let join = |mut all: Vec<Tally>, of_prompt: Vec<Tally>| {
            all.iter_mut().zip(of_prompt).for_each(|(tally, of_prompt)| tally.join(of_prompt));
            all
        };
        Ok(of_prompts.into_iter().reduce(join).unwrap_or_default())
    }

    /// A tally of each search on one prompt.
    fn one_prompt(&self, contenders: &[Contender], config: &RulerConfig) -> Result<Vec<Tally>, Error> {
        let prompt = contenders[0].tracer.prompt(config)?;
        let max_tokens = self.max_tokens.map_or(config.task.answer_tokens(), |n| n as usize);
        let dense = || Written::by(&contenders[0].tracer, &prompt, max_tokens, true);
        let dense = self.dense.then(dense).transpose()?;
        let measure =
            |contender: &Contender| Tally::of_prompt(&contender.tracer, &prompt, max_tokens, dense.as_ref());
        contenders.iter().map(measure).collect()
    }

    /// Shares of the haystack before the needle: those of the seeds, unless they are drawn.
    fn depths(&self) -> Vec<Option<f64>> {
        match self.out {
            None => vec![None],
            Some(_) => (0..self.depths).map(|i| Some(i as f64 / (self.depths - 1) as f64)).collect(),
        }
    }
}

/// The rows by task: an object, or a list with one object for each length.
fn by_task<'a>(rows: impl IntoIterator<Item = &'a Row>) -> Value {
    let mut tasks: Map<String, Value> = Map::new();
    for row in rows {
        let mut object = row.tally.json();
        object["n_tokens"] = json!(row.n_tokens);
        match tasks.entry(row.task.name()).or_insert(Value::Null) {
            none @ Value::Null => *none = object,
            Value::Array(lengths) => lengths.push(object),
            first => *first = json!([first.take(), object]),
        }
    }
    tasks.into()
}

/// The bundled model cannot do all tasks.
fn note(tracer: &Tracer, task: Task) -> &'static str {
    let untrained = tracer.model().name == "needle-6m" && !task.in_training();
    if untrained { "not in the bundled model's training" } else { "" }
}
