//! The settings with which an answer is scored.

use serde::{Deserialize, Serialize};

/// The model's attention while it reads an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ScoreConfig {
    /// Attend to everything, in O(T²) time, instead of the blocks that the search keeps.
    pub dense: bool,
}
