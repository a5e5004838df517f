//! Against the crate's own model, on random vocabularies of few letters, where many merges compete.

use std::{borrow::Cow, collections::HashMap};

use serde_json::json;
use tokenizers::{Model, models::bpe::BPE};

use super::{Pairs, merges::Merges, vocabulary::Vocabulary};

const LETTERS: [char; 4] = ['a', 'b', 'é', '▁'];

fn word(random: &mut fastrand::Rng, n: usize) -> String {
    (0..n).map(|_| LETTERS[random.usize(..LETTERS.len())]).collect()
}

/// Returns the letters and random longer tokens, each once.
fn tokens(random: &mut fastrand::Rng) -> Vec<String> {
    let mut tokens: Vec<String> = LETTERS.map(String::from).into();
    for _ in 0..40 {
        let n = random.usize(2..6);
        let token = word(random, n);
        if !tokens.contains(&token) {
            tokens.push(token);
        }
    }
    tokens
}

fn vocabulary(tokens: &[String]) -> Vocabulary {
    Vocabulary::new(tokens.iter().map(|token| Cow::Borrowed(token.as_str())))
}

/// Returns all pairs of tokens that spell a third one, by the third one's id.
fn pairs(tokens: &[String]) -> Vec<(usize, (String, String))> {
    let mut pairs = Vec::new();
    for (id, token) in tokens.iter().enumerate() {
        let known = |half: &str| tokens.iter().position(|token| token == half);
        let cuts = token.char_indices().skip(1).map(|(at, _)| token.split_at(at));
        let mut halves: Vec<(usize, usize)> =
            cuts.filter_map(|(a, b)| Some((known(a)?, known(b)?))).collect();
        halves.sort();
        pairs.extend(halves.into_iter().map(|(a, b)| (id, (tokens[a].clone(), tokens[b].clone()))));
    }
    pairs
}

#[track_caller]
fn assert_same(random: &mut fastrand::Rng, tokens: &[String], list: &[(String, String)], merges: Merges) {
    let ids: HashMap<&String, usize> = tokens.iter().zip(0..).collect();
    let json = json!({ "type": "BPE", "vocab": ids, "merges": list }).to_string();
    let theirs: BPE = serde_json::from_str(&json).unwrap();
    let vocabulary = vocabulary(tokens);
    let ours = Pairs { vocabulary, merges, bytes: Vec::new(), unknown: None, whole_words: false };
    for n in 1..40 {
        let word = word(random, n);
        assert_eq!(ours.tokenize(&word).unwrap(), theirs.tokenize(&word).unwrap(), "{word:?} of {tokens:?}");
    }
}

#[test]
fn listed_merges_give_the_crates_tokens() {
    let random = &mut fastrand::Rng::with_seed(1);
    for _ in 0..50 {
        let tokens = tokens(random);
        let mut list: Vec<(String, String)> = pairs(&tokens).into_iter().map(|(_, pair)| pair).collect();
        random.shuffle(&mut list);
        let texts = list.iter().map(|(a, b)| Cow::Owned(format!("{a} {b}")));
        let merges = Merges::listed(&vocabulary(&tokens), texts).unwrap();
        assert_same(random, &tokens, &list, merges);
    }
}

#[test]
fn scores_give_the_tokens_of_merges_listed_by_them() {
    let random = &mut fastrand::Rng::with_seed(2);
    for _ in 0..50 {
        let tokens = tokens(random);
        // Few different scores, so that many are equal.
        let scores: Vec<f32> = tokens.iter().map(|_| f32::from(random.i8(-3..3))).collect();
        let mut list = pairs(&tokens);
        list.sort_by(|a, b| scores[b.0].total_cmp(&scores[a.0]));
        let list: Vec<(String, String)> = list.into_iter().map(|(_, pair)| pair).collect();
        let merges = Merges::scored(scores.into_iter().map(Some));
        assert_same(random, &tokens, &list, merges);
    }
}
