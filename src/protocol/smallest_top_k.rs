//! The smallest budget that preserves the model's result.

use serde::{Deserialize, Serialize};

use crate::{error::Error, trace::Search};

/// The result that must be as with dense attention.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Criterion {
    /// The most likely next token.
    SameNextToken,
    /// The next token's distribution: KL(dense ‖ sparse) of at most this bound, in nats.
    KlAtMost(f64),
    /// This text after the prompt: each of its tokens the most likely one.
    #[serde(alias = "answer_kept")]
    AnswerSurvives(String),
}

/// The smallest `top_k` that was found to be enough, and those that were tried on the way.
///
/// Success need not be monotone in the budget: a smaller one than this may be enough too, by luck. Only
/// `tried` is known.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SmallestTopK {
    pub criterion: Criterion,
    pub search: Search,
    pub top_k: usize,
    /// All key blocks of the prompt: with these nothing is pruned, and the result is that of dense attention.
    pub n_key_blocks: usize,
    /// In the order of the search.
    pub tried: Vec<Tried>,
}

/// A budget and its result.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tried {
    pub top_k: usize,
    pub pruned: f64,
    pub passes: bool,
    /// KL(dense ‖ sparse) of the distribution after the prompt, in nats.
    pub kl: f64,
    /// Natural logarithm of the probability of the answer, or of dense attention's next token.
    pub logprob: f64,
}

impl Criterion {
    /// # Errors
    /// [`Error::Setting`] for a bound that nothing can meet.
    pub fn validate(&self) -> Result<(), Error> {
        match self {
            Criterion::KlAtMost(nats) if !(*nats > 0.0 && nats.is_finite()) => {
                Err(Error::setting("KL", "a bound above 0, in nats", nats.to_string(), "0.01 is strict"))
            }
            _ => Ok(()),
        }
    }
}

/// Returns the smallest number that passes, if all from some number on pass: doubles from `least` on until
/// one passes, then halves the gap. `most` passes untried.
#[cfg(feature = "engine")]
pub(crate) fn smallest(
    least: usize,
    most: usize,
    mut passes: impl FnMut(usize) -> Result<bool, Error>,
) -> Result<usize, Error> {
    // All below fail, as far as is known; `good` passes.
    let (mut below, mut good, mut next) = (least, most, least);
    while next < most {
        if passes(next)? {
            good = next;
            break;
        }
        below = next + 1;
        next = next.saturating_mul(2).max(next + 1);
    }
    while below < good {
        let middle = below + (good - below) / 2;
        if passes(middle)? {
            good = middle;
        } else {
            below = middle + 1;
        }
    }
    Ok(good)
}

#[cfg(all(test, feature = "engine"))]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_that_passes_is_found_with_few_trials() {
        for (least, most) in [(1, 1), (20, 2000), (0, 7), (20, 20), (5, 6), (20, 10)] {
            for first in least..=most.max(least) {
                let mut tried = Vec::new();
                let found = smallest(least, most, |k| {
                    tried.push(k);
                    Ok(k >= first)
                });
                assert_eq!(found.unwrap(), first.min(most), "{least} {most} {tried:?}");
                assert!(tried.len() <= 24 && tried.iter().all(|k| (least..most).contains(k)), "{tried:?}");
                let mut once = tried.clone();
                once.sort_unstable();
                once.dedup();
                assert_eq!(once.len(), tried.len(), "each once: {tried:?}");
            }
        }
    }
}
