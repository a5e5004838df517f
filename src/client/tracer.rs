//! [`Tracer`]: a model that traces prompts.

use std::{
    io::Write,
    ops::Range,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use super::delivery::Delivery;
use crate::{
    analysis::{CausalTest, Routes, Sentence, SentenceMatrix, SuppressionMeasure},
    error::Error,
    protocol::{
        Criterion, Effect, Engine, GenerateConfig, Generated, Intervention, LoadOptions, MemoryPlan, Message,
        Payload, Progress, Reply, Request, SmallestTopK, unexpected,
    },
    start::default_engine,
    tasks::{Prompt, ReasoningPrompt, RulerConfig, WordProblem},
    trace::{AnswerScore, CompareConfig, ModelInfo, Span, StreamConfig, Trace},
    words::{
        numbers::{count, format_bytes},
        safe::{Printed, harmless},
        table::{Describe, Table, show_as_table},
    },
};

/// A loaded model with the settings of its search.
///
/// Cheap to clone: clones share the engine. In a notebook the engine is a process of its own, which outlives a panicking
/// cell, ends with the kernel, and is started again by the next call when it has died.
#[derive(Clone)]
pub struct Tracer {
    pub(super) engine: Arc<Mutex<Box<dyn Engine>>>,
    pub(super) model: ModelInfo,
    pub(super) device: String,
    pub(super) config: StreamConfig,
    pub(super) delivery: Delivery,
}

impl Tracer {
    /// Loads a model folder as Hugging Face lays it out (Llama, Mistral, Qwen2, Qwen3, Phi-3, Gemma 2, Gemma 3), or a `.gguf`
    /// file of such a model, or a name on the Hugging Face hub, such as `Qwen/Qwen3-0.6B` or `owner/name@revision`, which is
    /// downloaded unless it is in the hub's cache. A GPU is used if there is one that works.
    ///
    /// # Errors
    /// [`Error::File`] and [`Error::Model`] for what is wrong with its files, [`Error::Engine`] when there is no engine.
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

    /// Loads a model in an engine of one's own choice, such as a [`Process`](crate::protocol::process::Process).
    ///
    /// # Errors
    /// As [`Tracer::load_with`].
    pub fn with_engine(engine: Box<dyn Engine>, mut options: LoadOptions) -> Result<Self, Error> {
        // An engine has its own idea of the current folder.
        if options.model.exists() {
            options.model = std::path::absolute(&options.model).unwrap_or(options.model);
        }
        Self::of_engine(engine, Request::Load(options), Delivery::Whole)
    }

    pub(super) fn of_engine(
        mut engine: Box<dyn Engine>,
        request: Request,
        delivery: Delivery,
    ) -> Result<Self, Error> {
        let (reply, _) = engine.call(request, Payload::None, &mut show)?;
        let Reply::Loaded { model, device } = reply else { return Err(unexpected(&reply)) };
        Ok(Tracer {
            engine: Arc::new(Mutex::new(engine)),
            model,
            device,
            config: StreamConfig::default(),
            delivery,
        })
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

    /// The prompt that asks the model for the next message of a conversation, by its chat template.
    ///
    /// # Errors
    /// [`Error::Model`] when it has none or a broken one, [`Error::Prompt`] for messages that the template does not take,
    /// [`Error::Engine`].
    pub fn chat(&self, messages: &[Message]) -> Result<String, Error> {
        match self.call(Request::Chat { messages: messages.to_vec() }, Payload::None)? {
            (Reply::Prompt(prompt), _) => Ok(prompt),
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

    /// A word problem's prompt, fitted to this model's tokens.
    ///
    /// # Errors
    /// [`Error::Prompt`] when facts, question and chain alone are longer.
    pub fn word_problem(&self, problem: &WordProblem, n_tokens: usize) -> Result<ReasoningPrompt, Error> {
        problem.prompt(n_tokens, &mut |text| self.count_tokens(text))
    }

    /// Finds what the model attends to over a prompt, and runs it on that alone.
    ///
    /// # Errors
    /// [`Error::Prompt`], [`Error::Setting`], [`Error::Memory`] before anything runs; [`Error::NotFinite`], [`Error::Engine`].
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

    /// A trace that records the attention of one piece of the prompt key by key, such as a chain of thought; `bytes` of the
    /// prompt.
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

    /// The same trace with its fidelity: the prompt is run densely, in O(T²) time, and compared.
    ///
    /// # Errors
    /// [`Error::Setting`] for another model's trace; as [`Tracer::trace`].
    pub fn compare(&self, trace: &Trace) -> Result<Trace, Error> {
        self.compare_with(trace, &CompareConfig::default())
    }

    /// The same trace with its fidelity, measured on some rows alone, or with an answer's probability.
    ///
    /// # Errors
    /// As [`Tracer::compare`]; [`Error::Setting`] for no rows, [`Error::Prompt`] for an empty answer.
    pub fn compare_with(&self, trace: &Trace, what: &CompareConfig) -> Result<Trace, Error> {
        match self.call(Request::Compare(what.clone()), Payload::Trace(trace.clone()))? {
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
    pub fn knock_out(
        &self,
        trace: &Trace,
        interventions: &[Intervention],
        span: impl Into<Span>,
    ) -> Result<Vec<Effect>, Error> {
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

    /// Whether a route carries an answer, the tokens of `answer` in the traced prompt: by how much it becomes less likely without
    /// the route, and without each of so many random routes of the same layers and query blocks.
    ///
    /// # Errors
    /// As [`Tracer::knock_out`].
    pub fn test_routes(
        &self,
        trace: &Trace,
        routes: &Routes,
        answer: impl Into<Span>,
        n_controls: usize,
        seed: u64,
    ) -> Result<CausalTest, Error> {
        let mut interventions = vec![routes.intervention()];
        interventions.extend(routes.controls(trace, n_controls, seed)?);
        let effects = self.knock_out(trace, &interventions, answer)?;
        Ok(CausalTest::of_effects(&effects[0], &effects[1..], &self.model.name))
    }

    fn score_with(&self, prompt: &str, answer: &str, dense: bool) -> Result<AnswerScore, Error> {
        let request = Request::Score {
            prompt: prompt.into(),
            answer: answer.into(),
            config: self.config.clone(),
            dense,
        };
        match self.call(request, Payload::None)? {
            (Reply::Scored(score), _) => Ok(score),
            (reply, _) => Err(unexpected(&reply)),
        }
    }

    /// A trace of a prompt and its answer, recording key by key the queries that produce the answer; and where it stands.
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

    /// The smallest `top_k` with which the model does what it does with dense attention, and those that were tried. One dense
    /// run, in O(T²) time, then some dozen sparse ones.
    ///
    /// # Errors
    /// As [`Tracer::trace`]; [`Error::Setting`] for a bound that cannot be met, or an answer that dense attention does not give.
    pub fn smallest_top_k(&self, prompt: &str, criterion: &Criterion) -> Result<SmallestTopK, Error> {
        let (criterion, config) = (criterion.clone(), self.config.clone());
        match self.call(Request::SmallestTopK { prompt: prompt.into(), criterion, config }, Payload::None)? {
            (Reply::SmallestTopK(found), _) => Ok(found),
            (reply, _) => Err(unexpected(&reply)),
        }
    }

    /// Lets the model write after a prompt, on what the search keeps or densely; shows the text as it comes.
    ///
    /// # Errors
    /// As [`Tracer::trace`]; [`Error::Setting`] for what `how` cannot mean. [`Error::Memory`] counts the weights, keys and
    /// values of all layers, which a trace does not hold.
    pub fn generate(&self, prompt: &str, how: &GenerateConfig) -> Result<Generated, Error> {
        let mut printed = Printed::default();
        let generated = self.generate_with(prompt, how, |text| show(Progress::Text(printed.next(text))))?;
        show(Progress::Text("\n".into()));
        Ok(generated)
    }

    /// As [`Tracer::generate`], with the text given to `on_text` piece by piece.
    ///
    /// # Errors
    /// As [`Tracer::generate`].
    pub fn generate_with(
        &self,
        prompt: &str,
        how: &GenerateConfig,
        mut on_text: impl FnMut(&str),
    ) -> Result<Generated, Error> {
        let request =
            Request::Generate { prompt: prompt.into(), how: how.clone(), config: self.config.clone() };
        let mut report = |progress| match progress {
            Progress::Text(text) => on_text(&text),
            layer => show(layer),
        };
        match self.call_with(request, Payload::None, &mut report)? {
            (Reply::Generated(generated), _) => Ok(generated),
            (reply, _) => Err(unexpected(&reply)),
        }
    }

    fn call(&self, request: Request, payload: Payload) -> Result<(Reply, Payload), Error> {
        self.call_with(request, payload, &mut show)
    }

    fn call_with(
        &self,
        request: Request,
        payload: Payload,
        report: &mut dyn FnMut(Progress),
    ) -> Result<(Reply, Payload), Error> {
        // A cell that panicked during a call leaves nothing half-done behind: the engine is a process, or holds no state.
        self.engine.lock().unwrap_or_else(PoisonError::into_inner).call(request, payload, report)
    }
}

/// Progress in whole lines, which a notebook shows as they come, and text as it is: on standard output there, else on
/// standard error.
fn show(progress: Progress) {
    let end = if matches!(progress, Progress::Text(_)) { "" } else { "\n" };
    let mut out: Box<dyn Write> = match std::env::var_os("EVCXR_IS_RUNTIME") {
        Some(_) => Box::new(std::io::stdout()),
        None => Box::new(std::io::stderr()),
    };
    // A line that cannot be written is no reason to stop.
    let _ = write!(out, "{}{end}", harmless(&progress.to_string())).and_then(|()| out.flush());
}

impl Describe for Tracer {
    fn table(&self) -> Table {
        let table = Table::new(format!("Tracer of {}", self.model().line())).row("device", self.device());
        [16_384, 131_072, 1_048_576].iter().fold(table, |table, &n_tokens| {
            let cost = self.plan(n_tokens).map(|plan| match plan.total() <= plan.limit {
                true => format!("takes {}", format_bytes(plan.total())),
                false => format!(
                    "takes {}, more than the {} there are",
                    format_bytes(plan.total()),
                    format_bytes(plan.limit)
                ),
            });
            table.row(&count(n_tokens, "token"), cost.unwrap_or_else(|e| e.to_string()))
        })
    }
}

show_as_table!(Tracer);
