//! What a trace says: pure functions on [`Trace`](crate::Trace), which need no model.

mod auc;
mod sentence_attention;

pub use auc::auc;
pub use sentence_attention::SentenceAttention;
