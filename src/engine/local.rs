//! The engine in this process: opens the model, runs it, answers.

use std::time::Instant;

use super::{DeviceChoice, Engine, LoadOptions, Payload, Progress, Reply, Request};
use crate::{
    config::StreamConfig,
    cpu::Cpu,
    device::Device,
    error::Error,
    model::{
        Model,
        decoder::{Decoder, StageTimes},
        memory,
        tokenizer::Encoding,
    },
    search::budget,
    trace::{Blocks, Fidelity, NextToken, Seconds, Span, Summary, Trace, TraceWriter},
};

/// An engine without a model until it is asked to load one.
#[derive(Default)]
pub struct Local {
    loaded: Option<Loaded>,
}

struct Loaded {
    model: Model,
    options: LoadOptions,
    /// Seconds that loading took.
    seconds: f64,
}

impl Engine for Local {
    fn call(&mut self, request: Request, payload: Payload, progress: &mut dyn FnMut(Progress)) -> Result<(Reply, Payload), Error> {
        match (request, payload) {
            (Request::Load(options), _) => {
                let loaded = self.loaded.insert(Loaded::open(options)?);
                Ok((Reply::Loaded { model: loaded.model.info(), device: Cpu.name() }, Payload::None))
            }
            (Request::CountTokens { text }, _) => Ok((Reply::Count(self.loaded()?.model.tokenizer.encode(&text)?.ids.len()), Payload::None)),
            (Request::Plan { n_tokens, config }, _) => {
                let loaded = self.loaded()?;
                let config = loaded.settled(&config, n_tokens)?;
                Ok((Reply::Plan(memory::plan(&loaded.model, n_tokens, &config, loaded.options.memory)), Payload::None))
            }
            (Request::Trace { prompt, config }, _) => {
                let trace = self.loaded()?.trace(&Cpu, &prompt, &config, progress)?;
                Ok((Reply::Traced, Payload::Trace(trace)))
            }
            (Request::Compare, Payload::Trace(trace)) => {
                Ok((Reply::Compared(self.loaded()?.compare(&Cpu, &trace, progress)?), Payload::None))
            }
            (Request::Compare, other) => Err(Error::Engine {
                what: format!("a comparison needs a trace, and {} came", other.describe()),
                fix: "this is a bug in the caller: please report it".into(),
            }),
            (Request::Rasterize { svg, scale }, _) => {
                Ok((Reply::Rasterized, Payload::Bytes(crate::plot::png(&svg, scale)?)))
            }
        }
    }
}

impl Local {
    fn loaded(&self) -> Result<&Loaded, Error> {
        self.loaded.as_ref().ok_or_else(|| Error::Engine { what: "no model is loaded".into(), fix: "load one first".into() })
    }
}

impl Loaded {
    fn open(options: LoadOptions) -> Result<Self, Error> {
        if options.device == DeviceChoice::Cuda {
            return Err(Error::Device {
                device: "cuda".into(),
                what: "this version runs on the CPU alone".into(),
                fix: "choose auto or cpu".into(),
            });
        }
        let start = Instant::now();
        let model = Model::open(&options.model)?;
        Ok(Loaded { model, options, seconds: start.elapsed().as_secs_f64() })
    }

    /// The settings with a `top_k` for a prompt of this length, checked.
    fn settled(&self, config: &StreamConfig, n_tokens: usize) -> Result<StreamConfig, Error> {
        config.validate()?;
        let mut settled = config.clone();
        if let Some(share) = config.pruned {
            let blocks = |window: &Option<usize>| Blocks {
                n_tokens,
                block_size_q: config.block_size_q,
                block_size_k: config.block_size_k,
                window: *window,
            };
            let layers: Vec<Blocks> = self.model.config.windows.iter().map(blocks).collect();
            settled.top_k = budget::for_share(&layers, config, share)?;
        }
        // More than all blocks is all blocks.
        settled.top_k = settled.top_k.min(n_tokens.div_ceil(config.block_size_k).max(1));
        Ok(settled)
    }

    fn trace(&self, device: &impl Device, prompt: &str, config: &StreamConfig, progress: &mut dyn FnMut(Progress)) -> Result<Trace, Error> {
        let start = Instant::now();
        let Encoding { ids, offsets } = self.model.tokenizer.encode(prompt)?;
        let config = self.settled(config, ids.len())?;
        let focus = focus(&config, ids.len())?;
        let plan = memory::plan(&self.model, ids.len(), &config, self.options.memory);
        plan.check()?;
        memory::reset_peak();
        let mut writer = TraceWriter::new(&ids, &offsets, prompt)?;
        let decoder = Decoder { model: &self.model, device, tokens: &ids, config: config.clone(), focus };
        let mut clock = Clock::new("trace", ids.len(), self.model.config.n_layers);
        let (mut times, mut kept_pairs) = (StageTimes::default(), 0);
        let logits = decoder.sparse(&mut times, |layer, record| {
            kept_pairs += record.mask.kept_pairs();
            writer.layer(layer, &record)?;
            progress(clock.tick(layer));
            Ok(())
        })?;
        let info = self.model.info();
        let all_pairs = decoder_pairs(ids.len()) * (info.n_layers * info.n_heads) as f64;
        let summary = Summary {
            config,
            n_tokens: ids.len(),
            focus,
            next_token: self.next_token(&logits),
            pruned: 1.0 - kept_pairs as f64 / all_pairs,
            seconds: Seconds {
                load: self.seconds,
                search: times.search.as_secs_f64(),
                attention: times.attention.as_secs_f64(),
                total: start.elapsed().as_secs_f64(),
            },
            peak_memory_bytes: memory::peak(),
            planned_memory_bytes: plan.total(),
            device: device.name(),
            fidelity: None,
            version: env!("CARGO_PKG_VERSION").into(),
            model: info,
        };
        writer.finish(summary, &logits)
    }

    fn compare(&self, device: &impl Device, trace: &Trace, progress: &mut dyn FnMut(Progress)) -> Result<Fidelity, Error> {
        let (summary, info) = (trace.summary(), self.model.info());
        if summary.model != info {
            return Err(Error::Setting {
                setting: "trace".into(),
                expected: format!("a trace of {}, the model that is loaded", info.name),
                found: format!("a trace of {}", summary.model.name),
                fix: "load the model that made the trace".into(),
            });
        }
        let tokens = trace.tokens()?;
        memory::plan(&self.model, tokens.len(), &summary.config, self.options.memory).check()?;
        let decoder = Decoder { model: &self.model, device, tokens: &tokens, config: summary.config.clone(), focus: summary.focus };
        let mut clock = Clock::new("dense", tokens.len(), info.n_layers);
        let mut recall_by_head = Vec::new();
        let logits = decoder.dense(
            |layer| trace.mask(layer),
            |layer, kept_mass| {
                recall_by_head.push(kept_mass.iter().map(|mass| mass / tokens.len() as f64).collect::<Vec<f64>>());
                progress(clock.tick(layer));
            },
        )?;
        let n_heads = (info.n_layers * info.n_heads) as f64;
        Ok(Fidelity {
            recall: recall_by_head.iter().flatten().sum::<f64>() / n_heads,
            recall_by_head,
            same_next_token: self.next_token(&logits).id == summary.next_token.id,
            kl: kl(&logits, &trace.logits()?),
            n_rows: tokens.len(),
        })
    }

    fn next_token(&self, logits: &[f32]) -> NextToken {
        // The first of equal logits, as argmax is defined elsewhere.
        let best = (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b]).then(b.cmp(&a))).unwrap_or(0);
        NextToken { id: best as u32, text: self.model.tokenizer.text(best as u32), logprob: log_softmax(logits)[best] }
    }
}

/// The tokens that are recorded key by key.
fn focus(config: &StreamConfig, n_tokens: usize) -> Result<Span, Error> {
    match &config.focus {
        None => Ok(Span::from(n_tokens.saturating_sub(StreamConfig::DEFAULT_FOCUS)..n_tokens)),
        Some(range) if range.start < range.end && range.end <= n_tokens => Ok(Span::from(range.clone())),
        Some(range) => Err(Error::Setting {
            setting: "focus".into(),
            expected: format!("a span of the prompt's {n_tokens} tokens"),
            found: format!("{range:?}"),
            fix: "choose tokens of the prompt, or leave it out for the last ones".into(),
        }),
    }
}

fn decoder_pairs(n_tokens: usize) -> f64 {
    n_tokens as f64 * (n_tokens as f64 + 1.0) / 2.0
}

/// Natural logarithms of the probabilities.
fn log_softmax(logits: &[f32]) -> Vec<f64> {
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max) as f64;
    let total = logits.iter().map(|&l| (l as f64 - most).exp()).sum::<f64>().ln();
    logits.iter().map(|&l| l as f64 - most - total).collect()
}

/// KL(dense ‖ sparse) in nats.
fn kl(dense: &[f32], sparse: &[f32]) -> f64 {
    let (p, q) = (log_softmax(dense), log_softmax(sparse));
    p.iter().zip(&q).map(|(p, q)| p.exp() * (p - q)).sum::<f64>().max(0.0)
}

/// Measures how fast layers go by.
struct Clock {
    start: Instant,
    stage: &'static str,
    n_tokens: usize,
    n_layers: usize,
}

impl Clock {
    fn new(stage: &'static str, n_tokens: usize, n_layers: usize) -> Self {
        Clock { start: Instant::now(), stage, n_tokens, n_layers }
    }

    /// A layer is done.
    fn tick(&mut self, layer: usize) -> Progress {
        let (done, seconds) = ((layer + 1) as f64, self.start.elapsed().as_secs_f64().max(1e-9));
        let whole = seconds / done * self.n_layers as f64;
        Progress {
            stage: self.stage.into(),
            layer: layer + 1,
            n_layers: self.n_layers,
            tokens_per_second: self.n_tokens as f64 / whole,
            seconds_left: whole - seconds,
        }
    }
}
