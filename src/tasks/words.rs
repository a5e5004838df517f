//! The word lists (from wonderwords, MIT) of the bundled model's training text.
//!
//! `words/` holds the complete lists and, in `prose_*.txt`, the words of the prose haystack.

use std::sync::LazyLock;

pub(super) struct Words {
    /// Words of 3 to 9 letters, which keys are made of.
    pub adjs: Vec<&'static str>,
    pub nouns: Vec<&'static str>,
    pub prose_adjs: Vec<&'static str>,
    pub prose_nouns: Vec<&'static str>,
    pub prose_verbs: Vec<&'static str>,
    /// Every entry of the three complete lists, sorted.
    pub all: Vec<&'static str>,
}

pub(super) static WORDS: LazyLock<Words> = LazyLock::new(|| {
    let adjs = include_str!("words/adj.txt");
    let nouns = include_str!("words/nouns.txt");
    let verbs = include_str!("words/verbs.txt");
    Words {
        adjs: short(adjs),
        nouns: short(nouns),
        prose_adjs: include_str!("words/prose_adjs.txt").lines().collect(),
        prose_nouns: include_str!("words/prose_nouns.txt").lines().collect(),
        prose_verbs: include_str!("words/prose_verbs.txt").lines().collect(),
        all: sorted([adjs, nouns, verbs].into_iter().flat_map(str::lines)),
    }
});

fn short(list: &'static str) -> Vec<&'static str> {
    let fits = |w: &&str| (3..=9).contains(&w.chars().count()) && w.chars().all(char::is_alphabetic);
    sorted(list.split_whitespace().filter(fits))
}

fn sorted(words: impl Iterator<Item = &'static str>) -> Vec<&'static str> {
    let mut words: Vec<_> = words.map(str::trim).filter(|w| !w.is_empty()).collect();
    words.sort_unstable();
    words.dedup();
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_those_of_the_training_scripts() {
        let golden: serde_json::Value = serde_json::from_str(include_str!("golden/wording.json")).unwrap();
        let count = |name: &str| golden["words"][name].as_u64().unwrap() as usize;
        assert_eq!((WORDS.adjs.len(), WORDS.nouns.len()), (count("adjs"), count("nouns")));
        for (prose, whole) in [(&WORDS.prose_adjs, &WORDS.adjs), (&WORDS.prose_nouns, &WORDS.nouns)] {
            assert!(prose.iter().all(|w| whole.binary_search(w).is_ok()));
        }
        assert_eq!(
            (WORDS.prose_adjs.len(), WORDS.prose_nouns.len(), WORDS.prose_verbs.len()),
            (350, 1200, 350)
        );
    }
}
