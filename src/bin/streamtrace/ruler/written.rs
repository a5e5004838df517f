//! What a model writes after a prompt, and the answer in it.

use streamtrace::{
    Error, GenerateConfig, Tracer,
    protocol::End,
    tasks::{Prompt, find_answer, score},
    trace::AnswerScore,
};

/// What a model writes, and RULER's score of it.
pub struct Written {
    text: String,
    pub score: f64,
}

impl Written {
    /// Lets the model write, on what the search keeps or densely. One reference ends it, as nothing after it
    /// changes the score.
    pub fn by(tracer: &Tracer, prompt: &Prompt, max_tokens: usize, dense: bool) -> Result<Self, Error> {
        let stop = if prompt.answers.len() == 1 { prompt.answers.clone() } else { Vec::new() };
        let how = GenerateConfig { max_tokens, stop, dense, ..GenerateConfig::default() };
        let generated = tracer.generate_streaming(&prompt.text, &how, |_| {})?;
        let text = match generated.end {
            End::Stop(reference) => generated.text + &reference,
            End::EndOfText | End::MaxTokens => generated.text,
        };
        Ok(Written { score: score(&text, &prompt.answers), text })
    }

    /// Splits off the text before the answer; the answer is as the model writes it.
    fn at_answer(&self, reference: &str) -> Option<(&str, &str)> {
        let at = find_answer(&self.text, reference)?;
        Some((&self.text[..at], self.text[at..].get(..reference.len())?))
    }

    /// The separators that the text begins with, such as a colon and a space.
    fn separators(&self) -> &str {
        let end = self.text.find(char::is_alphanumeric).unwrap_or(self.text.len());
        &self.text[..end]
    }
}

/// Scores the answer on the blocks that the search keeps, after the words that lead up to it: those that the
/// model itself writes before it, on these blocks or else densely; or else its separators and those of the
/// task. Several references are scored as the task words them.
///
/// The score's tokens begin with the separators before the answer.
pub fn on_kept_blocks(
    tracer: &Tracer,
    prompt: &Prompt,
    sparse: &Written,
    dense: Option<&Written>,
) -> Result<AnswerScore, Error> {
    let [reference] = &prompt.answers[..] else {
        return tracer.score(&prompt.text, &prompt.answer);
    };
    let (lead, answer) = sparse
        .at_answer(reference)
        .or_else(|| dense?.at_answer(reference))
        .unwrap_or((Some(sparse.separators()).filter(|s| !s.is_empty()).unwrap_or(" "), reference));
    let (words, separators) = lead.split_at(lead.trim_end_matches(|c| !char::is_alphanumeric(c)).len());
    tracer.score(&format!("{}{words}", prompt.text), &format!("{separators}{answer}"))
}

/// Returns whether every token of the answer is the most likely one, from the first that is more than
/// separators on.
pub fn survives(score: &AnswerScore) -> bool {
    let is_separator = |text: &str| !text.contains(char::is_alphanumeric);
    score.tokens.iter().skip_while(|token| is_separator(&token.text)).all(|token| token.is_argmax)
}

#[cfg(test)]
mod tests {
    use streamtrace::{
        DeviceChoice, LoadOptions,
        tasks::RulerConfig,
        trace::{AnswerToken, Seconds},
    };

    use super::*;

    fn written(text: &str) -> Written {
        Written { text: text.into(), score: 0.0 }
    }

    #[test]
    fn the_answer_is_told_from_what_stands_before_it() {
        for (text, found, separators) in [
            (": 4640343.", Some((": ", "4640343")), ": "),
            ("4640343", Some(("", "4640343")), ""),
            ("\n\n**4640343**", Some(("\n\n**", "4640343")), "\n\n**"),
            (" the number 4640343", Some((" the number ", "4640343")), " "),
            (": 464", None, ": "),
            ("", None, ""),
        ] {
            let written = written(text);
            assert_eq!((written.at_answer("4640343"), written.separators()), (found, separators), "{text:?}");
        }
        assert_eq!(written(": 3F2A").at_answer("3f2a"), Some((": ", "3F2A")));
    }

    /// The words that lead up to the answer are those of the sparse run, else of the dense one, else those of
    /// the task.
    #[test]
    fn an_answer_is_scored_after_the_words_of_the_model() {
        let model = concat!(env!("CARGO_MANIFEST_DIR"), "/models/needle-6m");
        let options =
            LoadOptions { model: model.into(), device: DeviceChoice::Cpu, ..LoadOptions::default() };
        let tracer = Tracer::load_with(options).unwrap();
        let prompt = tracer.prompt(&RulerConfig { n_tokens: 400, ..RulerConfig::default() }).unwrap();
        let right = format!(": \"{}\"", prompt.answers[0]);
        for (sparse, dense, separators) in [
            (right.as_str(), None, ": \""),
            (": 12", None, ": "),
            ("the end", None, " "),
            ("the end", Some(right.as_str()), ": \""),
        ] {
            let score =
                on_kept_blocks(&tracer, &prompt, &written(sparse), dense.map(written).as_ref()).unwrap();
            let text: String = score.tokens.iter().map(|token| token.text.as_str()).collect();
            assert_eq!(text, format!("{separators}{}", prompt.answers[0]));
        }
        let words = written(&format!(" the number {}", prompt.answers[0]));
        let score = on_kept_blocks(&tracer, &prompt, &words, None).unwrap();
        assert_eq!((score.tokens[0].text.trim(), score.tokens.len()), ("", 8), "{score:?}");
    }

    #[test]
    fn only_tokens_of_the_answer_must_be_the_most_likely() {
        let token = |&(text, is_argmax): &(&str, bool)| AnswerToken {
            id: 0,
            text: text.into(),
            logprob: -1.0,
            most_likely: 0,
            is_argmax,
        };
        for (tokens, expected) in [
            (&[(":", false), (" ", false), ("4", true), ("6", true)][..], true),
            (&[(" ", true), ("4", false), ("6", true)], false),
            (&[(" a1", true), ("-", false), ("b2", true)], false),
            (&[(" \"a1", true), ("-", true)], true),
        ] {
            let score = AnswerScore {
                tokens: tokens.iter().map(token).collect(),
                pruned: 0.0,
                keys_read_per_query_block: None,
                recall: None,
                top_k: 1,
                n_tokens: 9,
                seconds: Seconds::default(),
            };
            assert_eq!(survives(&score), expected, "{tokens:?}");
        }
    }
}
