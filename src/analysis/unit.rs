//! What the numbers of a measure are, so that a figure can tell them as a person would.

use serde::{Deserialize, Serialize};

/// How a number of a measure is told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Told as they are.
    #[default]
    Plain,
    /// By how much a log-probability falls, in nats.
    Nats,
    /// The natural logarithm of a divergence in nats.
    LogKl,
}
