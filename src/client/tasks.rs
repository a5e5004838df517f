//! Prompts whose answer is known, fitted to the tokens of the model.

use super::tracer::Tracer;
use crate::{
    error::Error,
    protocol::Message,
    tasks::{ChatFrame, Prompt, ReasoningPrompt, RulerConfig, WordProblem},
};

/// A message that no template holds by itself.
const MESSAGE: &str = "the user's message, 4f9d2c";

impl Tracer {
    /// Makes a task's prompt, fitted to this model's tokens.
    ///
    /// # Errors
    /// [`Error::Prompt`] when the task does not fit the length.
    pub fn prompt(&self, task: &RulerConfig) -> Result<Prompt, Error> {
        task.prompt(&mut |text| self.count_tokens(text))
    }

    /// Returns what the model's chat template writes around a user's message, for [`RulerConfig::chat`].
    ///
    /// # Errors
    /// As [`Tracer::chat_prompt`]; [`Error::Model`] for a template that changes the message.
    pub fn chat_frame(&self) -> Result<ChatFrame, Error> {
        let prompt = self.chat_prompt(&[Message::user(MESSAGE)])?;
        match prompt.split(MESSAGE).collect::<Vec<_>>()[..] {
            [before, after] => Ok(ChatFrame { before: before.into(), after: after.into() }),
            ref pieces => Err(Error::model(
                &self.model().name,
                "a chat template that writes a user's message once, as it is",
                format!("one that writes it {} times", pieces.len() - 1),
                "give this model plain text, without --chat",
            )),
        }
    }

    /// Makes a word problem's prompt, fitted to this model's tokens.
    ///
    /// # Errors
    /// [`Error::Prompt`] when facts, question and chain alone are longer.
    pub fn word_problem(&self, problem: &WordProblem, n_tokens: usize) -> Result<ReasoningPrompt, Error> {
        problem.prompt(n_tokens, &mut |text| self.count_tokens(text))
    }
}
