//! A claim about cause, beside random controls.

use serde::{Deserialize, Serialize};

use crate::intervention::Effect;

/// What changes without the thing that a claim names, and without as much of something else.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CausalTest {
    /// What is left out.
    pub claim: String,
    /// What is measured, with its unit; more is a stronger effect.
    pub measure: String,
    pub value: f64,
    /// The same for each control.
    pub controls: Vec<f64>,
    pub model: String,
}

impl CausalTest {
    /// By how much an answer, or else the next token, becomes less likely ([`Effect::drop`]).
    pub fn of_effects(claim: &Effect, controls: &[Effect], model: &str) -> Self {
        let what = if claim.tokens.is_empty() { "the next token" } else { "the answer" };
        CausalTest {
            claim: claim.name.clone(),
            measure: format!("by how much the log-probability of {what} falls, in nats"),
            value: claim.drop(),
            controls: controls.iter().map(Effect::drop).collect(),
            model: model.into(),
        }
    }

    /// The middle control, the upper one of two; 0 if there is none.
    pub fn median(&self) -> f64 {
        let mut controls = self.controls.clone();
        controls.sort_by(f64::total_cmp);
        controls.get(controls.len() / 2).copied().unwrap_or(0.0)
    }

    /// Controls that do at least as much as what was claimed.
    pub fn n_as_strong(&self) -> usize {
        self.controls.iter().filter(|control| **control >= self.value).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn controls_are_counted_and_halved() {
        let test = |controls: &[f64]| CausalTest {
            claim: "route".into(),
            measure: "drop, in nats".into(),
            value: 3.0,
            controls: controls.into(),
            model: "synthetic".into(),
        };
        let several = test(&[5.0, -1.0, 3.0, 0.5]);
        assert_eq!((several.median(), several.n_as_strong()), (3.0, 2));
        assert_eq!((test(&[]).median(), test(&[]).n_as_strong()), (0.0, 0));
    }
}
