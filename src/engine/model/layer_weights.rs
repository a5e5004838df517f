//! The weights of one decoder layer.

use std::ops::Range;

use super::weight::Weight;

/// The weights of one decoder layer, each a `W`: a view of the file, or a tensor on a device.
pub struct LayerWeights<W> {
    pub attention_norm: Option<W>,
    pub query: Linear<W>,
    pub key: Linear<W>,
    pub value: Linear<W>,
    pub query_norm: Option<W>,
    pub key_norm: Option<W>,
    pub output: Linear<W>,
    /// The norm of the attention's output.
    pub attention_post_norm: Option<W>,
    pub mlp_norm: Option<W>,
    pub gate: Linear<W>,
    pub up: Linear<W>,
    pub down: Linear<W>,
    /// The norm of the feed-forward block's output.
    pub mlp_post_norm: Option<W>,
}

/// `x · weightᵀ + bias`; `weight` is `[n_out, n_in]`.
pub struct Linear<W> {
    pub weight: W,
    pub bias: Option<W>,
}

impl<'a> Linear<Weight<'a>> {
    /// Selects the outputs `rows`.
    pub(super) fn rows(self, rows: Range<usize>) -> Self {
        self.map(|weight| weight.rows(rows.clone()))
    }

    /// Changes the weight and the bias alike.
    pub(super) fn map(self, f: impl Fn(Weight<'a>) -> Weight<'a>) -> Self {
        Linear { weight: f(self.weight), bias: self.bias.map(f) }
    }
}

impl<W> Linear<W> {
    fn try_map<V, E>(&self, f: &mut impl FnMut(&W) -> Result<V, E>) -> Result<Linear<V>, E> {
        Ok(Linear { weight: f(&self.weight)?, bias: self.bias.as_ref().map(f).transpose()? })
    }

    /// Iterates over the weight and the bias.
    pub(super) fn all(&mut self) -> impl Iterator<Item = &mut W> {
        [&mut self.weight].into_iter().chain(&mut self.bias)
    }
}

impl<W> LayerWeights<W> {
    /// Iterates over all weights, in the same order for every layer of a model.
    pub fn all(&mut self) -> impl Iterator<Item = &mut W> {
        let linears = [
            &mut self.query,
            &mut self.key,
            &mut self.value,
            &mut self.output,
            &mut self.gate,
            &mut self.up,
            &mut self.down,
        ];
        let some = [
            &mut self.query_norm,
            &mut self.key_norm,
            &mut self.attention_post_norm,
            &mut self.mlp_post_norm,
        ];
        let norms = [&mut self.attention_norm, &mut self.mlp_norm];
        norms
            .into_iter()
            .flatten()
            .chain(some.into_iter().flatten())
            .chain(linears.into_iter().flat_map(Linear::all))
    }

    /// Maps each weight by `f`, for example to a copy on a device.
    pub fn try_map<V, E>(&self, mut f: impl FnMut(&W) -> Result<V, E>) -> Result<LayerWeights<V>, E> {
        Ok(LayerWeights {
            attention_norm: self.attention_norm.as_ref().map(&mut f).transpose()?,
            query: self.query.try_map(&mut f)?,
            key: self.key.try_map(&mut f)?,
            value: self.value.try_map(&mut f)?,
            query_norm: self.query_norm.as_ref().map(&mut f).transpose()?,
            key_norm: self.key_norm.as_ref().map(&mut f).transpose()?,
            output: self.output.try_map(&mut f)?,
            attention_post_norm: self.attention_post_norm.as_ref().map(&mut f).transpose()?,
            mlp_norm: self.mlp_norm.as_ref().map(&mut f).transpose()?,
            gate: self.gate.try_map(&mut f)?,
            up: self.up.try_map(&mut f)?,
            down: self.down.try_map(&mut f)?,
            mlp_post_norm: self.mlp_post_norm.as_ref().map(&mut f).transpose()?,
        })
    }
}
