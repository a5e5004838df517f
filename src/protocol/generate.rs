//! The text that a model writes after a prompt, and its end.

use serde::{Deserialize, Serialize};

use crate::{
    error::Error,
    trace::{NextToken, Seconds},
};

/// The way in which a model writes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GenerateConfig {
    /// Most tokens to write.
    pub max_tokens: usize,
    /// 0 takes the most likely token each time; 1 draws by the model's own probabilities; larger is wilder.
    pub temperature: f64,
    /// Draw only from the most likely tokens that together have this probability.
    pub top_p: Option<f64>,
    /// The same seed draws the same tokens.
    pub seed: u64,
    /// Texts that end the writing; they are not part of the written text.
    pub stop: Vec<String>,
    /// Attend to everything, in O(T) time for each token, instead of the blocks that the search keeps.
    pub dense: bool,
}

impl Default for GenerateConfig {
    fn default() -> Self {
        GenerateConfig {
            max_tokens: 64,
            temperature: 0.0,
            top_p: None,
            seed: 0,
            stop: Vec::new(),
            dense: false,
        }
    }
}

impl GenerateConfig {
    /// # Errors
    /// [`Error::Setting`] for no tokens at all, a temperature or `top_p` out of range, an empty stop.
    pub fn validate(&self) -> Result<(), Error> {
        let wrong = |setting: &str, expected: &str, found: String, fix: &str| {
            Err(Error::setting(setting, expected, found, fix))
        };
        if self.max_tokens == 0 {
            return wrong("max_tokens", "at least 1", "0".into(), "say how much may be written");
        }
        if !(self.temperature >= 0.0 && self.temperature.is_finite()) {
            return wrong(
                "temperature",
                "a number from 0 on",
                self.temperature.to_string(),
                "0 takes the most likely tokens",
            );
        }
        if let Some(top_p) = self.top_p.filter(|p| !(*p > 0.0 && *p <= 1.0)) {
            return wrong(
                "top_p",
                "a probability above 0 and at most 1",
                top_p.to_string(),
                "0.95 is common",
            );
        }
        if self.stop.iter().any(String::is_empty) {
            return wrong("stop", "texts", "an empty one, which is everywhere".into(), "leave it out");
        }
        Ok(())
    }
}

/// The text that a model wrote.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Generated {
    pub text: String,
    /// The tokens that were chosen, without one that ends the text. The last may reach past `text`, into a
    /// stop.
    pub tokens: Vec<NextToken>,
    pub end: End,
    /// Tokens of the prompt.
    pub n_prompt: usize,
    /// Key blocks kept for each head and query block; `None` for a dense run.
    pub top_k: Option<usize>,
    /// `load` and `total`; search and attention are not told apart.
    pub seconds: Seconds,
}

/// The reason why a model stopped writing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// It wrote the token that ends a text.
    EndOfText,
    /// It wrote one of [`GenerateConfig::stop`].
    Stop(String),
    /// It wrote [`GenerateConfig::max_tokens`].
    MaxTokens,
}

/// Returns the length of the text that stays whatever follows: up to the first stop, which is returned too;
/// else without an end that may become one, and without a character that is not complete.
#[cfg(feature = "engine")]
pub(crate) fn settled<'a>(text: &str, stops: &'a [String]) -> (usize, Option<&'a String>) {
    if let Some((at, stop)) =
        stops.iter().filter_map(|stop| Some((text.find(stop.as_str())?, stop))).min_by_key(|s| s.0)
    {
        return (at, Some(stop));
    }
    let complete = text.trim_end_matches('\u{fffd}');
    let may_stop = |start: &usize| stops.iter().any(|stop| stop.starts_with(&complete[*start..]));
    (complete.char_indices().map(|(at, _)| at).find(may_stop).unwrap_or(complete.len()), None)
}

#[cfg(all(test, feature = "engine"))]
mod tests {
    use super::*;

    #[test]
    fn text_settles_when_no_stop_can_come() {
        let stops = ["\n\n".to_string(), "END".into()];
        for (text, n_settled, stop) in [
            ("", 0, None),
            ("plain", 5, None),
            ("a E", 2, None),
            ("a EN", 2, None),
            ("a END b", 2, Some(&stops[1])),
            ("a\n", 1, None),
            ("a\n\nEND", 1, Some(&stops[0])),
            ("a\nb", 3, None),
            ("née", 4, None),
            ("n\u{fffd}", 1, None),
        ] {
            assert_eq!(settled(text, &stops), (n_settled, stop), "{text:?}");
        }
        assert_eq!(settled("END", &[]), (3, None));
    }
}
