//! The experts that rows take, chosen on the host by a router's logits.

use rayon::prelude::*;

use crate::engine::model::{experts::Routing, family::Score};

/// The rows that experts take, one expert after the other, and the weight of what it writes for each.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Routes {
    /// The experts of each row, those with the highest scores first. `[n_rows, top_k]`
    pub chosen: Vec<u16>,
    /// Rows that each expert takes. `[n_experts]`
    pub counts: Vec<usize>,
    /// Those of an expert ascending. `[n_rows · top_k]`
    pub rows: Vec<u32>,
    pub weights: Vec<f32>,
}

impl Routes {
    /// Chooses experts for rows of logits `[n_rows, n_experts]`; `correction` `[n_experts]` is added to their scores
    /// where they are chosen, and not where they are weighed; it may be empty. Of two experts with the same score the
    /// first is taken.
    pub fn new(logits: &[f32], n_experts: usize, routing: &Routing, correction: &[f32]) -> Self {
        let chosen: Vec<Vec<(usize, f32)>> =
            logits.par_chunks(n_experts).map(|logits| chosen(logits, routing, correction)).collect();
        let mut by_expert = vec![Vec::new(); n_experts];
        for (row, experts) in chosen.iter().enumerate() {
            experts.iter().for_each(|&(expert, weight)| by_expert[expert].push((row as u32, weight)));
        }
        let (rows, weights) = by_expert.iter().flatten().copied().unzip();
        Routes {
            chosen: chosen.iter().flatten().map(|&(expert, _)| expert as u16).collect(),
            counts: by_expert.iter().map(Vec::len).collect(),
            rows,
            weights,
        }
    }
}

/// Returns the experts that a row takes, with their weights.
fn chosen(logits: &[f32], routing: &Routing, correction: &[f32]) -> Vec<(usize, f32)> {
    let scores = scores(logits, routing.score);
    let corrected: Vec<f32> = match correction {
        [] => scores.clone(),
        _ => scores.iter().zip(correction).map(|(score, correction)| score + correction).collect(),
    };
    let group_size = logits.len() / routing.n_groups;
    let best_two = |group: usize| {
        let group = &corrected[group * group_size..][..group_size];
        largest(group, 2).into_iter().map(|i| group[i]).sum::<f32>()
    };
    let mut candidates = corrected.clone();
    if routing.top_groups < routing.n_groups {
        let sums: Vec<f32> = (0..routing.n_groups).map(best_two).collect();
        let groups = largest(&sums, routing.top_groups);
        let is_left_out = |expert: usize| !groups.contains(&(expert / group_size));
        (0..logits.len()).filter(|&i| is_left_out(i)).for_each(|i| candidates[i] = f32::NEG_INFINITY);
    }
    let experts = largest(&candidates, routing.top_k);
    let sum: f32 = if routing.normalised { experts.iter().map(|&i| scores[i]).sum() } else { 1.0 };
    experts.into_iter().map(|i| (i, scores[i] / sum.max(f32::MIN_POSITIVE) * routing.scale)).collect()
}

fn scores(logits: &[f32], score: Score) -> Vec<f32> {
    match score {
        Score::Sigmoid => logits.iter().map(|logit| 1.0 / (1.0 + (-logit).exp())).collect(),
        Score::Softmax => {
            let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let weights: Vec<f32> = logits.iter().map(|logit| (logit - most).exp()).collect();
            let sum: f32 = weights.iter().sum();
            weights.into_iter().map(|weight| weight / sum).collect()
        }
    }
}

/// Returns the places of the `n` largest numbers, the largest first, of equal ones the first.
fn largest(numbers: &[f32], n: usize) -> Vec<usize> {
    let mut places: Vec<usize> = (0..numbers.len()).collect();
    let before = |&a: &usize, &b: &usize| numbers[b].total_cmp(&numbers[a]).then(a.cmp(&b));
    if n < places.len() {
        places.select_nth_unstable_by(n, before);
        places.truncate(n);
    }
    places.sort_unstable_by(before);
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUTING: Routing = Routing {
        top_k: 2,
        score: Score::Softmax,
        normalised: false,
        scale: 1.0,
        n_groups: 1,
        top_groups: 1,
    };

    #[track_caller]
    fn assert_chosen(logits: &[f32], routing: Routing, correction: &[f32], expected: &[(usize, f32)]) {
        let found = chosen(logits, &routing, correction);
        let is_close = |(found, expected): (&(usize, f32), &(usize, f32))| {
            found.0 == expected.0 && (found.1 - expected.1).abs() < 1e-6
        };
        assert!(found.len() == expected.len() && found.iter().zip(expected).all(is_close), "{found:?}");
    }

    /// Logits ln 1, ln 4, ln 2, ln 1: probabilities of eighths.
    fn eighths() -> Vec<f32> {
        [1.0f32, 4.0, 2.0, 1.0].map(f32::ln).into()
    }

    #[test]
    fn weights_are_probabilities_of_all_or_of_the_chosen() {
        assert_chosen(&eighths(), ROUTING, &[], &[(1, 0.5), (2, 0.25)]);
        let normalised = Routing { normalised: true, scale: 3.0, ..ROUTING };
        assert_chosen(&eighths(), normalised, &[], &[(1, 2.0), (2, 1.0)]);
    }

    #[test]
    fn a_correction_chooses_and_does_not_weigh() {
        let sigmoid = Routing { score: Score::Sigmoid, ..ROUTING };
        assert_chosen(
            &[0.0, -3.0, 0.0, 3.0],
            sigmoid,
            &[0.1, 2.0, 0.0, 0.0],
            &[(1, 1.0 / (1.0 + 3f32.exp())), (3, 1.0 / (1.0 + (-3f32).exp()))],
        );
    }

    #[test]
    fn groups_are_chosen_by_their_best_two() {
        let grouped = Routing { score: Score::Sigmoid, n_groups: 2, top_groups: 1, ..ROUTING };
        // The first group has the best one, the second the better two.
        let weight = |logit: f32| 1.0 / (1.0 + (-logit).exp());
        assert_chosen(&[4.0, -4.0, 1.0, 2.0], grouped, &[], &[(3, weight(2.0)), (2, weight(1.0))]);
    }

    #[test]
    fn rows_are_listed_by_expert() {
        let other: Vec<f32> = eighths().into_iter().rev().collect();
        let found = Routes::new(&[eighths(), other].concat(), 4, &ROUTING, &[]);
        assert_eq!((found.counts, found.rows), (vec![0, 2, 2, 0], vec![0, 1, 0, 1]));
        assert_eq!(found.chosen, [1, 2, 2, 1]);
        let is_close = |(a, b): (&f32, &f32)| (a - b).abs() < 1e-6;
        assert!(found.weights.iter().zip(&[0.5, 0.25, 0.25, 0.5]).all(is_close), "{:?}", found.weights);
    }

    #[test]
    fn equal_scores_take_the_first_expert() {
        assert_chosen(&[0.0; 4], ROUTING, &[], &[(0, 0.25), (1, 0.25)]);
    }
}
