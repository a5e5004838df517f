//! Whole runs of a model: load, trace, prompt and writing, each beside the limit of this device.

use std::time::Instant;

use serde::Serialize;
use streamtrace::{
    Error, GenerateConfig, LoadOptions, StreamConfig, Tracer,
    engine::{
        cpu::Cpu,
        cuda::Cuda,
        device::{Rates, rates},
        model::Model,
    },
    protocol::Generated,
    tasks::{RulerConfig, Task},
    words::numbers::median,
};

/// One line: what is timed, and how long it takes at least.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    pub name: String,
    pub n_tokens: usize,
    pub seconds: f64,
    /// Seconds that the products of the weights, or reading the weights once a token, take at the device's
    /// rates.
    pub limit: Option<f64>,
}

/// A loaded model, its sizes and its device's rates.
pub struct Whole {
    tracer: Tracer,
    load: f64,
    /// Numbers of the layers' weights, and of these with the output layer's.
    in_layers: f64,
    in_all: f64,
    rates: Rates,
}

/// Tokens that are written, and those of the prompt before them.
const WRITTEN: usize = 64;
const SHORT: usize = 512;

impl Whole {
    pub fn open(options: LoadOptions, config: StreamConfig) -> Result<Self, Error> {
        let start = Instant::now();
        let tracer = Tracer::load_with(options.clone())?.with(config);
        let load = start.elapsed().as_secs_f64();
        let [in_layers, output] =
            Model::load(&options.model, options.family.as_deref(), &mut |_| ())?.n_weights()?;
        let rates = if tracer.device() == "cpu" { rates(&Cpu) } else { rates(&Cuda::open(0)?) }?;
        Ok(Whole { tracer, load, in_layers: in_layers as f64, in_all: (in_layers + output) as f64, rates })
    }

    pub fn device(&self) -> &str {
        self.tracer.device()
    }

    /// Times the runs; those that are repeated by their median.
    pub fn rows(&self, n_tokens: usize, repeats: usize) -> Result<Vec<Row>, Error> {
        let prompt = self.prompt(n_tokens)?;
        let products = |tokens: usize| Some(2.0 * self.in_layers * tokens as f64 / self.rates.products);
        let start = Instant::now();
        let first = self.tracer.trace(&prompt)?;
        let n_tokens = first.summary().n_tokens;
        let row = |name: &str, seconds: f64, limit| Row { name: name.into(), n_tokens, seconds, limit };
        let mut rows = vec![
            row("load", self.load, None),
            row("first trace of this length", start.elapsed().as_secs_f64(), products(n_tokens)),
        ];
        let again = || Ok(self.tracer.trace(&prompt)?.summary().seconds);
        let traces = (0..repeats.max(1)).map(|_| again()).collect::<Result<Vec<_>, Error>>()?;
        let of = |part: fn(&streamtrace::trace::Seconds) -> f64| {
            median(&traces.iter().map(part).collect::<Vec<_>>())
        };
        rows.push(row("trace", of(|s| s.total), products(n_tokens)));
        rows.push(row("of it search", of(|s| s.search), None));
        rows.push(row("of it attention", of(|s| s.attention), None));
        let read = self.median(&prompt, 1, repeats)?.0;
        rows.push(row("prompt, dense", read, products(n_tokens)));
        let short = self.prompt(SHORT)?;
        let (alone, n_prompt) = self.median(&short, 1, repeats)?;
        let (written, n_written) = self.median(&short, WRITTEN, repeats)?;
        let a_token = (written - alone) / (n_written - n_prompt).max(1) as f64;
        let limit = self.in_all / self.rates.numbers;
        rows.push(Row { n_tokens: 1, limit: Some(limit), ..row("a token written", a_token, None) });
        Ok(rows)
    }

    fn prompt(&self, n_tokens: usize) -> Result<String, Error> {
        let task = RulerConfig { task: Task::NiahMultikey1, n_tokens, ..RulerConfig::default() };
        Ok(self.tracer.prompt(&task)?.text)
    }

    /// Returns the median seconds of dense runs that write so many tokens, and the tokens read and written.
    fn median(&self, prompt: &str, max_tokens: usize, repeats: usize) -> Result<(f64, usize), Error> {
        let how = GenerateConfig { max_tokens, dense: true, ..GenerateConfig::default() };
        // A share to prune may be more than a short prompt has.
        let writer = self.tracer.with(StreamConfig::default());
        let run = || writer.generate_streaming(prompt, &how, |_| {});
        let runs = (0..repeats.max(1)).map(|_| run()).collect::<Result<Vec<Generated>, Error>>()?;
        let seconds: Vec<f64> = runs.iter().map(|run| run.seconds.total).collect();
        Ok((median(&seconds), runs[0].n_prompt + runs[0].tokens.len()))
    }
}
