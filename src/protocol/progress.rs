//! The progress of an engine, as plain data.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A report of an engine at work.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Progress {
    /// A layer is done, or a part of it.
    Layer(LayerProgress),
    /// A remark on the run, such as why it is slower than it could be.
    Note(String),
    /// A step of loading a model, in words.
    Loading(String),
    /// The text that the model has written since the last report.
    Text(String),
}

/// The progress of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LayerProgress {
    /// "trace", "dense" or "sample" for a comparison, "prompt" before writing.
    pub stage: String,
    /// Layers that are done.
    pub layer: usize,
    pub n_layers: usize,
    /// Share of the next layer that is done.
    #[serde(default)]
    pub of_next: f64,
    /// Tokens through all layers per second, at the rate so far.
    pub tokens_per_second: f64,
    pub seconds_left: f64,
}

impl fmt::Display for LayerProgress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let LayerProgress { stage, layer, n_layers, tokens_per_second, seconds_left, .. } = self;
        write!(
            f,
            "{stage}: layer {layer} of {n_layers}, {tokens_per_second:.0} tokens/s, {seconds_left:.0} s left"
        )
    }
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Progress::Layer(progress) => progress.fmt(f),
            Progress::Note(text) | Progress::Loading(text) | Progress::Text(text) => f.write_str(text),
        }
    }
}
