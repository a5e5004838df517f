//! The names and properties of RULER's synthetic tasks.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::error::Error;

/// A synthetic task of RULER (Hsieh et al. 2024).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Task {
    /// One number among repeated noise.
    NiahSingle1,
    /// One number among prose.
    NiahSingle2,
    /// One UUID among prose.
    NiahSingle3,
    /// Four numbers among prose, one of them asked for.
    NiahMultikey1,
    /// A number among nothing but other numbers.
    NiahMultikey2,
    /// A UUID, with a UUID as its key, among nothing but other UUIDs.
    NiahMultikey3,
    /// Four numbers with one key among prose, all asked for.
    NiahMultivalue,
    /// Four numbers with four keys among prose, all asked for.
    NiahMultiquery,
    /// Variable tracking: a chain of five assignments among noise.
    Vt,
    /// Common words extraction: the ten most common words of a list. From 4096 tokens on it has 520 words or
    /// more.
    Cwe,
    /// Frequent words extraction: the three most frequent coded words.
    Fwe,
}

impl Task {
    /// Every task, in RULER's order.
    pub const ALL: [Task; 11] = [
        Task::NiahSingle1,
        Task::NiahSingle2,
        Task::NiahSingle3,
        Task::NiahMultikey1,
        Task::NiahMultikey2,
        Task::NiahMultikey3,
        Task::NiahMultivalue,
        Task::NiahMultiquery,
        Task::Vt,
        Task::Cwe,
        Task::Fwe,
    ];

    /// RULER's name of the task, as in `niah_single_1`.
    pub fn name(self) -> &'static str {
        match self {
            Task::NiahSingle1 => "niah_single_1",
            Task::NiahSingle2 => "niah_single_2",
            Task::NiahSingle3 => "niah_single_3",
            Task::NiahMultikey1 => "niah_multikey_1",
            Task::NiahMultikey2 => "niah_multikey_2",
            Task::NiahMultikey3 => "niah_multikey_3",
            Task::NiahMultivalue => "niah_multivalue",
            Task::NiahMultiquery => "niah_multiquery",
            Task::Vt => "vt",
            Task::Cwe => "cwe",
            Task::Fwe => "fwe",
        }
    }

    /// Returns whether the bundled model `needle-6m` was trained for the task. It never saw UUIDs or words to
    /// count.
    pub fn in_training(self) -> bool {
        !matches!(self, Task::NiahSingle3 | Task::NiahMultikey3 | Task::Cwe | Task::Fwe)
    }

    /// The largest number of tokens of an answer, as in RULER.
    pub fn answer_tokens(self) -> usize {
        match self {
            Task::Vt => 30,
            Task::Cwe => 120,
            Task::Fwe => 50,
            _ => 128,
        }
    }

    /// Returns whether needles stand at a depth of a haystack; words to count are everywhere.
    pub fn has_depth(self) -> bool {
        !matches!(self, Task::Cwe | Task::Fwe)
    }
}

impl fmt::Display for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Task {
    type Err = Error;

    /// # Errors
    /// [`Error::Missing`] for an unknown name.
    fn from_str(name: &str) -> Result<Self, Error> {
        Task::ALL.into_iter().find(|t| t.name() == name).ok_or_else(|| {
            Error::missing(
                "task",
                format!("{name:?}"),
                format!(
                    "choose one of {}; RULER's qa_1 and qa_2 ask about texts of SQuAD and HotpotQA, which are \
                     not here",
                    Task::ALL.map(Task::name).join(", ")
                ),
            )
        })
    }
}

impl TryFrom<String> for Task {
    type Error = Error;

    fn try_from(name: String) -> Result<Self, Error> {
        name.parse()
    }
}

impl From<Task> for String {
    fn from(task: Task) -> String {
        task.name().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back() {
        for task in Task::ALL {
            assert_eq!(task.to_string().parse::<Task>().unwrap(), task);
            let json = serde_json::to_string(&task).unwrap();
            assert_eq!(json, format!("\"{task}\""));
            assert_eq!(serde_json::from_str::<Task>(&json).unwrap(), task);
        }
        let error = "niah_single_4".parse::<Task>().unwrap_err().to_string();
        assert!(
            error.contains("\"niah_single_4\"") && error.contains("niah_single_1, niah_single_2"),
            "{error}"
        );
        assert!(serde_json::from_str::<Task>("\"qa_1\"").unwrap_err().to_string().contains("fwe"));
    }
}
