//! The weights of a layer's feed-forward block: one gated block, or many, of which each row takes a few.

use super::linear::Linear;

/// The feed-forward block of a layer.
pub enum FeedForward<W> {
    Dense(Mlp<W>),
    Experts(Experts<W>),
}

/// A gated block: `down · (activation(gate · x) ∘ (up · x))`.
pub struct Mlp<W> {
    pub gate: Linear<W>,
    pub up: Linear<W>,
    pub down: Linear<W>,
}

/// Gated blocks of which each row takes those that a router chooses.
pub struct Experts<W> {
    /// Gives each expert a logit. `[n_experts, hidden_size]`
    pub router: Linear<W>,
    /// `[n_experts]`; empty if each is loaded when rows have chosen it.
    pub experts: Vec<Mlp<W>>,
    /// The block that every row takes.
    pub shared: Option<Shared<W>>,
}

/// The block beside the experts that every row takes.
pub struct Shared<W> {
    pub mlp: Mlp<W>,
    /// What it writes is multiplied by `sigmoid(gate · x)`. `[1, hidden_size]`
    pub gate: Option<W>,
}

impl<W> Mlp<W> {
    /// Iterates over all weights.
    pub fn all(&mut self) -> impl Iterator<Item = &mut W> {
        [&mut self.gate, &mut self.up, &mut self.down].into_iter().flat_map(Linear::all)
    }

    /// Maps each weight by `f`.
    pub fn try_map<V, E>(&self, f: &mut impl FnMut(&W) -> Result<V, E>) -> Result<Mlp<V>, E> {
        Ok(Mlp { gate: self.gate.try_map(f)?, up: self.up.try_map(f)?, down: self.down.try_map(f)? })
    }
}

impl<W> FeedForward<W> {
    /// Iterates over all weights: a list, as the two kinds have iterators of two types.
    pub(super) fn all(&mut self) -> Vec<&mut W> {
        match self {
            FeedForward::Dense(mlp) => mlp.all().collect(),
            FeedForward::Experts(Experts { router, experts, shared }) => {
                let shared = shared.iter_mut().flat_map(|shared| shared.mlp.all().chain(&mut shared.gate));
                router.all().chain(shared).chain(experts.iter_mut().flat_map(Mlp::all)).collect()
            }
        }
    }

    /// Maps each weight by `f`.
    pub(super) fn try_map<V, E>(&self, f: &mut impl FnMut(&W) -> Result<V, E>) -> Result<FeedForward<V>, E> {
        Ok(match self {
            FeedForward::Dense(mlp) => FeedForward::Dense(mlp.try_map(f)?),
            FeedForward::Experts(Experts { router, experts, shared }) => FeedForward::Experts(Experts {
                router: router.try_map(f)?,
                experts: experts.iter().map(|expert| expert.try_map(f)).collect::<Result<_, E>>()?,
                shared: shared.as_ref().map(|shared| shared.try_map(f)).transpose()?,
            }),
        })
    }
}

impl<W> Shared<W> {
    fn try_map<V, E>(&self, f: &mut impl FnMut(&W) -> Result<V, E>) -> Result<Shared<V>, E> {
        Ok(Shared { mlp: self.mlp.try_map(f)?, gate: self.gate.as_ref().map(f).transpose()? })
    }
}
