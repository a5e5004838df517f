//! Makes a prompt as long as asked for, with few whole-text token counts: they are what fitting costs.

use super::draft::Draft;
use crate::error::Error;

/// Counts the tokens of a whole text.
pub type CountTokens<'a> = dyn FnMut(&str) -> Result<usize, Error> + 'a;

/// A prompt that can be written with more or less filling: haystack sentences, words to count.
pub(super) trait Elastic {
    /// The fewest units of filling that make sense.
    fn smallest(&self) -> usize {
        0
    }

    /// The end of the filling, if it has one.
    fn limit(&self) -> Option<Limit> {
        None
    }

    /// The prompt with this many units. The same number gives the same text, and more units more text.
    fn draft(&mut self, n_units: usize) -> Draft;
}

/// All there is to fill a prompt with, in words for an error.
pub(super) struct Limit {
    pub n_units: usize,
    pub setting: &'static str,
    /// Such as "12 sentences".
    pub what: String,
    pub fix: &'static str,
}

impl Limit {
    fn reached(self, n_tokens: usize, found: usize) -> Error {
        Error::setting(
            self.setting,
            format!("enough for a prompt of {n_tokens} tokens"),
            format!("{}, which make one of {found}", self.what),
            self.fix,
        )
    }
}

/// A draft and its measured length.
pub(super) struct Fitted {
    pub draft: Draft,
    pub n_tokens: usize,
    n_units: usize,
}

/// From here on, a search that interpolates badly halves instead.
const MAX_INTERPOLATIONS: usize = 8;

/// Units that add tokens whatever the task: a single coded word may be rounded away.
const SURELY_LONGER: usize = 32;

/// The prompt with at most `n_tokens` tokens, at most 1 % or 64 tokens or one unit of filling shorter.
///
/// A secant search over the units, started by a probe of about a tenth of the text: three or four counts in all.
///
/// # Errors
/// [`Error::Prompt`] when the smallest prompt is too long, [`Error::Setting`] when the filling ends, and errors of `count`.
pub(super) fn fit(
    prompt: &mut dyn Elastic,
    n_tokens: usize,
    count: &mut CountTokens<'_>,
) -> Result<Fitted, Error> {
    let tolerance = (n_tokens / 100).max(64);
    let smallest = prompt.smallest();
    let mut low = measure(prompt, smallest, count)?;
    if low.n_tokens > n_tokens {
        return Err(too_short(low.n_tokens, n_tokens));
    }
    let mut high: Option<(usize, usize)> = None;
    let mut slope = None;
    for round in 0.. {
        let missing = n_tokens - low.n_tokens;
        if missing <= tolerance || high.is_some_and(|(n, _)| n == low.n_units + 1) {
            break;
        }
        let limit = prompt.limit();
        let most = limit.as_ref().map_or(usize::MAX, |l| l.n_units);
        if let Some(limit) = limit.filter(|l| l.n_units <= low.n_units) {
            return Err(limit.reached(n_tokens, low.n_tokens));
        }
        let step = match slope {
            Some(slope) if round < MAX_INTERPOLATIONS => (missing - tolerance / 2) as f64 / slope,
            _ => high.map_or((n_tokens / 128).max(SURELY_LONGER), |(n, _)| (n - low.n_units) / 2) as f64,
        };
        let most = high.map_or(most, |(n, _)| n - 1);
        let n_units = low.n_units.saturating_add((step as usize).clamp(1, 2 * missing)).min(most);
        let tried = measure(prompt, n_units, count)?;
        if tried.n_tokens <= low.n_tokens && n_units - low.n_units >= SURELY_LONGER {
            return Err(not_growing(tried.n_tokens));
        }
        slope = Some((tried.n_tokens as f64 - low.n_tokens as f64) / (n_units - low.n_units) as f64);
        match tried.n_tokens <= n_tokens {
            true => low = tried,
            false => high = Some((n_units, tried.n_tokens)),
        }
    }
    Ok(low)
}

fn measure(prompt: &mut dyn Elastic, n_units: usize, count: &mut CountTokens<'_>) -> Result<Fitted, Error> {
    let draft = prompt.draft(n_units);
    let n_tokens = count(&draft.text)?;
    Ok(Fitted { draft, n_tokens, n_units })
}

fn too_short(least: usize, n_tokens: usize) -> Error {
    Error::prompt(
        format!("at least {least} tokens: introduction, needles and question alone take as many"),
        format!("n_tokens of {n_tokens}"),
        format!("set n_tokens to {} or more", least + 64),
    )
}

fn not_growing(found: usize) -> Error {
    Error::prompt(
        "a token count that grows with the text",
        format!("{found} tokens for two lengths of text"),
        "count with the model's own tokenizer",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tasks::draft::Role;

    /// `n` units of uneven width after a head of `head` bytes.
    struct Units {
        head: usize,
        most: usize,
    }

    impl Elastic for Units {
        fn limit(&self) -> Option<Limit> {
            Some(Limit {
                n_units: self.most,
                setting: "units",
                what: format!("{} units", self.most),
                fix: "make more",
            })
        }

        fn draft(&mut self, n_units: usize) -> Draft {
            let mut draft = Draft::default();
            draft.push(&"x".repeat(self.head), Role::Filling);
            (0..n_units).for_each(|i| draft.push(&"y".repeat(5 + i * 7919 % 31), Role::Filling));
            draft
        }
    }

    fn fitted(head: usize, most: usize, n_tokens: usize) -> (Result<usize, Error>, usize) {
        let mut calls = 0;
        let mut count = |text: &str| {
            calls += 1;
            Ok(text.len())
        };
        let fitted = fit(&mut Units { head, most }, n_tokens, &mut count).map(|f| f.n_tokens);
        (fitted, calls)
    }

    #[test]
    fn lengths_are_met_with_few_counts() {
        for n_tokens in [100, 101, 163, 164, 165, 500, 4096, 16_384, 131_072, 1_000_000] {
            let (found, calls) = fitted(100, usize::MAX, n_tokens);
            let (found, tolerance) = (found.unwrap(), (n_tokens / 100).max(64));
            assert!(found <= n_tokens && n_tokens - found <= tolerance, "{found} for {n_tokens}");
            assert!(calls <= 5, "{calls} counts for {n_tokens}");
        }
    }

    #[test]
    fn impossible_lengths_are_refused_with_numbers() {
        let error = fitted(100, usize::MAX, 99).0.unwrap_err().to_string();
        assert!(error.contains("at least 100 tokens") && error.contains("99"), "{error}");
        let error = fitted(100, 10, 4096).0.unwrap_err().to_string();
        assert!(error.contains("4096 tokens") && error.contains("10 units, which make one of"), "{error}");
    }

    #[test]
    fn a_count_that_does_not_grow_ends_the_search() {
        let error = fit(&mut Units { head: 1, most: usize::MAX }, 4096, &mut |_| Ok(7)).err().unwrap();
        assert!(error.to_string().contains("grows with the text"), "{error}");
        let failed = Error::engine("gone", "start it");
        let error = fit(&mut Units { head: 1, most: 9 }, 4096, &mut |_| Err(failed.clone())).err().unwrap();
        assert_eq!(error, failed);
    }
}
