//! Which two neighbouring tokens become one, and which first.

use std::{borrow::Cow, collections::HashMap};

use super::vocabulary::Vocabulary;

/// The order of merges, the lowest first.
pub type Rank = [u32; 4];

/// The merges of a tokenizer.
pub enum Merges {
    /// The rank and the token of each pair of tokens.
    Listed(HashMap<(u32, u32), (u32, u32)>),
    /// The rank of each token's score, the best first: two pieces become the third one that they spell. `None`
    /// for tokens that are no pieces.
    Scored(Vec<Option<u32>>),
}

impl Merges {
    /// Takes merges such as "th e", the first one first.
    ///
    /// # Errors
    /// A sentence about a merge of tokens that are not in the vocabulary.
    pub fn listed<'a>(
        vocabulary: &Vocabulary,
        merges: impl Iterator<Item = Cow<'a, str>>,
    ) -> Result<Self, String> {
        let id = |token: &str| {
            vocabulary
                .id(token)
                .ok_or_else(|| format!("a merge of {token:?}, which is not in the vocabulary"))
        };
        let mut pairs = HashMap::with_capacity(merges.size_hint().0);
        let mut rank = 0;
        for merge in merges {
            let Some((a, b)) = merge.split_once(' ') else { continue };
            pairs.insert((id(a)?, id(b)?), (rank, id(&[a, b].concat())?));
            rank += 1;
        }
        Ok(Merges::Listed(pairs))
    }

    /// Takes the score of each token, `None` for those that are no pieces.
    pub fn scored(scores: impl Iterator<Item = Option<f32>>) -> Self {
        Merges::Scored(scores.map(|score| score.map(from_the_highest)).collect())
    }

    /// Returns the rank of the merge of `left` and `right`, which together spell `text`, and the token that
    /// they become.
    pub fn find(&self, vocabulary: &Vocabulary, left: u32, right: u32, text: &str) -> Option<(Rank, u32)> {
        match self {
            Merges::Listed(pairs) => pairs.get(&(left, right)).map(|&(rank, token)| ([rank, 0, 0, 0], token)),
            Merges::Scored(ranks) => {
                let rank = |id: u32| *ranks.get(id as usize)?;
                rank(left).and(rank(right))?;
                let token = vocabulary.id(text)?;
                Some(([rank(token)?, token, left, right], token))
            }
        }
    }
}

/// Returns a number that is the lower, the higher the score.
fn from_the_highest(score: f32) -> u32 {
    let bits = score.to_bits();
    if score.is_sign_negative() { bits } else { !(bits | 1 << 31) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_rank_from_the_highest() {
        let scores = [f32::INFINITY, 2.5, 1.0, 1e-40, 0.0, -0.0, -1e-40, -1.0, -2.5, f32::NEG_INFINITY];
        assert!(scores.map(from_the_highest).is_sorted_by(|a, b| a < b));
    }
}
