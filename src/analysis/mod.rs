//! What a trace shows: pure functions on [`Trace`](crate::Trace), which need neither model nor device.

mod anchors;
mod auc;
mod causal_test;
mod edges;
mod flow;
mod head_ranking;
mod readers;
mod reading;
mod retrieval;
mod routes;
mod sentence;
mod sentence_attention;
mod sentence_matrix;
mod shared_experts;
mod sinks;
#[cfg(test)]
pub(crate) mod synthetic;
mod unit;
mod vertical;

pub use anchors::{AnchorConfig, ThoughtAnchors};
pub use auc::auc;
pub use causal_test::{CausalConfig, CausalTest};
pub use edges::{Edge, EdgeRows, ExpertEdge, ExpertRows, SentenceEdge, SentenceEdgeRows};
pub use flow::{RouteEdge, RouteMeasure};
pub use head_ranking::{Calibration, HeadRanking, RankedHead};
pub use reading::{Passage, Reading};
pub use retrieval::RetrievalHeads;
pub use routes::{RouteConfig, Routes};
pub use sentence::Sentence;
pub use sentence_attention::SentenceAttention;
pub use sentence_matrix::{SentenceMatrix, SuppressionMeasure};
pub use shared_experts::{ExpertsOfLayer, SharedExperts};
pub use sinks::Sink;
pub use unit::Unit;
