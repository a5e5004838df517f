//! Two processes on one machine: a trace need not be sent where its receiver can open the sender's own file.
//!
//! A client shows its engine a file that it holds open, by a path under `/proc` and what the file says. An engine that
//! reads the same there runs beside it. So no engine over ssh or in a container is taken for one.

use std::{fs::File, io::Write, time::SystemTime};

use crate::open_file;

/// Environment variable in which an engine is told what a file of its client says, and where it is.
const VARIABLE: &str = "STREAMTRACE_BESIDE";

/// A file of this process by which an engine knows that it runs on the same machine.
pub struct Shown {
    word: String,
    file: File,
}

impl Shown {
    /// Makes a file that says what no other does; `None` where none can be made.
    pub fn new() -> Option<Self> {
        let since = SystemTime::UNIX_EPOCH.elapsed().ok()?;
        let word = format!("{}-{}", std::process::id(), since.as_nanos());
        let mut file = tempfile::tempfile().ok()?;
        file.write_all(word.as_bytes()).ok()?;
        Some(Shown { word, file })
    }

    /// Returns the environment variable for the engine; `None` where open files have no path.
    pub fn variable(&self) -> Option<(&'static str, String)> {
        Some((VARIABLE, format!("{} {}", self.word, open_file::path_of(&self.file)?)))
    }
}

/// Returns whether the client runs on this machine, and lets its files be opened.
#[cfg(feature = "engine")]
pub(crate) fn is_beside() -> bool {
    std::env::var(VARIABLE).is_ok_and(|shown| says(&shown))
}

/// Returns whether the file that a variable names says what it should.
#[cfg(any(feature = "engine", test))]
fn says(shown: &str) -> bool {
    let said = |(word, path): (&str, &str)| std::fs::read_to_string(path).is_ok_and(|said| said == word);
    shown.split_once(' ').is_some_and(said)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn only_a_file_that_says_the_same_is_of_this_machine() {
        let shown = Shown::new().unwrap();
        let (_, value) = shown.variable().unwrap();
        assert!(says(&value));
        let (word, path) = value.split_once(' ').unwrap();
        for other in [format!("{word}0 {path}"), format!("{word} /proc/0/fd/0"), word.into(), String::new()] {
            assert!(!says(&other), "{other}");
        }
        drop(shown);
        assert!(!says(&value));
    }
}
