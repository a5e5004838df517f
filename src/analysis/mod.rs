//! What a trace says: pure functions on [`Trace`](crate::Trace), which need no model.

mod auc;
mod flow;
mod routes;
mod sentence_attention;

pub use auc::auc;
pub use routes::{RouteConfig, RouteEdge, RouteMeasure, Routes};
pub use sentence_attention::SentenceAttention;
