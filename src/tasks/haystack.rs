//! Haystacks: prose, noise, other needles, or the user's text.

use fastrand::Rng;

use super::{
    fit::Limit,
    prose::{NOISE, prose_sentence},
};

/// The source of a haystack's sentences.
pub(super) enum Source {
    Prose(Rng),
    /// RULER's noise, all of it one sentence: needles stand between repetitions.
    Noise,
    Generated(Box<dyn FnMut() -> String>),
    Essay,
}

/// Sentences with leading white space, made as they are needed: the first ones do not depend on how many
/// follow.
pub(super) struct Haystack {
    source: Source,
    sentences: Vec<String>,
}

impl Haystack {
    pub fn new(source: Source) -> Self {
        Haystack { source, sentences: Vec::new() }
    }

    /// Makes a haystack of a text's sentences.
    pub fn essay(text: &str) -> Self {
        Haystack { source: Source::Essay, sentences: sentences(text) }
    }

    /// The number of sentences of an essay; `None` for other sources, which are endless.
    pub fn limit(&self) -> Option<Limit> {
        let n_units = match self.source {
            Source::Essay => self.sentences.len(),
            _ => return None,
        };
        Some(Limit {
            n_units,
            setting: "essay",
            amount: format!("{n_units} sentences"),
            fix: "give a longer text, or lower n_tokens",
        })
    }

    /// Returns the first `n` sentences, or all if there are fewer.
    pub fn take(&mut self, n: usize) -> &[String] {
        while self.sentences.len() < n {
            let next = match &mut self.source {
                Source::Prose(rng) => prose_sentence(rng),
                Source::Noise => NOISE.to_string(),
                Source::Generated(make) => make(),
                Source::Essay => break,
            };
            self.sentences.push(next);
        }
        &self.sentences[..n.min(self.sentences.len())]
    }
}

/// Cuts a text into sentences after `.`, `?` or `!` before white space, with single spaces between words.
fn sentences(text: &str) -> Vec<String> {
    let mut sentences = vec![String::new()];
    for word in text.split_whitespace() {
        let sentence = sentences.last_mut().expect("never empty");
        sentence.push(' ');
        sentence.push_str(word);
        if word.ends_with(['.', '?', '!']) {
            sentences.push(String::new());
        }
    }
    sentences.retain(|s| !s.is_empty());
    sentences
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_essay_is_cut_into_sentences() {
        let mut essay = Haystack::essay("One is,\n 1.5 and  so. Why? Ja — né! and the rest");
        assert_eq!(essay.take(9), [" One is, 1.5 and so.", " Why?", " Ja — né!", " and the rest"]);
        assert_eq!(essay.limit().unwrap().n_units, 4);
        assert!(Haystack::essay(" \n").take(3).is_empty());
    }

    #[test]
    fn a_longer_haystack_starts_with_the_shorter() {
        let prose = || Haystack::new(Source::Prose(Rng::with_seed(3)));
        assert_eq!(prose().take(5), &prose().take(50)[..5]);
        assert!(prose().take(200).iter().all(|s| s.starts_with(' ') && s.ends_with('.')));
    }
}
