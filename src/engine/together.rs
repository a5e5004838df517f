//! What an engine does as one of several ranks: the first one hires the others and traces with them, another one
//! does its part.

use std::sync::Arc;

use super::{
    Loaded, Local, Processor,
    cpu::Cpu,
    cuda::Cuda,
    device::{Device, Purpose},
    peers::Peers,
    ranks::{Crew, PartRecord, Place},
    run::{self, Run},
};
use crate::{
    error::Error,
    protocol::{DeviceChoice, Gpus, LoadOptions, Progress},
    trace::{ModelInfo, Span, StreamConfig, Trace},
};

/// Bytes of a prompt that one card would take long with: about 131,072 tokens.
const LONG: usize = 1 << 19;

/// The ranks that are wanted, this one among them; not as soon as the model is loaded, where only a prompt says.
pub fn ranks_at_once(options: &LoadOptions) -> Result<usize, Error> {
    let n_cards = n_cards(options.device);
    match options.gpus {
        Gpus::Auto => Ok(1),
        Gpus::All => Ok(n_cards),
        Gpus::Count(n) if n <= n_cards || options.device == DeviceChoice::Cpu => Ok(n),
        Gpus::Count(n) => {
            let fix = "leave the number out, or start ranks on several machines and say ranks";
            Err(Error::setting("gpus", format!("at most the {n_cards} of this machine"), n, fix))
        }
        Gpus::Ranks => Ok(Place::from_environment()?.n_ranks),
    }
}

/// Cards that a device choice can mean, at least 1.
fn n_cards(device: DeviceChoice) -> usize {
    if device == DeviceChoice::Cpu { 1 } else { Cuda::n_cards().max(1) }
}

/// Returns the other ranks, with the model; `None` for one rank alone.
pub fn hired(options: &LoadOptions, n_ranks: usize) -> Result<Option<Hired>, Error> {
    if n_ranks < 2 {
        return Ok(None);
    }
    let crew = match options.gpus {
        Gpus::Ranks => Crew::meet(&Place::from_environment()?)?,
        _ => Crew::start(n_ranks)?,
    };
    let models = crew.load(&LoadOptions { gpus: Gpus::Count(1), ..options.clone() })?;
    Ok(Some(Hired { crew, models }))
}

/// Ranks whose devices are not connected yet.
pub struct Hired {
    crew: Crew,
    models: Vec<ModelInfo>,
}

impl Loaded {
    /// Connects this rank's device with those of others that have the same weights.
    ///
    /// # Errors
    /// [`Error::Engine`] when they have others, [`Error::Device`].
    pub(super) fn connect(&mut self, Hired { crew, models }: Hired) -> Result<(), Error> {
        let own = self.model.info();
        for (i, model) in models.iter().enumerate() {
            if own.unlike(model).is_some() || own.fingerprint != model.fingerprint {
                let what = format!("rank {} has another model: {}", i + 1, model.name);
                return Err(Error::engine(what, "give all ranks the same files"));
            }
        }
        match &mut self.processor {
            Processor::Cpu(_) => crew.connect(&mut Cpu)?,
            Processor::Cuda(cuda, _) => crew.connect(&mut **cuda)?,
        }
        self.crew = Some(crew);
        Ok(())
    }

    /// Cards that could share out the rows of a trace; 1 where the model is on the CPU.
    fn n_cards(&self) -> usize {
        match self.processor {
            Processor::Cpu(_) => 1,
            Processor::Cuda(..) => Cuda::n_cards(),
        }
    }

    /// Returns how many ranks should trace a prompt, and why, if that was not asked for.
    fn ranks_for(&self, prompt: &str) -> Result<(usize, Option<String>), Error> {
        let n_cards = self.n_cards();
        if self.options.gpus == Gpus::Auto && n_cards > 1 && prompt.len() >= LONG {
            let note = format!("on all {n_cards} cards, for the prompt is long: gpus = 1 takes one");
            return Ok((n_cards, Some(note)));
        }
        Ok((ranks_at_once(&self.options)?, None))
    }
}

impl Local {
    /// Makes an engine for a card of this machine.
    pub fn on_card(card: usize) -> Self {
        Local { card, loaded: None }
    }

    /// Opens a model.
    pub(super) fn open(&mut self, options: LoadOptions) -> Result<ModelInfo, Error> {
        Ok(self.loaded.insert(Loaded::open(options, self.card, &mut |_| {})?).model.info())
    }

    /// Connects the device with those of all ranks.
    pub(super) fn connect(&mut self, peers: &Arc<Peers>) -> Result<(), Error> {
        match self.loaded.as_mut().map(|loaded| &mut loaded.processor) {
            Some(Processor::Cuda(cuda, _)) => cuda.connect(peers),
            _ => Ok(()),
        }
    }

    /// Returns the memory that a run may take on this rank's device.
    pub(super) fn limit(
        &self,
        n_tokens: usize,
        config: &StreamConfig,
        peers: &Arc<Peers>,
    ) -> Result<u64, Error> {
        fn of<D: Device>(run: Run<D>, n_tokens: usize, config: &StreamConfig) -> Result<u64, Error> {
            let config = run::with_budget(&run, config, n_tokens)?;
            Ok(run.plan(n_tokens, &config, Purpose::Trace)?.limit)
        }
        let (progress, peers) = (&mut |_| {}, Some(peers.clone()));
        match &self.loaded()?.processor {
            Processor::Cpu(weights) => {
                of(Run { peers, ..self.run(&Cpu, weights, progress)? }, n_tokens, config)
            }
            Processor::Cuda(cuda, weights) => {
                of(Run { peers, ..self.run(&**cuda, weights, progress)? }, n_tokens, config)
            }
        }
    }

    /// Traces the rows of this rank; returns the logits after its last row, if that is the prompt's.
    pub(super) fn part(
        &self,
        tokens: &[u32],
        sentences: Arc<[Span]>,
        config: &StreamConfig,
        memory: u64,
        peers: &Arc<Peers>,
        on_record: impl FnMut(PartRecord) -> Result<(), Error> + Send,
    ) -> Result<Vec<f32>, Error> {
        let (progress, peers, memory) = (&mut |_| {}, Some(peers.clone()), Some(memory));
        match &self.loaded()?.processor {
            Processor::Cpu(weights) => Run { peers, memory, ..self.run(&Cpu, weights, progress)? }
                .part(tokens, sentences, config, on_record),
            Processor::Cuda(cuda, weights) => Run { peers, memory, ..self.run(&**cuda, weights, progress)? }
                .part(tokens, sentences, config, on_record),
        }
    }

    /// Traces a prompt, on as many devices as the options or the prompt want.
    pub(super) fn trace(
        &mut self,
        prompt: &str,
        config: &StreamConfig,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Trace, Error> {
        let (n_ranks, note) = self.loaded()?.ranks_for(prompt)?;
        self.hire(n_ranks, note, progress)?;
        let mut traced = self.traced(prompt, config, n_ranks > 1, progress);
        // Too much for one card may not be too much for all.
        if let (Err(Error::Memory { .. }), Gpus::Auto, 1) = (&traced, self.loaded()?.options.gpus, n_ranks)
            && let n_cards @ 2.. = self.loaded()?.n_cards()
        {
            let note = format!("on all {n_cards} cards, for one has too little memory");
            self.hire(n_cards, Some(note), progress)?;
            traced = self.traced(prompt, config, true, progress);
        }
        if let Some(loaded) = &mut self.loaded {
            loaded.crew.take_if(|crew| crew.has_failed());
        }
        traced
    }

    /// Hires other ranks, unless they are there.
    fn hire(
        &mut self,
        n_ranks: usize,
        note: Option<String>,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<(), Error> {
        let Some(loaded) = &mut self.loaded else { return Ok(()) };
        if n_ranks < 2 || loaded.crew.is_some() {
            return Ok(());
        }
        note.into_iter().for_each(|note| progress(Progress::Note(note)));
        hired(&loaded.options, n_ranks)?.map_or(Ok(()), |hired| loaded.connect(hired))
    }

    fn traced(
        &self,
        prompt: &str,
        config: &StreamConfig,
        together: bool,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Trace, Error> {
        let loaded = self.loaded()?;
        let crew = loaded.crew.as_ref().filter(|_| together);
        let peers = crew.map(|crew| crew.peers.clone());
        match &loaded.processor {
            Processor::Cpu(weights) => {
                Run { crew, peers, ..self.run(&Cpu, weights, progress)? }.trace(prompt, config)
            }
            Processor::Cuda(cuda, weights) => {
                Run { crew, peers, ..self.run(&**cuda, weights, progress)? }.trace(prompt, config)
            }
        }
    }
}
