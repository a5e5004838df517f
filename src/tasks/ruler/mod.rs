//! RULER's synthetic tasks (Hsieh et al. 2024): prompts of any length with known answers and known positions
//! of the needles.

mod chat;
mod counting;
mod niah;
mod score;
mod task;
mod vt;
mod wording;

use std::ops::Range;

use fastrand::Rng;
use serde::{Deserialize, Serialize};

use super::{
    draft::Role,
    fit::{CountTokens, Elastic, fit},
};
use crate::error::Error;
pub use chat::ChatFrame;
use chat::InChat;
use counting::{Cwe, Fwe};
use niah::Niah;
pub use score::{find_answer, score};
pub use task::Task;
use vt::Vt;

/// Settings of a prompt. The same settings and token counts give the same prompt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RulerConfig {
    pub task: Task,
    /// The largest number of tokens, those of a chat template too. The prompt is shorter by at most 1 %, 64 tokens or one haystack
    /// sentence.
    pub n_tokens: usize,
    pub seed: u64,
    /// Share of the haystack before the needle asked for (the first, if there are several), 0 to 1. If not
    /// set, the seed draws one of [`RulerConfig::depths`]. Not for `cwe` and `fwe`.
    pub depth: Option<f64>,
    /// Text to hide needles in, instead of generated prose. Tasks whose haystack is not prose ignore it.
    pub essay: Option<String>,
    /// The chat template around the task, such as [`Tracer::chat_frame`](crate::Tracer::chat_frame) makes. If
    /// not set, the prompt is plain text.
    pub chat: Option<ChatFrame>,
}

impl Default for RulerConfig {
    fn default() -> Self {
        RulerConfig {
            task: Task::NiahSingle2,
            n_tokens: 16_384,
            seed: 0,
            depth: None,
            essay: None,
            chat: None,
        }
    }
}

/// A prompt with its answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Prompt {
    pub task: Task,
    pub text: String,
    /// The references, as [`score`] takes them.
    pub answers: Vec<String>,
    /// The text that continues the prompt, such as " 9077192."
    pub answer: String,
    /// Bytes of `text` that hold the answer, in order: needles, assignments, or every occurrence of the words
    /// asked for.
    pub needles: Vec<Range<usize>>,
    /// Bytes of `text` that hold needles not asked for.
    pub distractors: Vec<Range<usize>>,
    /// Bytes of `text` that hold the question, without the beginning of the answer that follows it.
    pub question: Range<usize>,
    /// The number of tokens that `count_tokens` counted.
    pub n_tokens: usize,
    pub seed: u64,
    /// Share of the haystack before the needle asked for; `None` for `cwe` and `fwe`.
    pub depth: Option<f64>,
}

impl RulerConfig {
    /// RULER's 40 depths: whole percents from 0 to 100, as shares.
    pub fn depths() -> [f64; 40] {
        std::array::from_fn(|i| (i as f64 * 100.0 / 39.0).round() / 100.0)
    }

    /// Writes the prompt. `count_tokens` counts the tokens of a whole text; it is called three to five times.
    ///
    /// # Errors
    /// [`Error::Prompt`] when `n_tokens` is too small for needles and question, [`Error::Setting`] for a
    /// depth outside 0 to 1 or for a task without depth, for an essay that is too short and for more words
    /// than `cwe` has, and the errors of `count_tokens`.
    pub fn prompt(&self, count_tokens: &mut CountTokens<'_>) -> Result<Prompt, Error> {
        self.check_depth()?;
        let mut rng = self.rng();
        // Always drawn, so that setting the depth changes nothing else.
        let drawn = RulerConfig::depths()[rng.usize(..40)];
        let depth = self.depth.unwrap_or(drawn);
        let prompt: Box<dyn Asks> = match self.task {
            Task::Cwe => Box::new(Cwe::new(self.n_tokens, rng)),
            Task::Fwe => Box::new(Fwe::new(self.n_tokens, rng)),
            Task::Vt => Box::new(Vt::new(depth, rng)),
            _ => Box::new(Niah::new(self, depth, rng)),
        };
        let mut prompt = InChat { task: prompt, frame: self.chat.clone().unwrap_or_default() };
        let fitted = fit(&mut prompt, self.n_tokens, count_tokens)?;
        Ok(Prompt {
            task: self.task,
            answers: prompt.task.answers().to_vec(),
            answer: prompt.task.answer(),
            needles: fitted.draft.ranges(Role::Needle),
            distractors: fitted.draft.ranges(Role::Distractor),
            question: fitted.draft.ranges(Role::Question).swap_remove(0),
            text: fitted.draft.text,
            n_tokens: fitted.n_tokens,
            seed: self.seed,
            depth: self.task.has_depth().then_some(depth),
        })
    }

    fn check_depth(&self) -> Result<(), Error> {
        let wrong = |expected: &str, found: f64, fix: &str| {
            Err(Error::setting("depth", expected, found.to_string(), fix))
        };
        match self.depth {
            Some(depth) if !self.task.has_depth() => wrong(
                &format!("no depth: the words that {} asks for are everywhere", self.task),
                depth,
                "leave it unset",
            ),
            Some(depth) if !(0.0..=1.0).contains(&depth) => {
                wrong("a share from 0 to 1", depth, "0.5 is the middle")
            }
            _ => Ok(()),
        }
    }

    /// The random numbers of a task and seed.
    fn rng(&self) -> Rng {
        Rng::with_seed(self.seed.wrapping_mul(Task::ALL.len() as u64).wrapping_add(self.task as u64))
    }
}

/// A task's prompt, up to its question, with a known answer.
trait Asks: Elastic {
    /// The references for scoring.
    fn answers(&self) -> &[String];

    /// RULER's answer prefix: the beginning of the answer, which stands after the question.
    fn prefix(&self) -> &str;

    /// The text that a model has to write after the prefix.
    fn answer(&self) -> String;
}

#[cfg(test)]
mod tests;
