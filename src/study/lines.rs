//! The prompts of a study: a file with one JSON object a line, of which a shard takes its part.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    fs::File,
    io::{BufRead, BufReader, Lines},
    path::{Path, PathBuf},
    str::FromStr,
};

use serde::Deserialize;

use crate::{error::Error, protocol::Message};

/// A prompt with its name, and what is asked of its trace.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prompt {
    /// Names the prompt's rows, and its trace's file.
    pub id: String,
    /// The text, or else `messages` of a conversation.
    #[serde(default)]
    pub prompt: Option<String>,
    #[serde(default)]
    pub messages: Option<Vec<Message>>,
    /// The text that should follow the prompt.
    #[serde(default)]
    pub answer: Option<String>,
    /// Texts of the prompt by name: how much each head looks at them is measured.
    #[serde(default)]
    pub spans: BTreeMap<String, String>,
}

/// Characters that a name of a file may not have on some system.
const NOT_IN_NAMES: &[char] = &['/', '\\', ':', '*', '?', '"', '<', '>', '|'];

/// The most bytes of an id: with an ending, every file system takes such a name.
const LONGEST: usize = 200;

impl Prompt {
    /// Returns a prompt of a text, with neither answer nor spans.
    pub fn new(id: impl Into<String>, prompt: impl Into<String>) -> Self {
        let (id, prompt) = (id.into(), Some(prompt.into()));
        Prompt { id, prompt, messages: None, answer: None, spans: BTreeMap::new() }
    }

    /// Checks that there is one prompt, and that its id can name a file.
    ///
    /// # Errors
    /// [`Error::Setting`] with what is wrong.
    pub fn check(&self) -> Result<(), Error> {
        let id = &self.id;
        let unfit = id.contains(NOT_IN_NAMES) || id.contains(char::is_control) || id.starts_with('.');
        if id.is_empty() || id.len() > LONGEST || unfit {
            let expected = format!("the name of a file, of 1 to {LONGEST} bytes");
            return Err(Error::setting("id", expected, format!("{id:?}"), "give letters, digits, - and _"));
        }
        if self.prompt.is_some() != self.messages.is_some() {
            return Ok(());
        }
        let found = if self.prompt.is_some() { "both" } else { "neither" };
        Err(Error::setting(id, "either a prompt or messages", found, "give one of the two"))
    }
}

/// A part of a study: every `of`-th line from line `number` on, counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    pub number: usize,
    pub of: usize,
}

impl Shard {
    pub const WHOLE: Shard = Shard { number: 1, of: 1 };

    /// Returns the shard that the variables of Slurm's array jobs, of torchrun or of Kubernetes' indexed jobs give, with the
    /// variables' names. Kubernetes does not tell how many there are: `of` does.
    pub fn from_variables(
        of: Option<usize>,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Option<(Shard, &'static str)> {
        let number = |name: &str| variable(name)?.parse::<usize>().ok();
        let slurm = || {
            let first = number("SLURM_ARRAY_TASK_MIN").unwrap_or(0);
            let at = number("SLURM_ARRAY_TASK_ID")?.checked_sub(first)?;
            Some((at, number("SLURM_ARRAY_TASK_COUNT")?, "SLURM_ARRAY_TASK_ID"))
        };
        let torchrun = || Some((number("RANK")?, number("WORLD_SIZE")?, "RANK"));
        let kubernetes = || Some((number("JOB_COMPLETION_INDEX")?, of?, "JOB_COMPLETION_INDEX"));
        let (at, all, name) = slurm().or_else(torchrun).or_else(kubernetes)?;
        let of = of.unwrap_or(all);
        (at < of).then_some((Shard { number: at + 1, of }, name))
    }

    fn has(self, line: usize) -> bool {
        (line - 1) % self.of == self.number - 1
    }
}

impl FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let numbers = text.split_once('/').and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
        match numbers {
            Some((number, of)) if (1..=of).contains(&number) => Ok(Shard { number, of }),
            Some((number, of)) => Err(format!("there are shards 1 to {of}, not {number}")),
            None => Err("expected a shard and how many there are, such as 2/8".into()),
        }
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}/{}", self.number, self.of)
    }
}

/// A line of the file: its prompt, or why it has none.
#[derive(Debug)]
pub struct Line {
    /// Counted from 1.
    pub number: usize,
    pub prompt: Result<Prompt, Error>,
}

impl Line {
    /// Returns the prompt's id, or a name for a line without one.
    pub fn id(&self) -> String {
        self.prompt.as_ref().map_or_else(|_| format!("line {}", self.number), |prompt| prompt.id.clone())
    }
}

/// The lines of a shard, read one after the other; empty lines are left out.
pub struct Prompts {
    path: PathBuf,
    lines: Lines<BufReader<File>>,
    shard: Shard,
    n_read: usize,
    /// The line of each id.
    ids: HashMap<String, usize>,
}

impl Prompts {
    /// # Errors
    /// [`Error::File`] when the file cannot be read.
    pub fn open(path: impl AsRef<Path>, shard: Shard) -> Result<Self, Error> {
        let path = path.as_ref();
        let file = File::open(path).map_err(Error::io("read the prompts", path))?;
        Ok(Prompts {
            path: path.into(),
            lines: BufReader::new(file).lines(),
            shard,
            n_read: 0,
            ids: HashMap::new(),
        })
    }

    /// Counts the prompts of the shard.
    ///
    /// # Errors
    /// As [`Prompts::open`].
    pub fn count(path: impl AsRef<Path>, shard: Shard) -> Result<usize, Error> {
        let path = path.as_ref();
        let file = File::open(path).map_err(Error::io("read the prompts", path))?;
        let mut n = 0;
        for (i, line) in BufReader::new(file).lines().enumerate() {
            let line = line.map_err(Error::io("read the prompts", path))?;
            n += usize::from(shard.has(i + 1) && !line.trim().is_empty());
        }
        Ok(n)
    }

    fn line(&mut self, text: &str) -> Line {
        let number = self.n_read;
        let read = || {
            let text = text.strip_prefix('\u{feff}').unwrap_or(text);
            let prompt: Prompt = serde_json::from_str(text).map_err(|e| {
                let expected =
                    "{\"id\": …, \"prompt\": … or \"messages\": …, \"answer\"?, \"spans\"?} in one line";
                Error::setting(
                    format!("line {number}"),
                    expected,
                    e.to_string(),
                    "mend the line, and run again",
                )
            })?;
            prompt.check().map(|()| prompt)
        };
        let mut prompt = read();
        if let Ok(Prompt { id, .. }) = &prompt {
            let first = *self.ids.entry(id.clone()).or_insert(number);
            if first != number {
                let found = format!("{id:?}, which line {first} has, too");
                prompt = Err(Error::setting(
                    format!("id of line {number}"),
                    "one of its own",
                    found,
                    "rename one",
                ));
            }
        }
        Line { number, prompt }
    }
}

impl Iterator for Prompts {
    type Item = Result<Line, Error>;

    /// Ids are compared over all lines, those of other shards too.
    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let text = match self.lines.next()? {
                Ok(text) => text,
                Err(e) => return Some(Err(Error::io("read the prompts", &self.path)(e))),
            };
            self.n_read += 1;
            if text.trim().is_empty() {
                continue;
            }
            let line = self.line(&text);
            if self.shard.has(line.number) {
                return Some(Ok(line));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn lines(text: &str, shard: Shard) -> Vec<Line> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        let all: Vec<Line> = Prompts::open(file.path(), shard).unwrap().map(Result::unwrap).collect();
        assert_eq!(Prompts::count(file.path(), shard).unwrap(), all.len());
        all
    }

    #[test]
    fn what_is_wrong_with_a_line_is_told_and_the_rest_goes_on() {
        let text = concat!(
            r#"{"id": "a", "prompt": "Hi", "answer": " yes", "spans": {"who": "Hi"}}"#,
            "\n\nHi\n",
            r#"{"id": "a", "prompt": "Ho"}"#,
            "\n",
            r#"{"id": "../b", "prompt": "Ho"}"#,
            "\n",
            r#"{"id": "c"}"#,
            "\n",
            r#"{"id": "d", "prompt": "x", "anwser": "y"}"#,
            "\n",
            r#"{"id": "e", "messages": [{"role": "user", "content": "Hi"}]}"#,
        );
        let all = lines(text, Shard::WHOLE);
        let wrong = |line: &Line| line.prompt.as_ref().err().map(ToString::to_string).unwrap_or_default();
        let told: Vec<String> = all.iter().map(wrong).collect();
        assert_eq!(all.iter().map(|line| line.number).collect::<Vec<_>>(), [1, 3, 4, 5, 6, 7, 8]);
        assert_eq!((told[0].as_str(), told[6].as_str()), ("", ""));
        for (told, has) in told[1..6].iter().zip(["line 3", "line 1", "../b", "neither", "anwser"]) {
            assert!(told.contains(has), "{told:?} has no {has}");
        }
        assert_eq!((all[0].id(), all[1].id()), ("a".into(), "line 3".into()));
    }

    #[test]
    fn shards_share_the_lines() {
        let text: String = (0..10).map(|i| format!("{{\"id\": \"{i}\", \"prompt\": \"x\"}}\n")).collect();
        let of = |shard: &str| lines(&text, shard.parse().unwrap()).iter().map(Line::id).collect::<Vec<_>>();
        assert_eq!(of("1/3"), ["0", "3", "6", "9"]);
        assert_eq!(of("3/3"), ["2", "5", "8"]);
        for wrong in ["0/3", "4/3", "3", "a/b", "1/0"] {
            assert!(wrong.parse::<Shard>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn variables_give_a_shard() {
        let shard = |of, variables: &[(&str, &str)]| {
            let value = |name: &str| variables.iter().find(|v| v.0 == name).map(|v| v.1.to_string());
            Shard::from_variables(of, value).map(|(shard, _)| shard.to_string())
        };
        let slurm =
            [("SLURM_ARRAY_TASK_ID", "7"), ("SLURM_ARRAY_TASK_MIN", "5"), ("SLURM_ARRAY_TASK_COUNT", "4")];
        assert_eq!(shard(None, &slurm).as_deref(), Some("3/4"));
        assert_eq!(shard(None, &[("RANK", "0"), ("WORLD_SIZE", "2")]).as_deref(), Some("1/2"));
        assert_eq!(shard(None, &[("JOB_COMPLETION_INDEX", "1")]), None);
        assert_eq!(shard(Some(8), &[("JOB_COMPLETION_INDEX", "1")]).as_deref(), Some("2/8"));
        assert_eq!(shard(Some(8), &[("JOB_COMPLETION_INDEX", "9")]), None);
        assert_eq!(shard(None, &[]), None);
    }
}
