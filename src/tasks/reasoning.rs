//! Word problems about a few people, with a chain of thought that lists, for each sentence, the earlier
//! sentences that it needs: the true anchors.

mod chain;
mod people;
mod prompt;

use fastrand::Rng;
use serde::{Deserialize, Serialize};

use super::prose::NAMES;
use crate::{error::Error, trace::SentenceKind};
use people::People;
pub use prompt::ReasoningPrompt;

/// A word problem with its chain of thought. Every text starts with a space.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WordProblem {
    /// A sentence about each person, in random order.
    pub facts: Vec<String>,
    pub question: String,
    pub chain: Vec<ChainSentence>,
    /// " The answer is 42."
    pub answer: String,
    pub seed: u64,
}

/// A sentence of a chain of thought.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ChainSentence {
    pub text: String,
    pub kind: SentenceKind,
    /// Indices of the earlier sentences of the chain that this one needs, ascending: its true anchors.
    pub depends_on: Vec<usize>,
}

impl WordProblem {
    /// The largest number of people, limited by the names. The bundled model was trained on 3 to 24.
    pub const MAX_PEOPLE: usize = NAMES.len();

    /// Makes a problem about `n_people` people, the last of whom the question asks about.
    ///
    /// # Errors
    /// [`Error::Setting`] for an `n_people` of 0 or more than [`WordProblem::MAX_PEOPLE`].
    pub fn generate(n_people: usize, seed: u64) -> Result<Self, Error> {
        if !(1..=Self::MAX_PEOPLE).contains(&n_people) {
            return Err(Error::setting(
                "n_people",
                format!("1 to {}", Self::MAX_PEOPLE),
                n_people.to_string(),
                "the bundled model was trained on 3 to 24",
            ));
        }
        let mut rng = Rng::with_seed(seed);
        let people = People::generate(n_people, &mut rng);
        let mut order: Vec<usize> = (0..n_people).collect();
        rng.shuffle(&mut order);
        let steps = people.steps(&mut rng);
        Ok(WordProblem {
            facts: order.into_iter().map(|p| people.fact(p)).collect(),
            question: people.question(),
            chain: people.chain(&steps),
            answer: people.answer(),
            seed,
        })
    }

    /// The sentences that each sentence of the chain needs.
    pub fn dependencies(&self) -> Vec<Vec<usize>> {
        self.chain.iter().map(|sentence| sentence.depends_on.clone()).collect()
    }
}

#[cfg(test)]
mod tests;
