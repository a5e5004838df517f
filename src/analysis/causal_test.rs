//! A claim about cause, beside controls.

use serde::{Deserialize, Serialize};

use crate::protocol::Effect;

/// What changes without the things that a claim names, and without as much of something else.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CausalTest {
    /// What was left out.
    pub claim: String,
    /// What is measured, with its unit; more is a stronger effect.
    pub measure: String,
    /// The effect of each thing that was named, with a short name.
    pub claimed: Vec<(String, f64)>,
    /// The effect of each control.
    pub controls: Vec<f64>,
    pub model: String,
}

impl CausalTest {
    /// By how much an answer, or else the next token, becomes less likely ([`Effect::drop`]).
    pub fn of_effects(claimed: &Effect, controls: &[Effect], model: &str) -> Self {
        let what = if claimed.tokens.is_empty() { "the next token" } else { "the answer" };
        CausalTest {
            claim: format!("the {}", claimed.name),
            measure: format!("by how much the log-probability of {what} falls, in nats"),
            claimed: vec![(claimed.name.clone(), claimed.drop())],
            controls: controls.iter().map(Effect::drop).collect(),
            model: model.into(),
        }
    }

    /// The middle one of what was claimed.
    pub fn effect(&self) -> f64 {
        median(self.claimed.iter().map(|(_, value)| *value).collect())
    }

    /// The middle control; 0 if there is none.
    pub fn control(&self) -> f64 {
        median(self.controls.clone())
    }

    /// Controls with at least the effect of what was claimed.
    pub fn n_as_strong(&self) -> usize {
        self.controls.iter().filter(|control| **control >= self.effect()).count()
    }
}

/// The middle number, the upper one of two; 0 if there is none.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn controls_are_counted_and_halved() {
        let test = |claimed: &[f64], controls: &[f64]| CausalTest {
            claim: "two sentences".into(),
            measure: "drop, in nats".into(),
            claimed: claimed.iter().map(|value| (String::new(), *value)).collect(),
            controls: controls.into(),
            model: "synthetic".into(),
        };
        let several = test(&[9.0, 1.0, 3.0], &[5.0, -1.0, 3.0, 0.5]);
        assert_eq!((several.effect(), several.control(), several.n_as_strong()), (3.0, 3.0, 2));
        assert_eq!((test(&[], &[]).control(), test(&[], &[]).n_as_strong()), (0.0, 0));
    }
}
