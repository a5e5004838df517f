//! What a trace says: pure functions on [`Trace`](crate::Trace), which need neither model nor device.

mod anchors;
mod auc;
mod describe;
mod edges;
mod flow;
mod heads;
mod matrix;
mod retrieval;
mod routes;
mod sentence;
mod sentence_attention;

pub use anchors::{AnchorConfig, ThoughtAnchors};
pub use auc::auc;
pub use edges::{Edge, EdgeRows, SentenceEdge, SentenceEdgeRows};
pub use heads::{Calibration, HeadRanking, RankedHead};
pub use matrix::{SentenceMatrix, SuppressionMeasure};
pub use retrieval::{RetrievalHead, RetrievalHeads};
pub use routes::{RouteConfig, RouteEdge, RouteMeasure, Routes};
pub use sentence::Sentence;
pub use sentence_attention::SentenceAttention;
