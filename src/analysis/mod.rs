//! What can be read off a trace: pure functions, which need neither model nor device.

mod retrieval;

pub use retrieval::{RetrievalHead, RetrievalHeads};
