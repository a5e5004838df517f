//! The attention of a language model over a very long prompt.
//!
//! Classical attention analysis needs a T × T matrix per head. streamtrace finds, for every head and query
//! block, the few key blocks that matter (*Sparse Tracing*, Rosser et al. 2025, arXiv 2510.19875), runs the
//! model on those alone, and keeps the remaining attention as a [`Trace`] that can be looked at.
//!
//! # A tour
//!
//! A model folder becomes a [`Tracer`], a prompt a [`Trace`]:
//!
//! ```no_run
//! use streamtrace::prelude::*;
//!
//! let tracer = Tracer::load("models/needle-6m")?; // elsewhere: Tracer::connect
//! let trace = tracer.pruned(0.95).trace("A long prompt. The number for foamy-harp is: 9077192. …")?;
//! trace.save("prompt.trace")?;
//! # Ok::<(), Error>(())
//! ```
//!
//! From here on no model is needed. A trace is opened where it is looked at, and read layer by layer:
//!
//! ```
//! # mod doc { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/trace.rs")); }
//! use streamtrace::prelude::*;
//!
//! # fn main() -> Result<(), Error> {
//! # let folder = tempfile::tempdir().unwrap();
//! # std::env::set_current_dir(&folder).unwrap();
//! # doc::save("prompt.trace");
//! let trace = Trace::open("prompt.trace")?;
//! println!("{trace}"); // model, settings, next token, time, memory
//!
//! let head = trace.head(1, 0)?; // the blocks that one head keeps, and the attention on each
//! let (key_block, mass) = head.row(0).max_by(|a, b| a.1.total_cmp(&b.1)).unwrap();
//! assert_eq!((key_block, mass), (0, 0.75));
//!
//! let harp = trace.find("harp")?; // the tokens that cover a text
//! assert_eq!(trace.span_text(harp)?, "harp");
//! # Ok(())
//! # }
//! ```
//!
//! A trace can be drawn, explored, reported and exported:
//!
//! ```
//! # mod doc { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/trace.rs")); }
//! use streamtrace::prelude::*;
//!
//! # fn main() -> Result<(), Error> {
//! # let folder = tempfile::tempdir().unwrap();
//! # std::env::set_current_dir(&folder).unwrap();
//! # doc::save("prompt.trace");
//! let trace = Trace::open("prompt.trace")?;
//! let map = trace.attention_map(1, 0)?.mark("the needle", trace.find("harp")?)?;
//! map.save("map.svg")?;
//! trace.explore()?.save("explore.html")?; // the prompt as text, all heads, their maps
//! Report::new("Needle").trace(&trace).figure(&map, "One head *reads* it.").save("report.html")?;
//! trace.edges().save("edges.csv")?;
//! # Ok(())
//! # }
//! ```
//!
//! Which heads read a span ([`Trace::readers`])? Which sentences do later ones come back to
//! ([`Trace::thought_anchors`])? By which path did a fact reach the output ([`Trace::routes`]), and does it
//! hold when it is cut ([`Tracer::knock_out`])? How much did the pruning lose ([`Tracer::compare`])? The
//! tutorials ask these of prompts whose answers are known ([`tasks`]).
//!
//! # Parts
//!
//! ```text
//!  notebook, command line
//!       │
//!    client ── protocol ══ pipe ══ engine: run → decoder → device ← cpu, cuda
//!       │                            model, search │
//!       ▼                                          ▼
//!     view ← analysis ← tasks, trace ←──────── a trace file
//! ```
//!
//! [`trace`] is the waist: an engine writes traces, everything else reads them. [`analysis`] turns a trace
//! into findings and [`view`] makes them visible; neither needs a model. [`client`] asks an engine in the
//! words of [`protocol`]. With the feature `engine` it runs in this program; otherwise, as in a notebook, it
//! is the process `streamtrace serve`.

// The code that tests and examples share names the crate as examples do.
#[cfg(test)]
extern crate self as streamtrace;

pub mod analysis;
mod atomic_file;
pub mod client;
#[cfg(feature = "engine")]
pub mod engine;
pub mod error;
mod open_file;
pub mod protocol;
mod start;
pub mod study;
pub mod tasks;
pub mod trace;
pub mod view;
pub mod words;

pub use analysis::{CausalConfig, CausalTest};
pub use client::Tracer;
pub use error::Error;
pub use protocol::{
    Criterion, DeviceChoice, Edges, Effect, GenerateConfig, Generated, Gpus, Intervention, LoadOptions,
    MemoryPlan, Message, ScoreConfig, SmallestTopK,
};
pub use trace::{Budget, Estimate, Search, Span, StreamConfig, Trace};
pub use view::{Explore, Report};

/// The names for a notebook: `use streamtrace::prelude::*;`. It never holds a `Result` of our own, which a
/// notebook's own code could not tell from the standard one.
pub mod prelude {
    /// Settings, and the types that methods return.
    pub use crate::{
        Budget, DeviceChoice, Effect, Estimate, GenerateConfig, Generated, Gpus, LoadOptions, MemoryPlan,
        ScoreConfig, Search, SmallestTopK, StreamConfig,
        analysis::{AnchorConfig, Calibration, CausalConfig, RouteConfig, RouteMeasure, SuppressionMeasure},
        tasks::{ChatFrame, RulerConfig},
        trace::CompareConfig,
    };
    /// The types to start from, to ask with, and to show.
    pub use crate::{
        Criterion, Edges, Error, Explore, Intervention, Message, Report, Span, Trace, Tracer,
        analysis::{
            CausalTest, HeadRanking, RetrievalHeads, Routes, Sentence, SentenceMatrix, ThoughtAnchors,
        },
        tasks::{Prompt, ReasoningPrompt, Task, WordProblem},
        trace::SentenceKind,
        view::plot::{AttentionMap, Figure, HeatMap, SideBySide},
    };
}
