//! The two tasks that count words: common words of a numbered list (cwe), and frequent coded words (fwe).

use std::{collections::HashSet, f64::consts::PI, iter::repeat_n};

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

/// A numbered list: its words, and how often common and other words stand in it.
struct List {
    /// Common words, then the others.
    words: Vec<&'static str>,
    /// How often each common word stands in the list.
    common: usize,
    /// How often each other word stands in the list.
    others: usize,
    order: Rng,
}

impl List {
    fn new(rng: &mut Rng, common: usize, others: usize) -> Self {
        let mut words = WORDS.all.clone();
        rng.shuffle(&mut words);
        List { words, common, others, order: rng.fork() }
    }

    fn common(&self) -> &[&'static str] {
        &self.words[..Cwe::N_COMMON]
    }

    /// Writes introduction, list with `n_others` other words, and question. `common` is the role of the common words, `question` that of the question.
    fn write(&self, draft: &mut Draft, n_others: usize, common: Role, question: Role) {
        let others = &self.words[Cwe::N_COMMON..Cwe::N_COMMON + n_others];
        let common = self.common().iter().flat_map(|word| repeat_n((common, *word), self.common));
        let others = others.iter().flat_map(|word| repeat_n((Role::Filling, *word), self.others));
        let mut items: Vec<(Role, &str)> = common.chain(others).collect();
        self.order.clone().shuffle(&mut items);
        draft.push(CWE_INTRO, Role::Filling);
        for (i, (role, word)) in items.into_iter().enumerate() {
            draft.push(&format!("{}{}. ", if i == 0 { "" } else { " " }, i + 1), Role::Filling);
            draft.push(word, role);
        }
        draft.push(CWE_QUESTION, question);
    }
}

/// Common words extraction: an example with its answer, then the list that the question asks about.
pub(super) struct Cwe {
    example: List,
    n_example: usize,
    list: List,
    answers: Vec<String>,
}

impl Cwe {
    const N_COMMON: usize = 10;

    /// Draws a prompt. Below 4096 tokens the example is shorter and words are repeated less often, as in
    /// RULER.
    pub fn new(n_tokens: usize, mut rng: Rng) -> Self {
        let short = n_tokens < 4096;
        let n_example = if short { 20 } else { 40 };
        let example = if short { List::new(&mut rng, 3, 1) } else { List::new(&mut rng, 10, 3) };
        let list = if short { List::new(&mut rng, 6, 1) } else { List::new(&mut rng, 30, 3) };
        let answers = list.common().iter().map(|word| word.to_string()).collect();
        Cwe { example, n_example, list, answers }
    }
}

impl Asks for Cwe {
    fn answers(&self) -> &[String] {
        &self.answers
    }

    fn prefix(&self) -> &str {
        CWE_PREFIX
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
        Some(Limit {
            n_units: n_words - Cwe::N_COMMON,
            setting: "cwe",
            amount: format!("{n_words} words to list"),
            fix: "lower n_tokens, or choose fwe",
        })
    }

    fn draft(&mut self, n_units: usize) -> Draft {
        let mut draft = Draft::default();
        self.example.write(&mut draft, self.n_example - Cwe::N_COMMON, Role::Filling, Role::Filling);
        draft.push(&format!("{CWE_PREFIX}{}", numbered(self.example.common())), Role::Filling);
        draft.push("\n", Role::Filling);
        self.list.write(&mut draft, n_units, Role::Needle, Role::Question);
        draft
    }
}

fn numbered(words: &[&str]) -> String {
    let items: Vec<String> = words.iter().enumerate().map(|(i, word)| format!("{}. {word}", i + 1)).collect();
    items.join(" ")
}

/// Frequent words extraction: coded words whose counts fall with the square of their rank. The most frequent
/// is noise.
pub(super) struct Fwe {
    words: Vec<String>,
    order: Rng,
    answers: Vec<String>,
}

impl Fwe {
    const NOISE: &str = "...";

    pub fn new(n_tokens: usize, mut rng: Rng) -> Self {
        // One word per 50 tokens, as in RULER. The fifth must exist: the fourth, the last one asked for, is
        // more frequent.
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

    /// The count of the word of `rank` among `n` words: a zeta distribution with exponent 2.
    fn count(rank: usize, n: usize) -> usize {
        (n as f64 / (rank * rank) as f64 / (PI * PI / 6.0)) as usize
    }
}

impl Asks for Fwe {
    fn answers(&self) -> &[String] {
        &self.answers
    }

    fn prefix(&self) -> &str {
        FWE_PREFIX
    }

    fn answer(&self) -> String {
        format!(" {}.", self.answers.join(" "))
    }
}

impl Elastic for Fwe {
    /// The smallest number of words from which the counts of ranks 4 and 5 always differ.
    fn smallest(&self) -> usize {
        74
    }

    fn draft(&mut self, n_units: usize) -> Draft {
        let mut items: Vec<&str> = Vec::new();
        for (i, word) in self.words.iter().enumerate() {
            items.extend(repeat_n(word.as_str(), Fwe::count(i + 1, n_units)));
        }
        self.order.clone().shuffle(&mut items);
        let mut draft = Draft::default();
        draft.push(FWE_INTRO, Role::Filling);
        for word in items {
            let asked = self.answers.iter().any(|answer| answer == word);
            draft.push(" ", Role::Filling);
            draft.push(word, if asked { Role::Needle } else { Role::Filling });
        }
        draft.push(FWE_QUESTION, Role::Question);
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
