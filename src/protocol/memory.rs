//! Memory in words and in bytes, and the plan that gives a run's memory beforehand.

use serde::{Deserialize, Serialize};

use crate::{
    error::Error,
    words::numbers::{format_bytes, rounded_up},
};

/// The memory that a run will hold at its peak, part by part.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MemoryPlan {
    pub n_tokens: usize,
    /// Bytes of each part.
    pub parts: Vec<(String, u64)>,
    /// Bytes that may be taken: the limit that was set, else the device's free memory.
    pub limit: u64,
    pub layout: Layout,
    /// The reason why the run is slower than with more memory.
    pub slower: Option<String>,
}

/// The places of a run's parts, and the rows that are worked on at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layout {
    /// Rows of the prompt that are worked on together: whole query blocks.
    pub chunk_rows: usize,
    pub weights: Weights,
    /// Whether hidden states wait in the host's memory between layers.
    pub hidden_on_host: bool,
    /// Whether a layer's record leaves the device before the next layer runs, instead of meanwhile.
    pub record_first: bool,
    /// Whether an expert's weights come when rows have chosen it, one expert's at a time, and not with their layer's.
    #[serde(default)]
    pub experts_when_chosen: bool,
}

/// How a layer's weights come to the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Weights {
    /// All stay there from run to run.
    Kept,
    /// All are there for the run.
    Held,
    /// All are multiplied where the file is mapped; a prompt gets one layer's at a time as numbers.
    Mapped,
    /// The next layer's arrive while a layer runs.
    Ahead,
    /// A layer waits for its own.
    Waiting,
}

impl MemoryPlan {
    /// Returns the sum of all parts, in bytes.
    pub fn total(&self) -> u64 {
        self.parts.iter().fold(0, |total: u64, part| total.saturating_add(part.1))
    }

    /// Returns the bytes of the weights and the output layer.
    pub fn weights(&self) -> u64 {
        let is_weights = |name: &str| name.starts_with("weights") || name == "output layer";
        self.parts.iter().filter(|(name, _)| is_weights(name)).map(|part| part.1).sum()
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
