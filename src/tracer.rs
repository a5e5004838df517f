//! [`Tracer`]: a model that traces prompts.

use std::{
    io::Write,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use crate::{
    analysis::{Sentence, SentenceMatrix, SuppressionMeasure},
    config::StreamConfig,
    engine::{Engine, LoadOptions, Payload, Progress, Reply, Request, default_engine, unexpected},
    error::Error,
    intervention::{Effect, Intervention},
    memory::MemoryPlan,
    tasks::{Prompt, RulerConfig},
    trace::{AnswerScore, ModelInfo, Span, Trace},
};

/// A loaded model with the settings of its search.
///
/// Cheap to clone: clones share the engine. In a notebook the engine is a process of its own, which outlives a panicking
/// cell, ends with the kernel, and is started again by the next call when it has died.
#[derive(Clone)]
pub struct Tracer {
    engine: Arc<Mutex<Box<dyn Engine>>>,
    model: ModelInfo,
    device: String,
    config: StreamConfig,
}

impl Tracer {
    /// Loads a model folder as Hugging Face lays it out; a GPU is used if there is one that works.
    ///
    /// # Errors
    /// [`Error::File`] and [`Error::Model`] for what is wrong with the folder, [`Error::Engine`] when there is no engine.
    pub fn load(model: impl Into<PathBuf>) -> Result<Self, Error> {
        Self::load_with(LoadOptions { model: model.into(), ..LoadOptions::default() })
    }

    /// Loads a model on a chosen device, in a chosen amount of memory.
    ///
    /// # Errors
    /// As [`Tracer::load`], and [`Error::Device`].
    pub fn load_with(options: LoadOptions) -> Result<Self, Error> {
        Self::with_engine(default_engine()?, options)
    }

    /// Loads a model in an engine of one's own choice, such as a [`Process`](crate::engine::process::Process).
    ///
    /// # Errors
    /// As [`Tracer::load_with`].
    pub fn with_engine(mut engine: Box<dyn Engine>, mut options: LoadOptions) -> Result<Self, Error> {
        // An engine has its own idea of the current folder.
        options.model = std::path::absolute(&options.model).unwrap_or(options.model);
        match engine.call(Request::Load(options), Payload::None, &mut show)? {
            (Reply::Loaded { model, device }, _) => {
                Ok(Tracer { engine: Arc::new(Mutex::new(engine)), model, device, config: StreamConfig::default() })
            }
            (reply, _) => Err(unexpected(&reply)),
        }
    }

    /// The same tracer with other settings.
    pub fn with(&self, config: StreamConfig) -> Self {
        Tracer { config, ..self.clone() }
    }

    pub fn model(&self) -> &ModelInfo {
        &self.model
    }

    pub fn config(&self) -> &StreamConfig {
        &self.config
    }

    /// "cpu", or the GPU's name.
    pub fn device(&self) -> &str {
        &self.device
    }

    /// How many tokens a text is.
    ///
    /// # Errors
    /// [`Error::Prompt`] for an empty text, [`Error::Engine`].
    pub fn count_tokens(&self, text: &str) -> Result<usize, Error> {
        match self.call(Request::CountTokens { text: text.into() }, Payload::None)? {
            (Reply::Count(n), _) => Ok(n),
            (reply, _) => Err(unexpected(&reply)),
        }
    }

    /// What a trace of so many tokens would take.
    ///
    /// # Errors
    /// [`Error::Setting`] when the settings do not fit such a prompt, [`Error::Engine`].
    pub fn plan(&self, n_tokens: usize) -> Result<MemoryPlan, Error> {
        match self.call(Request::Plan { n_tokens, config: self.config.clone() }, Payload::None)? {
            (Reply::Plan(plan), _) => Ok(plan),
            (reply, _) => Err(unexpected(&reply)),
        }
    }

    /// A task's prompt, fitted to this model's tokens.
    ///
    /// # Errors
    /// [`Error::Prompt`] when the task does not fit the length.
    pub fn prompt(&self, task: &RulerConfig) -> Result<Prompt, Error> {
        task.prompt(&mut |text| self.count_tokens(text))
    }

    /// Finds what the model attends to over a prompt, and runs it on that alone.
    ///
    /// # Errors
    /// [`Error::Prompt`], [`Error::Setting`], [`Error::Memory`] before anything runs; [`Error::NotFinite`], [`Error::Engine`].
    pub fn trace(&self, prompt: &str) -> Result<Trace, Error> {
        let request = Request::Trace { prompt: prompt.into(), config: self.config.clone() };
        match self.call(request, Payload::None)? {
            (Reply::Traced, Payload::Trace(trace)) => Ok(trace),
            (reply, _) => Err(unexpected(&reply)),
        }
    }

    /// The same trace with its fidelity: the prompt is run densely, in O(T²) time, and compared.
    ///
    /// # Errors
    /// [`Error::Setting`] for another model's trace; as [`Tracer::trace`].
    pub fn compare(&self, trace: &Trace) -> Result<Trace, Error> {
        match self.call(Request::Compare, Payload::Trace(trace.clone()))? {
            (Reply::Compared(fidelity), _) => Ok(trace.with_fidelity(fidelity)),
            (reply, _) => Err(unexpected(&reply)),
        }
    }

    /// How likely the model finds an answer after a prompt, on what the search keeps.
    ///
    /// # Errors
    /// As [`Tracer::trace`].
    pub fn score(&self, prompt: &str, answer: &str) -> Result<AnswerScore, Error> {
        self.score_with(prompt, answer, false)
    }

    /// How likely the model finds an answer after a prompt, with dense attention. O(T²) time.
    ///
    /// # Errors
    /// As [`Tracer::trace`].
    pub fn score_dense(&self, prompt: &str, answer: &str) -> Result<AnswerScore, Error> {
        self.score_with(prompt, answer, true)
    }

    /// What changes when a traced prompt is run again on the same blocks, without some attention: about the next token, and about
    /// the tokens of `span`, each predicted from the ones before it; `Span::default()` for none.
    ///
    /// All interventions run together, each from its first changed query on.
    ///
    /// # Errors
    /// [`Error::Setting`] for another model's trace or an intervention that hides nothing; [`Error::Missing`] for layers, heads
    /// and tokens that the trace does not have; [`Error::Memory`], [`Error::NotFinite`], [`Error::Engine`].
    pub fn knock_out(&self, trace: &Trace, interventions: &[Intervention], span: impl Into<Span>) -> Result<Vec<Effect>, Error> {
        let request = Request::KnockOut { interventions: interventions.to_vec(), span: span.into() };
        match self.call(request, Payload::Trace(trace.clone()))? {
            (Reply::KnockedOut(effects), _) => Ok(effects),
            (reply, _) => Err(unexpected(&reply)),
        }
    }

    /// What changes in each sentence when the model cannot see an earlier one: the causal check of thought anchors
    /// ([`SentenceMatrix::of_effects`]). The trace's own blocks are kept.
    ///
    /// # Errors
    /// As [`Tracer::knock_out`].
    pub fn suppress_sentences(
        &self,
        trace: &Trace,
        sentences: &[Sentence],
        measure: SuppressionMeasure,
    ) -> Result<SentenceMatrix, Error> {
        let suppressions = SentenceMatrix::suppressions(sentences);
        let effects = self.knock_out(trace, &suppressions, SentenceMatrix::asked(sentences))?;
        Ok(SentenceMatrix::of_effects(sentences, &effects, measure, &self.model.name))
    }

    fn score_with(&self, prompt: &str, answer: &str, dense: bool) -> Result<AnswerScore, Error> {
        let request = Request::Score { prompt: prompt.into(), answer: answer.into(), config: self.config.clone(), dense };
        match self.call(request, Payload::None)? {
            (Reply::Scored(score), _) => Ok(score),
            (reply, _) => Err(unexpected(&reply)),
        }
    }

    fn call(&self, request: Request, payload: Payload) -> Result<(Reply, Payload), Error> {
        // A cell that panicked during a call leaves nothing half-done behind: the engine is a process, or holds no state.
        self.engine.lock().unwrap_or_else(PoisonError::into_inner).call(request, payload, &mut show)
    }
}

/// Progress in whole lines, which a notebook shows as they come: on standard output there, else on standard error.
fn show(step: Progress) {
    // A line that cannot be written is no reason to stop.
    let _ = match std::env::var_os("EVCXR_IS_RUNTIME") {
        Some(_) => writeln!(std::io::stdout(), "{step}"),
        None => writeln!(std::io::stderr(), "{step}"),
    };
}
