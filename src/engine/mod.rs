//! The engine in this process: opens the model, runs it, answers.

mod clock;
mod compare;
pub mod cpu;
#[expect(unsafe_code, reason = "calls of CUDA's libraries")]
pub mod cuda;
pub mod decoder;
pub mod device;
mod generate;
mod knock_out;
pub mod model;
pub mod peers;
mod probabilities;
pub mod ranks;
pub mod raster;
mod run;
pub mod search;
pub mod serve;
mod smallest_top_k;
mod together;
mod told;

use std::{thread, time::Instant};

use self::{
    cpu::Cpu,
    cuda::{Cuda, libraries},
    decoder::resident::Resident,
    device::{Device, Purpose},
    model::Model,
    ranks::Crew,
    run::Run,
    together::{hired, ranks_at_once},
};
use crate::{
    error::Error,
    protocol::{DeviceChoice, Engine, LoadOptions, Payload, Progress, Reply, Request},
    trace::LoadSeconds,
};

/// An engine without a model until it is asked to load one.
#[derive(Default)]
pub struct Local {
    loaded: Option<Loaded>,
    /// The card that a model gets.
    card: usize,
}

struct Loaded {
    model: Model,
    options: LoadOptions,
    processor: Processor,
    /// What loading took.
    seconds: LoadSeconds,
    /// The ranks that share out the rows of a trace with this process.
    crew: Option<Crew>,
}

/// Where models run.
enum Processor {
    Cpu(Resident<Cpu>),
    Cuda(Box<Cuda>, Resident<Cuda>),
}

impl Engine for Local {
    fn call(
        &mut self,
        request: Request,
        payload: Payload,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<(Reply, Payload), Error> {
        match request {
            Request::Load(options) => {
                Ok((self.loaded.insert(Loaded::open(options, self.card, progress)?).reply(), Payload::None))
            }
            Request::Model => Ok((self.loaded()?.reply(), Payload::None)),
            Request::CountTokens { text } => {
                Ok((Reply::Count(self.loaded()?.model.tokenizer.encode(&text)?.ids.len()), Payload::None))
            }
            Request::Chat { messages, arguments } => {
                let (prompt, notes) = self.loaded()?.model.chat_prompt(&messages, &arguments)?;
                notes.into_iter().for_each(|note| progress(Progress::Note(note)));
                Ok((Reply::Prompt(prompt), Payload::None))
            }
            Request::Rasterize { svg, scale } => {
                let drawn = raster::png(&svg, scale)?;
                drawn.note().into_iter().for_each(|note| progress(Progress::Note(note)));
                Ok((Reply::Rasterized, Payload::Bytes(drawn.png)))
            }
            Request::Trace { prompt, config } => {
                Ok((Reply::Traced, Payload::Trace(self.trace(&prompt, &config, progress)?)))
            }
            request => {
                let loaded = self.loaded()?;
                // What is planned is a trace, on each of its devices.
                let is_plan = matches!(request, Request::Plan { .. });
                let peers = loaded.crew.as_ref().filter(|_| is_plan).map(|crew| crew.peers.clone());
                match &loaded.processor {
                    Processor::Cpu(weights) => {
                        answer(Run { peers, ..self.run(&Cpu, weights, progress)? }, request, payload)
                    }
                    Processor::Cuda(cuda, weights) => {
                        answer(Run { peers, ..self.run(&**cuda, weights, progress)? }, request, payload)
                    }
                }
            }
        }
    }
}

/// Answers a request that needs a model on its device.
fn answer<D: Device>(mut run: Run<D>, request: Request, payload: Payload) -> Result<(Reply, Payload), Error> {
    match (request, payload) {
        (Request::Plan { n_tokens, config }, _) => {
            if n_tokens == 0 || u32::try_from(n_tokens).is_err() {
                return Err(Error::prompt(
                    format!("1 to {} tokens", u32::MAX),
                    n_tokens.to_string(),
                    "plan for a length that a prompt can have",
                ));
            }
            let config = run::with_budget(&run, &config, n_tokens)?;
            run::focus(&config, n_tokens)?;
            Ok((Reply::Plan(run.plan(n_tokens, &config, Purpose::Trace)?), Payload::None))
        }
        (Request::Compare(what), Payload::Trace(trace)) => {
            Ok((Reply::Compared(run.compare(&trace, &what)?), Payload::None))
        }
        (Request::KnockOut { interventions, answer }, Payload::Trace(trace)) => {
            Ok((Reply::KnockedOut(run.knock_out(&trace, &interventions, answer)?), Payload::None))
        }
        (Request::Score { prompt, answer, config, dense }, _) => {
            Ok((Reply::Scored(run.score(&prompt, &answer, &config, dense)?), Payload::None))
        }
        (Request::Generate { prompt, how, config }, _) => {
            Ok((Reply::Generated(run.generate(&prompt, &how, &config)?), Payload::None))
        }
        (Request::SmallestTopK { prompt, criterion, config }, _) => {
            Ok((Reply::SmallestTopK(run.smallest_top_k(&prompt, &criterion, &config)?), Payload::None))
        }
        (request, _) => Err(Error::engine(
            format!("{request:?} came without what it needs"),
            "this is a bug in the caller: please report it",
        )),
    }
}

impl Local {
    fn loaded(&self) -> Result<&Loaded, Error> {
        self.loaded.as_ref().ok_or_else(|| {
            Error::engine(
                "no model is loaded",
                "load one first, or start it as `streamtrace serve --model FOLDER`",
            )
        })
    }

    fn run<'a, D: Device>(
        &'a self,
        device: &'a D,
        resident: &'a Resident<D>,
        progress: &'a mut dyn FnMut(Progress),
    ) -> Result<Run<'a, D>, Error> {
        let Loaded { model, options, seconds, .. } = self.loaded()?;
        model.check_files()?;
        let (memory, load) = (options.memory, *seconds);
        Ok(Run { model, device, resident, memory, load, progress, peers: None, crew: None })
    }
}

impl Loaded {
    fn open(options: LoadOptions, card: usize, progress: &mut dyn FnMut(Progress)) -> Result<Self, Error> {
        let choice = options.device;
        // Device and other ranks open while the model is read: what is told of them is the wait that is left.
        let (mut loaded, crew) = thread::scope(|scope| {
            let opening = scope.spawn(move || Processor::open(choice, card));
            let hiring = scope.spawn(|| hired(&options, ranks_at_once(&options)?));
            let model = Model::load(&options.model, options.family.as_deref(), progress)?;
            let start = Instant::now();
            let opened =
                opening.join().unwrap_or_else(|_| Err(Error::engine("no device", "please report this")));
            let (processor, note) = opened?;
            note.into_iter().for_each(|note| progress(Progress::Note(note)));
            let seconds = LoadSeconds { device: start.elapsed().as_secs_f64(), ..model.seconds };
            let lost = |_| Err(Error::engine("the other ranks are lost", "please report this"));
            let crew = hiring.join().unwrap_or_else(lost)?;
            Ok::<_, Error>((Loaded { model, options: options.clone(), processor, seconds, crew: None }, crew))
        })?;
        if let Some(crew) = crew {
            loaded.connect(crew)?;
        }
        Ok(loaded)
    }
}

impl Loaded {
    fn reply(&self) -> Reply {
        let device = match &self.processor {
            Processor::Cpu(_) => Cpu.name(),
            Processor::Cuda(cuda, _) => cuda.name(),
        };
        Reply::Loaded { model: self.model.info(), device }
    }
}

impl Processor {
    /// Opens the chosen device; returns a note where it is another than one would want.
    fn open(choice: DeviceChoice, card: usize) -> Result<(Self, Option<String>), Error> {
        let cpu = || Processor::Cpu(Resident::default());
        let gpu = || Cuda::open(card).map(|cuda| Processor::Cuda(Box::new(cuda), Resident::default()));
        match choice {
            DeviceChoice::Cpu => Ok((cpu(), None)),
            DeviceChoice::Cuda => Ok((gpu()?, None)),
            // A machine without NVIDIA's driver has no GPU to miss.
            DeviceChoice::Auto if !libraries::has_driver() => Ok((cpu(), None)),
            DeviceChoice::Auto => {
                Ok(gpu().map_or_else(|why| (cpu(), Some(format!("on the CPU: {why}"))), |gpu| (gpu, None)))
            }
        }
    }
}
