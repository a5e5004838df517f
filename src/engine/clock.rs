//! The speed of a run, told while it goes on.

use std::time::Instant;

use crate::protocol::{LayerProgress, Progress};

/// Measures the speed of the layers.
pub struct Clock {
    start: Instant,
    stage: &'static str,
    n_tokens: usize,
    n_layers: usize,
}

impl Clock {
    /// Starts for a stage over a prompt.
    pub fn start(stage: &'static str, n_tokens: usize, n_layers: usize) -> Self {
        Clock { start: Instant::now(), stage, n_tokens, n_layers }
    }

    /// Returns the progress when a layer is done.
    pub fn at(&self, layer: usize) -> Progress {
        let done = (layer + 1) as f64;
        let seconds = self.start.elapsed().as_secs_f64().max(1e-9);
        let whole = seconds / done * self.n_layers as f64;
        Progress::Layer(LayerProgress {
            stage: self.stage.into(),
            layer: layer + 1,
            n_layers: self.n_layers,
            tokens_per_second: self.n_tokens as f64 / whole,
            seconds_left: (whole - seconds).max(0.0),
        })
    }
}
