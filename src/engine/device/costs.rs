//! What a run leaves on a device, and what its stages take.

use std::{ops::AddAssign, time::Duration};

use serde::{Deserialize, Serialize};

/// Costs of the two stages that this crate is about.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct StageCosts {
    pub search: Duration,
    pub attention: Duration,
    /// Keys, or nodes that stand for keys, that the search read for all heads; `None` where there was no
    /// search.
    pub keys_read: Option<u64>,
}

impl AddAssign for StageCosts {
    fn add_assign(&mut self, other: Self) {
        self.search += other.search;
        self.attention += other.attention;
        self.keys_read = other.keys_read.map(|n| n + self.keys_read.unwrap_or(0)).or(self.keys_read);
    }
}

/// The data that a run leaves on the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// One layer after the other, nothing of those before.
    Trace,
    /// The weights, keys and values of all layers, for the tokens to come.
    Generate,
}

impl Purpose {
    /// Layers whose weights, keys and values are there at a time.
    pub fn layers_held(self, n_layers: usize) -> usize {
        match self {
            Purpose::Trace => 1,
            Purpose::Generate => n_layers,
        }
    }
}
