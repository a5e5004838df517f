//! A linear map's weight and bias.

use std::ops::Range;

use super::weight::Weight;

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
    pub(super) fn try_map<V, E>(&self, f: &mut impl FnMut(&W) -> Result<V, E>) -> Result<Linear<V>, E> {
        Ok(Linear { weight: f(&self.weight)?, bias: self.bias.as_ref().map(f).transpose()? })
    }

    /// Iterates over the weight and the bias.
    pub(super) fn all(&mut self) -> impl Iterator<Item = &mut W> {
        [&mut self.weight].into_iter().chain(&mut self.bias)
    }
}
