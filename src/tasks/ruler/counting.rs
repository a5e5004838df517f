//! The two tasks that count words: common words of a numbered list (cwe), frequent coded words (fwe).

use std::{collections::HashSet, f64::consts::PI};

use fastrand::Rng;

use super::{
    Asks,
    wording::{CWE_INTRO, CWE_PREFIX, CWE_QUESTION, FWE_INTRO, FWE_PREFIX, FWE_QUESTION},
};
use crate::tasks::{
    draft::{Draft, Role},
    fit::{Elastic, Limit},
    words::WORDS,
};

/// Words of a list, how many of them are common, and how often each stands in it.
struct List {
    words: Vec<&'static str>,
    n_common: usize,
    common: usize,
    others: usize,
    order: Rng,
}

impl List {
    fn new(rng: &mut Rng, common: usize, others: usize) -> Self {
        let mut words = WORDS.all.clone();
        rng.shuffle(&mut words);
        List { words, n_common: Cwe::N_COMMON, common, others, order: rng.fork() }
    }

    fn common(&self) -> &[&'static str] {
        &self.words[..self.n_common]
    }

    /// Writes introduction, list with `n_others` uncommon words, question and the answer's beginning.
    fn write(&self, draft: &mut Draft, n_others: usize, common: Role, question: Role) {
        let words = self.words[..self.n_common + n_others].iter().enumerate();
        let mut items: Vec<(Role, &str)> = words
            .flat_map(|(i, word)| match i < self.n_common {
                true => vec![(common, *word); self.common],
                false => vec![(Role::Filling, *word); self.others],
            })
            .collect();
        self.order.clone().shuffle(&mut items);
        draft.push(CWE_INTRO, Role::Filling);
        for (i, (role, word)) in items.into_iter().enumerate() {
            draft.push(&format!("{}{}. ", if i == 0 { "" } else { " " }, i + 1), Role::Filling);
            draft.push(word, role);
        }
        draft.push(CWE_QUESTION, question);
        draft.push(CWE_PREFIX, Role::Filling);
    }
}

/// Common words extraction: an example with its answer, then the list that is asked about.
pub(super) struct Cwe {
    example: List,
    n_example: usize,
    list: List,
    answers: Vec<String>,
}

impl Cwe {
    const N_COMMON: usize = 10;

    /// Prompts under 4096 tokens hold a shorter example and repeat words less often, as in RULER.
    pub fn new(n_tokens: usize, mut rng: Rng) -> Self {
        let ((n_example, often, rarely), (common, others)) = match n_tokens < 4096 {
            true => ((20, 3, 1), (6, 1)),
            false => ((40, 10, 3), (30, 3)),
        };
        let example = List::new(&mut rng, often, rarely);
        let list = List::new(&mut rng, common, others);
        let answers = list.common().iter().map(|w| w.to_string()).collect();
        Cwe { example, n_example, list, answers }
    }
}

impl Asks for Cwe {
    fn answers(&self) -> &[String] {
        &self.answers
    }

    /// The common words, numbered as in the example.
    fn answer(&self) -> String {
        numbered(self.list.common())
    }
}

impl Elastic for Cwe {
    fn smallest(&self) -> usize {
        Cwe::N_COMMON
    }

    fn limit(&self) -> Option<Limit> {
        let n_words = self.list.words.len();
        let (what, fix) = (format!("{n_words} words to list"), "lower n_tokens, or choose fwe");
        Some(Limit { n_units: n_words - Cwe::N_COMMON, setting: "cwe", what, fix })
    }

    fn draft(&mut self, n_units: usize) -> Draft {
        let mut draft = Draft::default();
        self.example.write(&mut draft, self.n_example - Cwe::N_COMMON, Role::Filling, Role::Filling);
        draft.push(&numbered(self.example.common()), Role::Filling);
        draft.push("\n", Role::Filling);
        self.list.write(&mut draft, n_units, Role::Needle, Role::Question);
        draft
    }
}

fn numbered(words: &[&str]) -> String {
    let items: Vec<String> = words.iter().enumerate().map(|(i, word)| format!("{}. {word}", i + 1)).collect();
    items.join(" ")
}

/// Frequent words extraction: coded words whose counts fall with the square of their rank; the first is noise.
pub(super) struct Fwe {
    words: Vec<String>,
    order: Rng,
    answers: Vec<String>,
}

impl Fwe {
    const NOISE: &str = "...";

    pub fn new(n_tokens: usize, mut rng: Rng) -> Self {
        // One word for 50 tokens, as in RULER; the fifth shows that the fourth, the third asked for, is more frequent.
        let n_words = (n_tokens / 50).max(5);
        let mut words = vec![Fwe::NOISE.to_string()];
        let mut used = HashSet::new();
        while words.len() < n_words {
            let word: String = (0..6).map(|_| rng.lowercase()).collect();
            if used.insert(word.clone()) {
                words.push(word);
            }
        }
        let answers = words[1..4].to_vec();
        Fwe { words, order: rng.fork(), answers }
    }

    /// How often the word of a rank stands among `n` words: a zeta distribution of exponent 2.
    fn count(rank: usize, n: usize) -> usize {
        (n as f64 / (rank * rank) as f64 / (PI * PI / 6.0)) as usize
    }
}

impl Asks for Fwe {
    fn answers(&self) -> &[String] {
        &self.answers
    }

    fn answer(&self) -> String {
        format!(" {}.", self.answers.join(" "))
    }
}

impl Elastic for Fwe {
    /// From here on the counts of ranks 4 and 5 differ by one or more.
    fn smallest(&self) -> usize {
        74
    }

    fn draft(&mut self, n_units: usize) -> Draft {
        let mut items: Vec<&str> = Vec::new();
        for (i, word) in self.words.iter().enumerate() {
            items.extend(std::iter::repeat_n(word.as_str(), Fwe::count(i + 1, n_units)));
        }
        self.order.clone().shuffle(&mut items);
        let mut draft = Draft::default();
        draft.push(FWE_INTRO, Role::Filling);
        for word in items {
            draft.push(" ", Role::Filling);
            draft.push(
                word,
                if self.answers.iter().any(|a| a == word) { Role::Needle } else { Role::Filling },
            );
        }
        draft.push(FWE_QUESTION, Role::Question);
        draft.push(FWE_PREFIX, Role::Filling);
        draft
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frequent_words_are_told_apart() {
        for n in (74..400).chain([10_000, 1_000_000]) {
            let counts: Vec<usize> = (1..=5).map(|rank| Fwe::count(rank, n)).collect();
            assert!(counts.windows(2).all(|c| c[0] > c[1]), "{counts:?} of {n}");
        }
    }
}
