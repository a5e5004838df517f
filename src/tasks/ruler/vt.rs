//! Variable tracking: a chain of assignments scattered over noise.

use std::iter;

use fastrand::Rng;

use super::{
    Asks,
    wording::{Question, VT_INTRO, vt_lines, vt_question},
};
use crate::tasks::{
    draft::{Draft, Insert, Role},
    fit::Elastic,
    haystack::{Haystack, Source},
};

/// The number of assignments after the first.
const HOPS: usize = 4;

/// A variable-tracking prompt of any length.
pub(super) struct Vt {
    haystack: Haystack,
    inserts: Vec<Insert>,
    asked: Question,
    answers: Vec<String>,
}

impl Vt {
    /// Draws a prompt. The first assignment stands at `depth`, the others in order at random depths after it.
    pub fn new(depth: f64, mut rng: Rng) -> Self {
        let value = rng.u32(10_000..100_000).to_string();
        let names = names(&mut rng);
        let mut later: Vec<f64> =
            (0..HOPS).map(|_| depth + (1.0 - depth) * f64::from(rng.u32(..)) / f64::from(u32::MAX)).collect();
        later.sort_by(f64::total_cmp);
        let inserts = vt_lines(&names, &value)
            .into_iter()
            .zip(iter::once(depth).chain(later))
            .map(|(text, depth)| Insert { depth, text, role: Role::Needle })
            .collect();
        Vt {
            haystack: Haystack::new(Source::Noise),
            inserts,
            asked: vt_question(&names, &value),
            answers: names,
        }
    }
}

impl Asks for Vt {
    fn answers(&self) -> &[String] {
        &self.answers
    }

    fn prefix(&self) -> &str {
        &self.asked.prefix
    }

    fn answer(&self) -> String {
        self.asked.answer.clone()
    }
}

impl Elastic for Vt {
    fn draft(&mut self, n_units: usize) -> Draft {
        let mut draft = Draft::default();
        draft.push(VT_INTRO, Role::Filling);
        draft.scatter(self.haystack.take(n_units), Role::Filling, &self.inserts);
        draft.push("\n", Role::Filling);
        draft.push(&self.asked.question, Role::Question);
        draft
    }
}

/// Draws distinct names of five capital letters.
fn names(rng: &mut Rng) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    while names.len() <= HOPS {
        let name: String = (0..5).map(|_| rng.uppercase()).collect();
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}
