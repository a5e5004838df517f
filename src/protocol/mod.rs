//! Requests and replies of an engine, which runs in this process or in one of its own that is spoken to over
//! pipes.
//!
//! A notebook compiles none of the model code: its [`Tracer`](crate::Tracer) starts the binary
//! `streamtrace serve` and sends it [`Request`]s ([`frame`] says how). With the feature `engine` the same
//! requests are answered in process.

pub mod beside;
pub mod chat;
pub mod frame;
pub mod generate;
pub mod intervention;
#[cfg(unix)]
mod kernel;
mod load;
pub mod memory;
pub mod process;
mod progress;
mod score;
pub mod smallest_top_k;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub use chat::Message;
pub use generate::{End, GenerateConfig, Generated};
pub use intervention::{Edges, Effect, Hidden, Intervention, TokenEffect};
pub use load::{DeviceChoice, Gpus, LoadOptions};
pub use memory::{Layout, MemoryPlan, Weights};
pub use progress::{LayerProgress, Progress};
pub use score::ScoreConfig;
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
    /// Say which model is open.
    Model,
    /// Count the tokens of a text.
    CountTokens { text: String },
    /// Make a prompt of messages by the model's chat template, which gets these arguments.
    Chat {
        messages: Vec<Message>,
        #[serde(default, skip_serializing_if = "Map::is_empty")]
        arguments: Map<String, Value>,
    },
    /// Plan the memory of a trace of `n_tokens`.
    Plan { n_tokens: usize, config: StreamConfig },
    /// Trace a prompt. The reply carries the trace.
    Trace { prompt: String, config: StreamConfig },
    /// Trace a prompt, and send the trace packed in pieces before the reply, layer by layer: these layers
    /// alone, or all.
    TraceInPieces { prompt: String, config: StreamConfig, layers: Option<Vec<usize>> },
    /// Compare the trace that comes with the request with dense attention.
    Compare(CompareConfig),
    /// Score an answer after a prompt, token by token, sparse or dense.
    Score { prompt: String, answer: String, config: StreamConfig, dense: bool },
    /// Write after a prompt. The text is reported as progress.
    Generate { prompt: String, how: GenerateConfig, config: StreamConfig },
    /// Find the smallest `top_k` that preserves the result of dense attention.
    SmallestTopK { prompt: String, criterion: Criterion, config: StreamConfig },
    /// Run the prompt of the trace that comes with the request on its masks, without some attention; report
    /// the effect on the next token and on those of an answer in the prompt.
    KnockOut { interventions: Vec<Intervention>, answer: Option<Span> },
    /// Draw the SVG as a PNG, `scale` pixels to a unit.
    Rasterize { svg: String, scale: f32 },
}

/// An engine's answer.
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

/// The data that comes with a request or a reply.
#[derive(Clone, Default)]
pub enum Payload {
    #[default]
    None,
    Trace(Trace),
    /// A trace whose numbers its receiver, on the same machine, reads from the file that the sender holds open; it
    /// arrives as [`Payload::Trace`].
    Beside(Trace),
    Bytes(Vec<u8>),
}

/// Answers requests; keeps the model between them.
pub trait Engine: Send {
    /// # Errors
    /// The request's own errors; [`Error::Engine`] when the engine itself is gone.
    fn call(
        &mut self,
        request: Request,
        payload: Payload,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<(Reply, Payload), Error>;

    /// Returns the part of the last trace that had arrived when the connection broke off; once.
    fn arrived(&mut self) -> Option<Trace> {
        None
    }
}

/// Returns the error for an engine whose reply does not fit the request.
pub(crate) fn unexpected(reply: &Reply) -> Error {
    Error::engine(
        format!("an answer to another question: {reply:?}"),
        "this is a bug in the engine: please report it",
    )
}
