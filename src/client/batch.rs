//! Many prompts through one engine.

use super::tracer::Tracer;
use crate::{
    error::Error,
    study::{Prompt, Rows},
    trace::Trace,
};

/// A prompt of a batch that was traced, or why it was not.
pub struct Traced {
    pub id: String,
    pub found: Result<(Rows, Trace), Error>,
}

impl Traced {
    /// Returns the prompt's rows, which tell an error, too.
    pub fn rows(&self) -> Rows {
        self.found.as_ref().map_or_else(|e| Rows::failed(&self.id, e), |(rows, _)| rows.clone())
    }
}

impl Tracer {
    /// Traces prompts one after the other; the model stays where it is. An error is that of its prompt, and the next
    /// one follows.
    pub fn batch<'a, P: IntoIterator<Item = Prompt>>(
        &'a self,
        prompts: P,
    ) -> impl Iterator<Item = Traced> + use<'a, P> {
        prompts.into_iter().map(|prompt| Traced { found: self.trace_prompt(&prompt), id: prompt.id })
    }

    /// Traces a prompt of a study. With an answer, the trace is of the prompt and the answer, and its focus are the
    /// queries that produce the answer; another run scores it.
    ///
    /// # Errors
    /// As [`Tracer::trace`]; [`Error::Setting`] for an id that cannot name a file, [`Error::Missing`] for a span that is
    /// not in the prompt.
    pub fn trace_prompt(&self, prompt: &Prompt) -> Result<(Rows, Trace), Error> {
        prompt.check()?;
        let text = match (&prompt.prompt, &prompt.messages) {
            (Some(text), _) => text.clone(),
            (None, messages) => self.chat_prompt(messages.as_deref().unwrap_or_default())?,
        };
        let Some(answer) = &prompt.answer else {
            let trace = self.trace(&text)?;
            return Ok((Rows::of(prompt, &trace, None)?, trace));
        };
        let score = self.score(&text, answer)?;
        let (trace, span) = self.trace_answer(&text, answer)?;
        Ok((Rows::of(prompt, &trace, Some((&score, span)))?, trace))
    }
}
