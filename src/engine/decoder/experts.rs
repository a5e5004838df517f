//! Feed-forward blocks of which each row takes a few: all experts in one product where the device has it, else rows are
//! gathered by expert, so that each product is large.

use super::{Decoder, Pass};
use crate::{
    engine::{
        device::Device,
        model::{Experts, FeedForward, Mlp, Shared, experts::ExpertsConfig},
    },
    error::Error,
    protocol::Weights,
};

impl<D: Device> Decoder<'_, D> {
    /// Returns what the feed-forward block of a layer writes for normed rows, the next of the pass.
    pub(super) fn feed_forward(&self, pass: &mut Pass<D>, x: &D::Tensor) -> Result<D::Tensor, Error> {
        match (&pass.weights.mlp, &self.model.config.experts) {
            (FeedForward::Dense(mlp), _) => self.mlp(mlp, x),
            (FeedForward::Experts(experts), Some(config)) => self.experts(pass, config, experts, x),
            (FeedForward::Experts(_), None) => {
                unreachable!("a configuration without experts has no such layers")
            }
        }
    }

    fn mlp(&self, mlp: &Mlp<D::Tensor>, x: &D::Tensor) -> Result<D::Tensor, Error> {
        let (gate, up) = (self.linear(x, &mlp.gate)?, self.linear(x, &mlp.up)?);
        let activated = self.device.gated(&gate, &up, self.model.config.activation)?;
        drop((gate, up));
        self.linear(&activated, &mlp.down)
    }

    /// Sums what the experts that rows take write, and what the block that all take writes.
    fn experts(
        &self,
        pass: &mut Pass<D>,
        config: &ExpertsConfig,
        weights: &Experts<D::Tensor>,
        x: &D::Tensor,
    ) -> Result<D::Tensor, Error> {
        let layer = pass.layer;
        let correction = self.model.correction(layer);
        let routes = self.device.route(x, &weights.router, &config.routing, correction)?;
        if self.config.experts {
            pass.experts.extend(self.device.chosen(&routes)?);
        }
        let mixed = self.device.mixed(x, &routes, &weights.experts, self.model.config.activation)?;
        let shared = weights.shared.as_ref().map(|shared| self.shared(shared, x)).transpose()?;
        match (mixed, shared) {
            (Some(mixed), Some(shared)) => self.device.add(&mixed, &shared),
            (Some(mixed), None) => Ok(mixed),
            (None, shared) => {
                let mut sum = shared.map_or_else(|| self.device.zeros_like(x), Ok)?;
                self.add_each(&mut sum, layer, config, x, &routes)?;
                Ok(sum)
            }
        }
    }

    /// Adds to `sum` what one expert after the other writes, each loaded when its turn comes.
    fn add_each(
        &self,
        sum: &mut D::Tensor,
        layer: usize,
        config: &ExpertsConfig,
        x: &D::Tensor,
        routes: &D::Routes,
    ) -> Result<(), Error> {
        // However unevenly experts are taken, no more memory is used than was planned.
        let at_once = config.rows_at_once(self.layout.chunk_rows);
        let (counts, mut end) = (self.device.counts(routes)?, 0);
        for (expert, n_rows) in counts.into_iter().enumerate().filter(|(_, n_rows)| *n_rows > 0) {
            let mlp = self.expert(layer, config, expert)?;
            let first = end;
            end += n_rows;
            for start in (first..end).step_by(at_once) {
                let places = start..(start + at_once).min(end);
                let written = self.mlp(&mlp, &self.device.gathered(x, routes, places.clone())?)?;
                self.device.add_scattered(sum, &written, routes, places)?;
            }
        }
        Ok(())
    }

    fn shared(&self, shared: &Shared<D::Tensor>, x: &D::Tensor) -> Result<D::Tensor, Error> {
        let written = self.mlp(&shared.mlp, x)?;
        match &shared.gate {
            Some(gate) => self.device.times_sigmoid(written, x, gate),
            None => Ok(written),
        }
    }

    /// Loads an expert that rows have chosen.
    fn expert(&self, layer: usize, config: &ExpertsConfig, expert: usize) -> Result<Mlp<D::Tensor>, Error> {
        let is_mapped = self.resident.is_some() && self.layout.weights == Weights::Mapped;
        self.model.expert(layer, config, expert)?.try_map(&mut |weight| match is_mapped {
            true => self.device.weight_in_file(weight),
            false => self.device.weight(weight),
        })
    }
}
