//! The parts of an error's sentence, for tables of what each error must say.

/// What helps.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Help {
    /// A file is missing or cut off, or a connection broke off: the same again may go well.
    Again,
    /// The same would come again: something else is to be done.
    Other,
}

/// Words of advice to do the same again.
const AGAIN: [&str; 3] = ["download", "git lfs pull", "try again"];

/// Checks the parts of "expected …, found …; …": each has its words, and only what helps is advised.
#[track_caller]
pub fn assert_parts(error: &str, words: [&str; 3], help: Help) {
    let parts = error.split_once("expected ").and_then(|(_, rest)| {
        let (expected, rest) = rest.split_once(", found ")?;
        let (found, fix) = rest.split_once("; ")?;
        Some([expected, found, fix.trim()])
    });
    let parts = parts.unwrap_or_else(|| panic!("what was expected, found and is to be done: {error}"));
    for (part, word) in parts.into_iter().zip(words) {
        assert!(!part.is_empty() && part.contains(word), "{word:?} is not in {part:?}: {error}");
    }
    let fix = parts[2].replace("what was downloaded is kept", "");
    assert_eq!(AGAIN.iter().any(|word| fix.contains(word)), help == Help::Again, "{error}");
}
