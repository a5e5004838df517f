//! Memory in words and in bytes, and the plan that says beforehand what a run will take.

use serde::{Deserialize, Serialize};

use crate::{
    error::Error,
    words::numbers::{format_bytes, rounded_up},
};

/// What a run will hold at its peak, part by part.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MemoryPlan {
    pub n_tokens: usize,
    /// Bytes of each part.
    pub parts: Vec<(String, u64)>,
    /// What may be taken: the limit that was set, else what the device has free. Bytes.
    pub limit: u64,
    pub layout: Layout,
    /// What makes the run slower than it would be with more memory.
    pub slower: Option<String>,
}

/// What is where, and how much of it at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layout {
    /// Rows of the prompt that are worked on together: whole query blocks.
    pub chunk_rows: usize,
    /// Whether the next layer's weights arrive while a layer runs.
    pub weights_ahead: bool,
    /// Whether hidden states wait in the host's memory between layers.
    pub hidden_on_host: bool,
}

impl MemoryPlan {
    /// Bytes of all parts.
    pub fn total(&self) -> u64 {
        self.parts.iter().fold(0, |total: u64, part| total.saturating_add(part.1))
    }

    /// # Errors
    /// [`Error::Memory`] when the plan does not fit its limit.
    pub fn check(&self) -> Result<(), Error> {
        if self.total() <= self.limit {
            return Ok(());
        }
        let needed = format_bytes(rounded_up(self.total()));
        let largest = self.parts.iter().max_by_key(|part| part.1).map_or("", |part| &part.0);
        Err(Error::Memory {
            fix: format!("raise the limit to {needed} or shorten the prompt (most is for {largest})"),
            needed,
            limit: format_bytes(self.limit),
        })
    }
}
