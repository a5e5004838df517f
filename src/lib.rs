//! What did a language model look at over a very long prompt?
pub mod config;
pub mod error;
pub mod trace;
