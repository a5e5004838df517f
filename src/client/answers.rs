//! Answers of a model: their probability, the budget that is enough for one, and the text that the model
//! writes itself.

use super::{
    progress::show,
    tracer::{Tracer, ask},
};
use crate::{
    error::Error,
    protocol::{
        Criterion, GenerateConfig, Generated, Payload, Progress, Reply, Request, ScoreConfig, SmallestTopK,
        unexpected,
    },
    trace::AnswerScore,
    words::safe::Printed,
};

impl Tracer {
    /// Scores an answer after a prompt, attending to the blocks that the search keeps.
    ///
    /// # Errors
    /// As [`Tracer::trace`].
    pub fn score(&self, prompt: &str, answer: &str) -> Result<AnswerScore, Error> {
        self.score_with(prompt, answer, &ScoreConfig::default())
    }

    /// Scores an answer after a prompt; with dense attention in O(T²) time, if `config` says so.
    ///
    /// # Errors
    /// As [`Tracer::trace`].
    pub fn score_with(&self, prompt: &str, answer: &str, config: &ScoreConfig) -> Result<AnswerScore, Error> {
        let request = Request::Score {
            prompt: prompt.into(),
            answer: answer.into(),
            config: self.config.clone(),
            dense: config.dense,
        };
        ask!(self, request, Scored)
    }

    /// Finds the smallest `top_k` with which the model gives the result of dense attention, and returns those
    /// that it tried. It takes one dense run, in O(T²) time, then some dozen sparse ones.
    ///
    /// # Errors
    /// As [`Tracer::trace`]; [`Error::Setting`] for a bound that cannot be met, or an answer that dense
    /// attention does not give.
    pub fn smallest_top_k(&self, prompt: &str, criterion: &Criterion) -> Result<SmallestTopK, Error> {
        let request = Request::SmallestTopK {
            prompt: prompt.into(),
            criterion: criterion.clone(),
            config: self.config.clone(),
        };
        ask!(self, request, SmallestTopK)
    }

    /// Lets the model write after a prompt, attending to the blocks that the search keeps; shows the text as
    /// it comes.
    ///
    /// # Errors
    /// As [`Tracer::trace`]. [`Error::Memory`] counts the weights, keys and values of all layers, which a
    /// trace does not hold.
    pub fn generate(&self, prompt: &str) -> Result<Generated, Error> {
        self.generate_with(prompt, &GenerateConfig::default())
    }

    /// Writes as [`Tracer::generate`], with a chosen length, temperature, stop texts, or densely.
    ///
    /// # Errors
    /// As [`Tracer::generate`]; [`Error::Setting`] for a `config` that makes no sense.
    pub fn generate_with(&self, prompt: &str, config: &GenerateConfig) -> Result<Generated, Error> {
        let mut printed = Printed::default();
        let shown = |text: &str| show(Progress::Text(printed.next(text)));
        let generated = self.generate_streaming(prompt, config, shown)?;
        show(Progress::Text("\n".into()));
        Ok(generated)
    }

    /// Writes as [`Tracer::generate_with`], with the text given to `on_text` piece by piece instead of shown.
    ///
    /// # Errors
    /// As [`Tracer::generate_with`].
    pub fn generate_streaming(
        &self,
        prompt: &str,
        config: &GenerateConfig,
        mut on_text: impl FnMut(&str),
    ) -> Result<Generated, Error> {
        let request =
            Request::Generate { prompt: prompt.into(), how: config.clone(), config: self.config.clone() };
        let mut report = |progress| match progress {
            Progress::Text(text) => on_text(&text),
            other => show(other),
        };
        match self.call_with(request, Payload::None, &mut report)? {
            (Reply::Generated(generated), _) => Ok(generated),
            (reply, _) => Err(unexpected(&reply)),
        }
    }
}
