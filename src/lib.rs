//! What did a language model look at over a very long prompt?
//!
//! Classical attention analysis needs a T × T matrix per head. streamtrace finds, for every head and query block, the few
//! key blocks that matter (*Sparse Tracing*, Rosser et al. 2025, arXiv 2510.19875), runs the model on those alone, and
//! keeps what is left as a [`Trace`] that can be looked at.
//!
//! ```no_run
//! use streamtrace::prelude::*;
//!
//! let tracer = Tracer::load("models/needle-6m")?;
//! let trace = tracer.trace("A long prompt. The special magic number for foamy-harp is: 9077192. …")?;
//! println!("{trace}");
//! trace.attention_map(4, 2)?.save("map.svg")?;
//! trace.save("prompt.trace")?;
//! # Ok::<(), Error>(())
//! ```
//!
//! The path of a prompt: `model` (tokenize, layers) → `search` → `attention` → [`trace`] → [`analysis`] → [`plot`] →
//! [`notebook`].
//! Left of [`trace`] needs the feature `engine`; a notebook compiles only what is right of it, and its [`Tracer`] speaks to
//! the binary `streamtrace serve` ([`engine`]).

pub mod analysis;
pub mod chat;
pub mod config;
pub mod engine;
pub mod error;
mod explore;
pub mod generate;
pub mod intervention;
pub mod memory;
pub mod notebook;
pub mod plot;
mod report;
mod save;
pub mod smallest;
pub mod tasks;
pub mod trace;
mod tracer;

#[cfg(feature = "engine")]
pub mod attention;
#[cfg(feature = "engine")]
pub mod cpu;
#[cfg(feature = "engine")]
pub mod cuda;
#[cfg(feature = "engine")]
pub mod device;
#[cfg(feature = "engine")]
pub mod lanes;
#[cfg(feature = "engine")]
pub mod model;
#[cfg(feature = "engine")]
pub mod search;

pub use chat::Message;
pub use config::{Estimate, Search, StreamConfig};
pub use engine::{DeviceChoice, LoadOptions};
pub use error::Error;
pub use explore::Explore;
pub use generate::{GenerateConfig, Generated};
pub use intervention::{Edges, Effect, Intervention};
pub use memory::MemoryPlan;
pub use report::Report;
pub use smallest::{Criterion, SmallestTopK};
pub use trace::{Span, Trace};
pub use tracer::Tracer;

/// What a notebook needs: `use streamtrace::prelude::*;`. It never holds a `Result` of our own, which a notebook's own code
/// could not tell from the standard one.
pub mod prelude {
    pub use crate::{
        Criterion, DeviceChoice, Edges, Effect, Error, Estimate, Explore, GenerateConfig, Generated, Intervention, LoadOptions,
        MemoryPlan, Message, Report, Search, SmallestTopK, Span, StreamConfig, Trace, Tracer,
        analysis::{
            AnchorConfig, Calibration, HeadRanking, RetrievalHeads, RouteConfig, RouteMeasure, Routes, SentenceMatrix,
            SuppressionMeasure, ThoughtAnchors,
        },
        plot::{AttentionMap, Figure, HeatMap},
        tasks::{Prompt, RulerConfig, SentenceKind, Task, WordProblem},
        trace::CompareConfig,
    };
}
