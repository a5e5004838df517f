//! A claim about cause, compared with controls.

use serde::{Deserialize, Serialize};

use super::Unit;
use crate::{protocol::Effect, trace::Span, words::numbers::median};

/// How a claim about cause is tested.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CausalConfig {
    /// Tokens of the traced prompt whose probability is measured, each predicted from those before it; the
    /// next token if not set.
    pub answer: Option<Span>,
    /// Random controls to compare with.
    pub n_random: usize,
    /// The same seed draws the same controls.
    pub seed: u64,
}

impl Default for CausalConfig {
    fn default() -> Self {
        CausalConfig { answer: None, n_random: 20, seed: 0 }
    }
}

/// Effects of leaving out the things that a claim names, and of leaving out as much of something else.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CausalTest {
    /// The things that were left out, in words.
    pub claim: String,
    /// The measure with its unit; more is a stronger effect.
    pub measure: String,
    #[serde(default)]
    pub unit: Unit,
    /// The effect of each named thing, with a short name.
    pub claimed: Vec<(String, f64)>,
    /// The effect of each control.
    pub controls: Vec<f64>,
    pub model: String,
    /// That the prompt is longer than the model was made for, or than its windows, if it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

impl CausalTest {
    /// Returns a test by how much less likely an answer, or else the next token, becomes ([`Effect::drop`]).
    pub fn of_effects(claimed: &Effect, controls: &[Effect], model: &str) -> Self {
        let what = if claimed.tokens.is_empty() { "the next token" } else { "the answer" };
        CausalTest {
            claim: format!("the {}", claimed.name),
            measure: format!("by how much the log-probability of {what} falls, in nats"),
            unit: Unit::Nats,
            claimed: vec![(claimed.name.clone(), claimed.drop())],
            controls: controls.iter().map(Effect::drop).collect(),
            model: model.into(),
            note: None,
        }
    }

    /// Returns the median claimed effect.
    pub fn effect(&self) -> f64 {
        median(&self.claimed.iter().map(|(_, value)| *value).collect::<Vec<_>>())
    }

    /// Returns the median control; 0 without controls.
    pub fn control(&self) -> f64 {
        median(&self.controls)
    }

    /// Returns the number of controls whose effect is at least the claimed one.
    pub fn n_as_strong(&self) -> usize {
        self.controls.iter().filter(|control| **control >= self.effect()).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn controls_are_counted_and_halved() {
        let test = |claimed: &[f64], controls: &[f64]| CausalTest {
            claim: "two sentences".into(),
            measure: "drop, in nats".into(),
            unit: Unit::Nats,
            claimed: claimed.iter().map(|value| (String::new(), *value)).collect(),
            controls: controls.into(),
            model: "synthetic".into(),
            note: None,
        };
        let several = test(&[9.0, 1.0, 3.0], &[5.0, -1.0, 3.0, 0.5]);
        assert_eq!((several.effect(), several.control(), several.n_as_strong()), (3.0, 3.0, 2));
        assert_eq!((test(&[], &[]).control(), test(&[], &[]).n_as_strong()), (0.0, 0));
    }
}
