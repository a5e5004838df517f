//! `streamtrace bench`: the time of each stage of a layer on this GPU, or of whole runs of a model.

mod peers;
mod whole;

use std::path::PathBuf;

use clap::{Args, ValueEnum, builder::ArgPredicate};
use serde_json::json;
use streamtrace::{
    DeviceChoice, Error, LoadOptions, StreamConfig,
    engine::{
        cuda::{
            Cuda,
            bench::{LayerShape, Stage, layer},
        },
        device::Device,
    },
    words::numbers::parse_bytes,
};

use crate::output::{Format, print, table};
use whole::{Row, Whole};

#[derive(Args)]
pub struct BenchArgs {
    /// Time whole runs of this model instead: load, trace, prompt and writing, and llama.cpp and PyTorch beside
    /// them where Python finds xllamacpp, torch and transformers
    #[arg(long, value_name = "MODEL")]
    model: Option<PathBuf>,
    /// Where the model runs
    #[arg(long, value_enum, default_value = "auto", requires = "model")]
    device: DeviceChoice,
    /// Most memory that the model may use, such as 8GB
    #[arg(long, value_name = "AMOUNT", value_parser = parse_bytes, requires = "model")]
    memory: Option<u64>,
    /// Run the model as one of this family, such as qwen2, whatever its files say
    #[arg(long = "as", value_name = "FAMILY", requires = "model")]
    family: Option<String>,
    /// Share of the causal pairs that the model's traces prune
    #[arg(long, value_name = "SHARE", default_value_t = 0.95, requires = "model")]
    pruned: f64,
    /// The model whose layer shape is timed, with random weights
    #[arg(long, value_enum, default_value = "llama-8b", conflicts_with = "model")]
    shape: ShapeArg,
    /// Lengths of the prompt in tokens, separated by commas
    #[arg(
        long,
        alias = "tokens",
        value_name = "TOKENS",
        value_delimiter = ',',
        default_value = "16384,131072,1048576",
        default_value_if("model", ArgPredicate::IsPresent, "8192")
    )]
    n_tokens: Vec<usize>,
    /// Tokens in a query block
    #[arg(long, value_name = "TOKENS", default_value_t = 128)]
    block_size_q: usize,
    /// Tokens in a key block
    #[arg(long, value_name = "TOKENS", default_value_t = 64)]
    block_size_k: usize,
    /// Keys kept for each query block
    #[arg(long, default_value_t = 2048)]
    keys: usize,
    /// Number of runs of each stage; the median is reported
    #[arg(long, default_value_t = 5)]
    repeats: usize,
    #[command(flatten)]
    format: Format,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ShapeArg {
    #[value(name = "llama-8b")]
    Llama8b,
    #[value(name = "llama-1b")]
    Llama1b,
    #[value(name = "qwen3-4b")]
    Qwen34b,
    Bundled,
}

impl From<ShapeArg> for LayerShape {
    fn from(shape: ShapeArg) -> Self {
        let [n_heads, n_kv_heads, head_dim, hidden_size, intermediate_size] = match shape {
            ShapeArg::Llama8b => [32, 8, 128, 4096, 14336],
            ShapeArg::Llama1b => [32, 8, 64, 2048, 8192],
            ShapeArg::Qwen34b => [32, 8, 128, 2560, 9728],
            ShapeArg::Bundled => [8, 2, 64, 256, 704],
        };
        LayerShape { n_heads, n_kv_heads, head_dim, hidden_size, intermediate_size }
    }
}

impl BenchArgs {
    pub fn run(&self) -> Result<(), Error> {
        match &self.model {
            Some(model) => self.of_model(model.clone()),
            None => self.of_layer(),
        }
    }

    fn of_model(&self, model: PathBuf) -> Result<(), Error> {
        let config = StreamConfig { pruned: Some(self.pruned), ..StreamConfig::default() };
        config.validate()?;
        let options = LoadOptions {
            model: model.clone(),
            device: self.device,
            memory: self.memory,
            family: self.family.clone(),
            ..LoadOptions::default()
        };
        let whole = Whole::open(options, config)?;
        let mut rows = Vec::new();
        for &n_tokens in &self.n_tokens {
            let mut found = whole.rows(n_tokens, self.repeats)?;
            found.extend(peers::rows(&model, whole.device(), found[1].n_tokens));
            if !self.format.json {
                print(whole_table(whole.device(), &found))?;
            }
            rows.extend(found);
        }
        if !self.format.json {
            return Ok(());
        }
        print(json!({ "device": whole.device(), "model": model, "pruned": self.pruned, "rows": rows }))
    }

    fn of_layer(&self) -> Result<(), Error> {
        let cuda = Cuda::open(0)?;
        let blocks = |tokens: usize| tokens.div_ceil(self.block_size_k.max(1));
        let config = StreamConfig {
            block_size_q: self.block_size_q,
            block_size_k: self.block_size_k,
            top_k: blocks(self.keys),
            sink_blocks: blocks(128),
            local_blocks: blocks(512),
            // Thirty, and one at either end that reaches past the candidates, cut in four: whole tiles of the
            // kernel.
            beam: 30,
            rescore: false,
            ..StreamConfig::default()
        };
        config.validate()?;
        let mut rows = Vec::new();
        for &n_tokens in &self.n_tokens {
            let stages = layer(&cuda, self.shape.into(), n_tokens, &config, self.repeats)?;
            if !self.format.json {
                print(stages_table(n_tokens, &stages))?;
            }
            rows.push(json!({ "n_tokens": n_tokens, "stages": stages }));
        }
        if !self.format.json {
            return Ok(());
        }
        let shape = LayerShape::from(self.shape);
        print(json!({ "device": cuda.name(), "shape": shape, "config": config, "rows": rows }))
    }
}

/// The runs of a model, and an empty line.
fn whole_table(device: &str, runs: &[Row]) -> String {
    let mut rows = Vec::new();
    for run in runs {
        let limit = run.limit.map_or(["–".into(), "–".into()], |limit| {
            [format!("{limit:.4}"), format!("{:.0} %", 100.0 * limit / run.seconds)]
        });
        let [limit, share] = limit;
        let rate = format!("{:.0}", run.n_tokens as f64 / run.seconds);
        rows.push(vec![
            run.name.clone(),
            run.n_tokens.to_string(),
            format!("{:.4}", run.seconds),
            rate,
            limit,
            share,
        ]);
    }
    table(&[device, "tokens", "s", "tokens/s", "limit, s", "of the limit"], &rows) + "\n"
}

/// A layer's stages, and an empty line.
fn stages_table(n_tokens: usize, stages: &[Stage]) -> String {
    let number = |value: f64| if value > 0.0 { format!("{value:.0}") } else { "–".into() };
    let title = format!("{n_tokens} tokens, one layer");
    let mut rows = Vec::new();
    for stage in stages {
        rows.push(vec![
            stage.name.to_string(),
            format!("{:.2}", stage.milliseconds),
            number(stage.tflops),
            number(stage.gigabytes_per_second),
            format!("{:.0} %", 100.0 * stage.share_of_limit),
        ]);
    }
    table(&[&title, "ms", "TFLOP/s", "GB/s", "of the card's limit"], &rows) + "\n"
}
