//! The engine in this process: opens the model, runs it, answers.

mod run;

use std::time::Instant;

use super::{DeviceChoice, Engine, LoadOptions, Payload, Progress, Reply, Request};
use crate::{cpu::Cpu, device::Device, error::Error, model::{Model, memory}};
use run::Run;

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
                let config = run::settled(&loaded.model, &config, n_tokens)?;
                Ok((Reply::Plan(memory::plan(&loaded.model, n_tokens, &config, loaded.options.memory)), Payload::None))
            }
            (Request::Trace { prompt, config }, _) => {
                let trace = self.run(progress)?.trace(&prompt, &config)?;
                Ok((Reply::Traced, Payload::Trace(trace)))
            }
            (Request::Compare, Payload::Trace(trace)) => {
                Ok((Reply::Compared(self.run(progress)?.compare(&trace)?), Payload::None))
            }
            (Request::Compare, other) => Err(Error::Engine {
                what: format!("a comparison needs a trace, and {} came", other.describe()),
                fix: "this is a bug in the caller: please report it".into(),
            }),
            (Request::Score { prompt, answer, config, dense }, _) => {
                let score = self.run(progress)?.score(&prompt, &answer, &config, dense)?;
                Ok((Reply::Scored(score), Payload::None))
            }
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

    fn run<'a>(&'a self, progress: &'a mut dyn FnMut(Progress)) -> Result<Run<'a, Cpu>, Error> {
        let Loaded { model, options, seconds } = self.loaded()?;
        Ok(Run { model, device: &Cpu, memory: options.memory, load_seconds: *seconds, progress })
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
}
