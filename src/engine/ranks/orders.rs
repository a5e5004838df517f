//! What the first rank asks of the others, and what they report.

use serde::{Deserialize, Serialize};

use super::part_record::Header;
use crate::{
    error::Error,
    protocol::LoadOptions,
    trace::{ModelInfo, Span, StreamConfig},
};

/// An order of the first rank.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Order {
    Load(LoadOptions),
    /// Connect the devices.
    Connect,
    /// Say how much memory a run may take.
    Limit {
        n_tokens: usize,
        config: StreamConfig,
    },
    /// Trace the rows of this rank, of the tokens that come with the order, within so many bytes, with what sentences
    /// get.
    Trace {
        sentences: Vec<Span>,
        config: StreamConfig,
        memory: u64,
    },
}

/// The report on an order.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Report {
    Loaded(ModelInfo),
    Connected,
    Limit(u64),
    /// The next layer's record, whose arrays follow.
    Record(Header),
    /// All records are there; the logits after the prompt's last row come with it, if the row is of this rank.
    Traced,
    /// The rank ends.
    Failed(Error),
}
