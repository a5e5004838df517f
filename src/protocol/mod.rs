//! What runs a model: in this process, or in a process of its own that is spoken to over pipes.
//!
//! A notebook compiles none of the model code: its [`Tracer`](crate::Tracer) starts the binary `streamtrace serve` and
//! sends it [`Request`]s ([`frame`] says how). With the feature `engine` the same requests are answered in process.

pub mod chat;
pub mod frame;
pub mod generate;
pub mod intervention;
#[cfg(all(unix, not(feature = "engine")))]
mod kernel;
pub mod memory;
pub mod process;
pub mod smallest_top_k;

use std::{fmt, path::PathBuf};

use serde::{Deserialize, Serialize};

pub use chat::Message;
pub use generate::{End, GenerateConfig, Generated};
pub use intervention::{Edges, Effect, Hidden, Intervention, TokenEffect};
pub use memory::{Layout, MemoryPlan};
pub use smallest_top_k::{Criterion, SmallestTopK, Tried};

use crate::{
    error::Error,
    trace::{AnswerScore, CompareConfig, Fidelity, ModelInfo, Span, StreamConfig, Trace},
};

/// Something that an engine is asked to do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// Open a model folder; it replaces the one that was open.
    Load(LoadOptions),
    /// Which model is open.
    Model,
    /// How many tokens a text is.
    CountTokens { text: String },
    /// Make a prompt of messages by the model's chat template.
    Chat { messages: Vec<Message> },
    /// What a trace of so many tokens would take.
    Plan { n_tokens: usize, config: StreamConfig },
    /// Trace a prompt. The reply carries the trace.
    Trace { prompt: String, config: StreamConfig },
    /// Trace a prompt, and send the trace packed in pieces before the reply, layer by layer: these layers alone, or all.
    TraceInPieces { prompt: String, config: StreamConfig, layers: Option<Vec<usize>> },
    /// Compare the trace that comes with the request with dense attention.
    Compare(CompareConfig),
    /// How likely the model finds an answer after a prompt, token by token, sparse or dense.
    Score { prompt: String, answer: String, config: StreamConfig, dense: bool },
    /// Write after a prompt. The text is reported as progress.
    Generate { prompt: String, how: GenerateConfig, config: StreamConfig },
    /// Find the smallest `top_k` that preserves what dense attention does.
    SmallestTopK { prompt: String, criterion: Criterion, config: StreamConfig },
    /// Run the prompt of the trace that comes with the request on its masks, without some attention; say what that changes about
    /// the next token and about those of a span.
    KnockOut { interventions: Vec<Intervention>, span: Span },
    /// Draw the SVG as a PNG, `scale` pixels to a unit.
    Rasterize { svg: String, scale: f32 },
}

/// What an engine answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    Loaded {
        model: ModelInfo,
        device: String,
    },
    Count(usize),
    Prompt(String),
    Plan(MemoryPlan),
    /// The trace comes with the reply, or in pieces before it.
    Traced,
    Compared(Fidelity),
    Scored(AnswerScore),
    Generated(Generated),
    SmallestTopK(SmallestTopK),
    /// One for each intervention.
    KnockedOut(Vec<Effect>),
    /// The picture's bytes come with the reply.
    Rasterized,
}

/// What comes with a request or a reply beside its words.
#[derive(Clone, Default)]
#[expect(clippy::large_enum_variant, reason = "one at a time, on its way through a pipe")]
pub enum Payload {
    #[default]
    None,
    Trace(Trace),
    Bytes(Vec<u8>),
}

/// Which model to run, where, in how much memory.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LoadOptions {
    /// A Hugging Face model folder, a `.gguf` file, or a name on the hub.
    pub model: PathBuf,
    pub device: DeviceChoice,
    /// Most memory that a run may take, in bytes; what is free if not set.
    pub memory: Option<u64>,
}

impl Default for LoadOptions {
    fn default() -> Self {
        LoadOptions { model: PathBuf::new(), device: DeviceChoice::Auto, memory: None }
    }
}

/// Where a model runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeviceChoice {
    /// A GPU if there is one that works, else the CPU.
    #[default]
    Auto,
    Cpu,
    Cuda,
}

/// What an engine reports while it works.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Progress {
    /// A layer is done.
    Layer(LayerProgress),
    /// A step of loading a model, in words.
    Loading(String),
    /// What the model has written since the last report.
    Text(String),
}

/// How far a run has come.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LayerProgress {
    /// "trace", "dense" or "sample" for a comparison, "prompt" before writing.
    pub stage: String,
    /// Layers that are done.
    pub layer: usize,
    pub n_layers: usize,
    /// Tokens through all layers per second, at the rate so far.
    pub tokens_per_second: f64,
    pub seconds_left: f64,
}

impl fmt::Display for LayerProgress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let LayerProgress { stage, layer, n_layers, tokens_per_second, seconds_left } = self;
        write!(f, "{stage}: layer {layer} of {n_layers}, {tokens_per_second:.0} tokens/s, {seconds_left:.0} s left")
    }
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Progress::Layer(progress) => progress.fmt(f),
            Progress::Loading(text) | Progress::Text(text) => f.write_str(text),
        }
    }
}

/// Answers requests; keeps the model between them.
pub trait Engine: Send {
    /// # Errors
    /// What the request can fail with; [`Error::Engine`] when the engine itself is gone.
    fn call(&mut self, request: Request, payload: Payload, progress: &mut dyn FnMut(Progress))
    -> Result<(Reply, Payload), Error>;

    /// What had arrived of the last trace when the connection broke off; once.
    fn arrived(&mut self) -> Option<Trace> {
        None
    }
}

/// The engine of this build: in process with the feature `engine`, else the binary.
pub(crate) fn default_engine() -> Result<Box<dyn Engine>, Error> {
    #[cfg(feature = "engine")]
    return Ok(Box::new(crate::engine::Local::default()));
    #[cfg(all(unix, not(feature = "engine")))]
    kernel::end_with_kernel();
    #[cfg(not(feature = "engine"))]
    Ok(Box::new(process::Process::new(process::Command::find()?)))
}

/// The engine that a line for the shell starts, on whatever machine.
pub(crate) fn engine_of(line: &str) -> Box<dyn Engine> {
    #[cfg(all(unix, not(feature = "engine")))]
    kernel::end_with_kernel();
    Box::new(process::Process::new(process::Command::line(line)))
}

/// Draws an SVG as a PNG, `scale` pixels to a unit.
///
/// # Errors
/// [`Error::Engine`] when the engine's binary is not there.
#[cfg(not(feature = "engine"))]
pub(crate) fn rasterize(svg: &str, scale: f32) -> Result<Vec<u8>, Error> {
    let request = Request::Rasterize { svg: svg.into(), scale };
    match default_engine()?.call(request, Payload::None, &mut |_| {})? {
        (Reply::Rasterized, Payload::Bytes(png)) => Ok(png),
        (reply, _) => Err(unexpected(&reply)),
    }
}

/// An engine that answers something else than it was asked.
pub(crate) fn unexpected(reply: &Reply) -> Error {
    Error::Engine {
        what: format!("an answer to another question: {reply:?}"),
        fix: "this is a bug in the engine: please report it".into(),
    }
}
