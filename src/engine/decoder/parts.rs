//! The parts of a layer beside its attention: norms, products, rotations, the feed-forward block.

use std::ops::Range;

use super::{Decoder, Pass};
use crate::{
    engine::{
        device::Device,
        model::{LayerWeights, Linear, family::QkNorm},
    },
    error::Error,
};

impl<D: Device> Decoder<'_, D> {
    /// Adds to rows what attention writes; takes `attended`, whose memory the feed-forward block needs.
    pub(super) fn after_attention(
        &self,
        weights: &LayerWeights<D::Tensor>,
        x: &D::Tensor,
        attended: D::Tensor,
    ) -> Result<D::Tensor, Error> {
        let written = self.linear(&attended, &weights.output)?;
        self.device.add(x, &self.maybe_norm(written, weights.attention_post_norm.as_ref())?)
    }

    /// Adds to rows what the feed-forward block writes.
    pub(super) fn after_mlp(&self, pass: &mut Pass<D>, x: D::Tensor) -> Result<D::Tensor, Error> {
        let weights = pass.weights;
        let mlp = self.of_normed(&x, weights.mlp_norm.as_ref(), |x| self.feed_forward(pass, x))?;
        self.device.add(&x, &self.maybe_norm(mlp, weights.mlp_post_norm.as_ref())?)
    }

    /// Returns the normed and rotated queries of rows. `[n_rows, n_heads · head_dim]`
    pub(super) fn queries(
        &self,
        weights: &LayerWeights<D::Tensor>,
        x: &D::Tensor,
        positions: &[Range<usize>],
        angles: &D::Angles,
    ) -> Result<D::Tensor, Error> {
        self.of_normed(x, weights.attention_norm.as_ref(), |normed| {
            self.queries_of_normed(weights, normed, positions, angles)
        })
    }

    /// As [`Decoder::queries`], of rows that are normed already.
    pub(super) fn queries_of_normed(
        &self,
        weights: &LayerWeights<D::Tensor>,
        normed: &D::Tensor,
        positions: &[Range<usize>],
        angles: &D::Angles,
    ) -> Result<D::Tensor, Error> {
        let queries = self.linear(normed, &weights.query)?;
        self.rotated(queries, weights.query_norm.as_ref(), positions, angles, self.model.config.query_scale)
    }

    /// Norms and rotates queries or keys.
    pub(super) fn rotated(
        &self,
        x: D::Tensor,
        norm: Option<&D::Tensor>,
        positions: &[Range<usize>],
        angles: &D::Angles,
        scale: f32,
    ) -> Result<D::Tensor, Error> {
        let config = &self.model.config;
        let (x, norm) = match config.qk_norm {
            QkNorm::Whole => (self.maybe_norm(x, norm)?, None),
            _ => (x, norm.map(|norm| (norm, config.rms_norm_eps))),
        };
        self.device.rope(&x, norm, positions, angles, scale)
    }

    /// Returns what `then` makes of the normed rows, or of the rows as they are where there is no norm.
    fn of_normed(
        &self,
        x: &D::Tensor,
        norm: Option<&D::Tensor>,
        then: impl FnOnce(&D::Tensor) -> Result<D::Tensor, Error>,
    ) -> Result<D::Tensor, Error> {
        match norm {
            Some(norm) => then(&self.norm(x, norm)?),
            None => then(x),
        }
    }

    pub(super) fn norm(&self, x: &D::Tensor, weight: &D::Tensor) -> Result<D::Tensor, Error> {
        self.device.rms_norm(x, weight, self.model.config.rms_norm_eps)
    }

    pub(super) fn maybe_norm(&self, x: D::Tensor, weight: Option<&D::Tensor>) -> Result<D::Tensor, Error> {
        match weight {
            Some(weight) => self.norm(&x, weight),
            None => Ok(x),
        }
    }

    pub(super) fn linear(&self, x: &D::Tensor, linear: &Linear<D::Tensor>) -> Result<D::Tensor, Error> {
        self.device.linear(x, &linear.weight, linear.bias.as_ref())
    }
}
