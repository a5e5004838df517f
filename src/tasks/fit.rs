//! Fits a prompt to a length in tokens. Most of the cost is counting the tokens of whole texts, so counts are
//! few.

use super::draft::Draft;
use crate::error::Error;

/// A function that counts the tokens of a whole text.
pub type CountTokens<'a> = dyn FnMut(&str) -> Result<usize, Error> + 'a;

/// A prompt with more or less filling: haystack sentences, or words to count.
pub(super) trait Elastic {
    /// The smallest number of units of filling.
    fn smallest(&self) -> usize {
        0
    }

    /// The limit of the filling, if it is not endless.
    fn limit(&self) -> Option<Limit> {
        None
    }

    /// Writes the prompt with `n_units` units. The same number gives the same text, and more units give a
    /// longer text.
    fn draft(&mut self, n_units: usize) -> Draft;
}

/// The limit of a prompt's filling, with the words of an error.
pub(super) struct Limit {
    pub n_units: usize,
    pub setting: &'static str,
    /// The limit in words, such as "12 sentences".
    pub amount: String,
    pub fix: &'static str,
}

impl Limit {
    fn reached(self, n_tokens: usize, found: usize) -> Error {
        Error::setting(
            self.setting,
            format!("enough for a prompt of {n_tokens} tokens"),
            format!("{}, which make one of {found}", self.amount),
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

/// The number of rounds after which the search halves instead of interpolating.
const MAX_INTERPOLATIONS: usize = 8;

/// A number of units that always adds tokens; in `fwe` a single unit may add none.
const SURELY_LONGER: usize = 32;

/// Writes the prompt with at most `n_tokens` tokens; it is shorter by at most 1 %, 64 tokens or one unit of
/// filling, whichever is most.
///
/// This is a secant search over the number of units, which starts with a probe of about a tenth of the text.
/// It takes three or four counts.
///
/// # Errors
/// [`Error::Prompt`] when the smallest prompt is too long, [`Error::Setting`] when the filling runs out, and
/// the errors of `count`.
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
    let mut high: Option<usize> = None;
    let mut slope = None;
    for round in 0.. {
        let missing = n_tokens - low.n_tokens;
        if missing <= tolerance || high.is_some_and(|n| n == low.n_units + 1) {
            break;
        }
        let limit = prompt.limit();
        let most = limit.as_ref().map_or(usize::MAX, |l| l.n_units);
        if let Some(limit) = limit.filter(|l| l.n_units <= low.n_units) {
            return Err(limit.reached(n_tokens, low.n_tokens));
        }
        let step = match slope {
            Some(slope) if round < MAX_INTERPOLATIONS => (missing - tolerance / 2) as f64 / slope,
            _ => high.map_or((n_tokens / 128).max(SURELY_LONGER), |n| (n - low.n_units) / 2) as f64,
        };
        let most = high.map_or(most, |n| n - 1);
        let n_units = low.n_units.saturating_add((step as usize).clamp(1, 2 * missing)).min(most);
        let tried = measure(prompt, n_units, count)?;
        if tried.n_tokens <= low.n_tokens && n_units - low.n_units >= SURELY_LONGER {
            return Err(not_growing(tried.n_tokens));
        }
        slope = Some((tried.n_tokens as f64 - low.n_tokens as f64) / (n_units - low.n_units) as f64);
        if tried.n_tokens <= n_tokens {
            low = tried;
        } else {
            high = Some(n_units);
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
        format!("at least {least} tokens: all but the haystack takes as many"),
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
                amount: format!("{} units", self.most),
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
            let found = found.unwrap();
            let tolerance = (n_tokens / 100).max(64);
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
