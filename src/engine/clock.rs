//! The speed of a run, told while it goes on.

use std::{
    cell::Cell,
    time::{Duration, Instant},
};

use super::decoder::Reached;
use crate::protocol::{LayerProgress, Progress};

/// Time between two reports from inside a layer.
const PERIOD: Duration = Duration::from_secs(1);

/// Measures the speed of the layers.
pub struct Clock {
    start: Instant,
    stage: &'static str,
    n_tokens: usize,
    n_layers: usize,
    /// When it last told something.
    told: Cell<Instant>,
}

impl Clock {
    /// Starts for a stage over a prompt.
    pub fn start(stage: &'static str, n_tokens: usize, n_layers: usize) -> Self {
        let now = Instant::now();
        Clock { start: now, stage, n_tokens, n_layers, told: Cell::new(now) }
    }

    /// Returns the progress when a layer is done.
    pub fn at(&self, layer: usize) -> Progress {
        self.reached(layer + 1, 0.0)
    }

    /// Returns the progress when a layer is done, or, if nothing was told for a while, a part of it.
    pub fn during<T>(&self, layer: usize, reached: &Reached<T>) -> Option<Progress> {
        match reached {
            Reached::End(_) => Some(self.at(layer)),
            Reached::Row(row) => {
                let share = (*row as f64 / self.n_tokens.max(1) as f64).min(1.0);
                (self.told.get().elapsed() >= PERIOD).then(|| self.reached(layer, share))
            }
        }
    }

    fn reached(&self, n_done: usize, of_next: f64) -> Progress {
        self.told.set(Instant::now());
        let done = n_done as f64 + of_next;
        let seconds = self.start.elapsed().as_secs_f64().max(1e-9);
        let whole = seconds / done.max(1e-9) * self.n_layers as f64;
        Progress::Layer(LayerProgress {
            stage: self.stage.into(),
            layer: n_done,
            of_next,
            n_layers: self.n_layers,
            tokens_per_second: self.n_tokens as f64 / whole,
            seconds_left: (whole - seconds).max(0.0),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layer_is_told_of_at_its_end_and_within_once_a_period() {
        let clock = Clock::start("trace", 1000, 4);
        let row = |row| clock.during(1, &Reached::<()>::Row(row));
        assert_eq!(row(500), None, "nothing within a second");
        clock.told.set(Instant::now() - PERIOD);
        let Some(Progress::Layer(told)) = row(500) else { panic!("a second passed") };
        assert_eq!((told.layer, told.of_next, told.n_layers), (1, 0.5, 4));
        assert_eq!(row(600), None, "just told");
        let Some(Progress::Layer(told)) = clock.during(1, &Reached::End(())) else { panic!("always") };
        assert_eq!((told.layer, told.of_next), (2, 0.0));
    }
}
