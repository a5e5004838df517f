//! [`Tracer`]: a model that traces prompts.

use std::{
    ops::Range,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use serde_json::{Map, Value};

use super::{
    delivery::Delivery,
    progress::{begin, end, show},
};
use crate::{
    error::Error,
    protocol::{Engine, LoadOptions, MemoryPlan, Message, Payload, Progress, Reply, Request, unexpected},
    start::default_engine,
    trace::{CompareConfig, ModelInfo, Span, StreamConfig, Trace},
    words::{
        numbers::{count, format_bytes},
        table::{Describe, Table, show_as_table},
    },
};

/// Sends a request; returns the content of the reply that answers it.
macro_rules! ask {
    ($tracer:expr, $request:expr, $reply:ident) => {
        ask!($tracer, $request, $reply, Payload::None)
    };
    ($tracer:expr, $request:expr, $reply:ident, $payload:expr) => {
        match $tracer.call($request, $payload)? {
            (Reply::$reply(answer), _) => Ok(answer),
            (reply, _) => Err(unexpected(&reply)),
        }
    };
}
pub(super) use ask;

/// A loaded model with the settings of its search.
///
/// Cheap to clone: clones share the engine. In a notebook the engine is a process of its own, which outlives
/// a panicking cell, ends with the kernel, and is started again by the next call when it has died.
#[derive(Clone)]
pub struct Tracer {
    pub(super) engine: Arc<Mutex<Box<dyn Engine>>>,
    pub(super) model: ModelInfo,
    pub(super) device: String,
    pub(super) config: StreamConfig,
    pub(super) delivery: Delivery,
    /// Arguments of the chat template, by name.
    pub(super) template_arguments: Map<String, Value>,
}

impl Tracer {
    /// Loads a model folder as Hugging Face lays it out (Llama, Mistral, Qwen, Phi, Gemma, Granite, OLMo, SmolLM and
    /// GLM: the table in docs/models.md), or a `.gguf` file of such a model, or a name on the Hugging Face hub, such
    /// as `Qwen/Qwen3-0.6B`, `owner/name:Q8_0` or `owner/name@revision`, which is downloaded unless it is in the hub's
    /// cache. A GPU is used if there is one that works.
    ///
    /// # Errors
    /// [`Error::File`] and [`Error::Model`] for faults in its files, [`Error::Engine`] when there is no
    /// engine.
    pub fn load(model: impl Into<PathBuf>) -> Result<Self, Error> {
        Self::load_with(LoadOptions { model: model.into(), ..LoadOptions::default() })
    }

    /// Loads a model on a chosen device, in a chosen amount of memory.
    ///
    /// # Errors
    /// As [`Tracer::load`], and [`Error::Device`].
    pub fn load_with(options: LoadOptions) -> Result<Self, Error> {
        Self::over(default_engine()?, options)
    }

    /// Loads a model in `engine`, such as a [`Process`](crate::protocol::process::Process).
    ///
    /// # Errors
    /// As [`Tracer::load_with`].
    pub fn over(engine: Box<dyn Engine>, mut options: LoadOptions) -> Result<Self, Error> {
        // An engine has its own idea of the current folder.
        if options.model.exists() {
            options.model = std::path::absolute(&options.model).unwrap_or(options.model);
        }
        Self::start(engine, Request::Load(options), Delivery::Whole)
    }

    pub(super) fn start(
        mut engine: Box<dyn Engine>,
        request: Request,
        delivery: Delivery,
    ) -> Result<Self, Error> {
        begin();
        let loaded = engine.call(request, Payload::None, &mut show);
        end();
        let (reply, _) = loaded?;
        let Reply::Loaded { model, device } = reply else { return Err(unexpected(&reply)) };
        Ok(Tracer {
            engine: Arc::new(Mutex::new(engine)),
            model,
            device,
            config: StreamConfig::default(),
            delivery,
            template_arguments: Map::new(),
        })
    }

    /// Returns the same tracer with other settings.
    pub fn with(&self, config: StreamConfig) -> Self {
        Tracer { config, ..self.clone() }
    }

    /// Returns the same tracer with a budget that prunes `share` of the query-key pairs, such as 0.95; its
    /// other settings stay.
    pub fn pruned(&self, share: f64) -> Self {
        self.with(StreamConfig { pruned: Some(share), ..self.config.clone() })
    }

    /// Returns the same tracer, attending to all keys while it finds and records blocks as ever: the run is the
    /// model's own, and masses are true shares of its softmax. O(T²) time, O(T) memory.
    #[must_use]
    pub fn exact(&self) -> Self {
        self.with(StreamConfig { exact: true, ..self.config.clone() })
    }

    /// Returns the same tracer with `top_k` key blocks kept for each query block and head; its other settings
    /// stay.
    pub fn top_k(&self, top_k: usize) -> Self {
        self.with(StreamConfig { top_k, pruned: None, ..self.config.clone() })
    }

    pub fn model(&self) -> &ModelInfo {
        &self.model
    }

    pub fn config(&self) -> &StreamConfig {
        &self.config
    }

    /// Returns "cpu", or the GPU's name.
    pub fn device(&self) -> &str {
        &self.device
    }

    /// Counts the tokens of a text.
    ///
    /// # Errors
    /// [`Error::Prompt`] for an empty text, [`Error::Engine`].
    pub fn count_tokens(&self, text: &str) -> Result<usize, Error> {
        ask!(self, Request::CountTokens { text: text.into() }, Count)
    }

    /// Makes the prompt that asks the model for the next message of a conversation, by its chat template.
    ///
    /// # Errors
    /// [`Error::Model`] when it has none or a broken one, [`Error::Prompt`] for messages that the template
    /// does not take, [`Error::Engine`].
    pub fn chat_prompt(&self, messages: &[Message]) -> Result<String, Error> {
        let (messages, arguments) = (messages.to_vec(), self.template_arguments.clone());
        ask!(self, Request::Chat { messages, arguments }, Prompt)
    }

    /// Returns the same tracer, whose chat template gets the argument `name`, such as `enable_thinking` with the
    /// value `false`; its other settings stay.
    #[must_use]
    pub fn template_argument(&self, name: &str, value: impl Into<Value>) -> Self {
        let mut tracer = self.clone();
        tracer.template_arguments.insert(name.into(), value.into());
        tracer
    }

    /// Plans the memory that a trace of `n_tokens` would need.
    ///
    /// # Errors
    /// [`Error::Setting`] when the settings do not fit such a prompt, [`Error::Engine`].
    pub fn plan(&self, n_tokens: usize) -> Result<MemoryPlan, Error> {
        ask!(self, Request::Plan { n_tokens, config: self.config.clone() }, Plan)
    }

    /// Finds the key blocks that the model attends to over a prompt, and runs it on those alone.
    ///
    /// # Errors
    /// [`Error::Prompt`], [`Error::Setting`], [`Error::Memory`] before anything runs; [`Error::NotFinite`],
    /// [`Error::Engine`].
    pub fn trace(&self, prompt: &str) -> Result<Trace, Error> {
        let (prompt, config) = (prompt.into(), self.config.clone());
        let request = match &self.delivery {
            Delivery::Whole => Request::Trace { prompt, config },
            Delivery::InPieces(layers) => Request::TraceInPieces { prompt, config, layers: layers.clone() },
        };
        match self.call(request, Payload::None)? {
            (Reply::Traced, Payload::Trace(trace)) => Ok(trace),
            (reply, _) => Err(unexpected(&reply)),
        }
    }

    /// Makes a trace that records the attention of one piece of the prompt key by key, such as a chain of
    /// thought; `bytes` of the prompt.
    ///
    /// # Errors
    /// As [`Tracer::trace`]; [`Error::Missing`] for bytes that are no piece of the prompt.
    pub fn trace_focused(&self, prompt: &str, bytes: Range<usize>) -> Result<Trace, Error> {
        let Some(piece) = prompt.get(bytes.clone()).filter(|piece| !piece.is_empty()) else {
            return Err(Error::missing(
                "text at bytes",
                format!("{bytes:?}"),
                format!("the prompt has bytes 0..{}, and a piece whole characters of it", prompt.len()),
            ));
        };
        let start = bytes.start + piece.len() - piece.trim_start().len();
        // White space and the piece's first word may share a token, and a text cut short may have one more.
        let before = prompt[..start].trim_end();
        let first = if before.is_empty() { 0 } else { self.count_tokens(before)?.saturating_sub(1) };
        let focus = Some(first..self.count_tokens(&prompt[..bytes.end])?.min(self.count_tokens(prompt)?));
        self.with(StreamConfig { focus, ..self.config.clone() }).trace(prompt)
    }

    /// Makes a trace of a prompt and its answer that records key by key the queries that produce the answer;
    /// returns it with the answer's tokens.
    ///
    /// # Errors
    /// As [`Tracer::trace`]; [`Error::Prompt`] for an answer without tokens.
    pub fn trace_answer(&self, prompt: &str, answer: &str) -> Result<(Trace, Span), Error> {
        let text = format!("{prompt}{answer}");
        let span = Span::from(self.count_tokens(prompt)?..self.count_tokens(&text)?);
        if span.is_empty() {
            return Err(Error::prompt(
                "an answer of at least one token",
                format!("{answer:?}"),
                "give the text that follows the prompt",
            ));
        }
        let focus = Some(span.predictors().range());
        Ok((self.with(StreamConfig { focus, ..self.config.clone() }).trace(&text)?, span))
    }

    /// Returns the same trace with its fidelity: the prompt is run densely, in O(T²) time, and compared.
    ///
    /// # Errors
    /// [`Error::Setting`] for another model's trace; as [`Tracer::trace`].
    pub fn compare(&self, trace: &Trace) -> Result<Trace, Error> {
        self.compare_with(trace, &CompareConfig::default())
    }

    /// Returns the same trace with its fidelity, measured on some rows alone, or with an answer's
    /// probability.
    ///
    /// # Errors
    /// As [`Tracer::compare`]; [`Error::Setting`] for no rows, [`Error::Prompt`] for an empty answer.
    pub fn compare_with(&self, trace: &Trace, config: &CompareConfig) -> Result<Trace, Error> {
        let fidelity = ask!(self, Request::Compare(config.clone()), Compared, Payload::Trace(trace.clone()))?;
        Ok(trace.with_fidelity(fidelity))
    }

    pub(super) fn call(&self, request: Request, payload: Payload) -> Result<(Reply, Payload), Error> {
        self.call_with(request, payload, &mut show)
    }

    pub(super) fn call_with(
        &self,
        request: Request,
        payload: Payload,
        report: &mut dyn FnMut(Progress),
    ) -> Result<(Reply, Payload), Error> {
        // A cell that panicked during a call leaves nothing half-done behind: the engine is a process, or
        // holds no state.
        begin();
        let answer =
            self.engine.lock().unwrap_or_else(PoisonError::into_inner).call(request, payload, report);
        end();
        answer
    }
}

impl Describe for Tracer {
    fn table(&self) -> Table {
        let table = Table::new(format!("Tracer of {}", self.model().line())).row("device", self.device());
        [16_384, 131_072, 1_048_576].iter().fold(table, |table, &n_tokens| {
            let cost = self.plan(n_tokens).map(|plan| {
                let total = format_bytes(plan.total());
                if plan.total() <= plan.limit {
                    return format!("needs {total}");
                }
                format!("needs {total}, more than the {} that are free", format_bytes(plan.limit))
            });
            table.row(&count(n_tokens, "token"), cost.unwrap_or_else(|e| e.to_string()))
        })
    }
}

show_as_table!(Tracer);
