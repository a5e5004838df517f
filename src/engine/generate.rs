//! Writing after a prompt, token by token.

use std::{sync::Arc, time::Instant};

use candle_core::Tensor;
use candle_transformers::generation::LogitsProcessor;

use super::{
    decoder::{
        resident::AllWeights,
        session::{Session, Setting},
    },
    device::{Device, Purpose},
    model::{Model, tokenizer::Encoding},
    probabilities::{argmax, log_probability},
    run::{Run, with_budget},
};
use crate::{
    error::Error,
    protocol::{
        End, GenerateConfig, Generated, Progress,
        generate::{self},
    },
    trace::{NextToken, Seconds, StreamConfig},
};

/// All weights on the device.
type Ready<D> = Arc<AllWeights<<D as Device>::Tensor>>;

impl<D: Device> Run<'_, D> {
    /// Writes after a prompt, and reports text as progress as soon as it is sure to stay.
    pub fn generate(
        &mut self,
        prompt: &str,
        how: &GenerateConfig,
        config: &StreamConfig,
    ) -> Result<Generated, Error> {
        let start = Instant::now();
        how.validate()?;
        let Encoding { ids, .. } = self.model.tokenizer.encode(prompt)?;
        self.note_length(ids.len());
        let (setting, weights) = self.setting(ids.len(), how, config)?;
        let top_k = (!how.dense).then_some(setting.config.top_k);
        let mut session = Session::new(self.model, self.device, weights, setting)?;
        let mut text = Text { model: self.model, before: ids[ids.len() - 1], tokens: Vec::new(), n_shown: 0 };
        let mut choose = chooser(how);
        let clock = self.clock("prompt", ids.len());
        let mut logits = session.read(&ids, |layer| (self.progress)(clock.at(layer)))?;
        let (end, text_len) = loop {
            let id = choose(&logits)?;
            if self.model.end_of_text.contains(&id) {
                break (End::EndOfText, usize::MAX);
            }
            let is_last = text.tokens.len() + 1 == how.max_tokens;
            // The device goes on while the text is looked at. If it ends there, this is lost.
            if !is_last {
                session.start(id)?;
            }
            text.push(id, &logits);
            let written = text.written();
            let (n_settled, stop) = generate::settled(&written, &how.stop);
            if text.n_shown < n_settled {
                (self.progress)(Progress::Text(written[text.n_shown..n_settled].into()));
                text.n_shown = n_settled;
            }
            match stop {
                Some(stop) => break (End::Stop(stop.clone()), n_settled),
                None if is_last => break (End::MaxTokens, usize::MAX),
                None => logits = session.finish()?,
            }
        };
        let mut written = text.written();
        written.truncate(text_len);
        if text.n_shown < written.len() {
            (self.progress)(Progress::Text(written[text.n_shown..].into()));
        }
        let seconds = Seconds {
            load: self.load.total(),
            load_parts: Some(self.load),
            total: start.elapsed().as_secs_f64(),
            ..Seconds::default()
        };
        Ok(Generated { text: written, tokens: text.tokens, end, n_prompt: ids.len(), top_k, seconds })
    }

    /// Returns the settings and the weights of the session, if it fits the available memory.
    fn setting(
        &self,
        n_prompt: usize,
        how: &GenerateConfig,
        config: &StreamConfig,
    ) -> Result<(Setting, Ready<D>), Error> {
        // The last token that is written is not read.
        let capacity = n_prompt.saturating_add(how.max_tokens - 1);
        if u32::try_from(capacity).is_err() {
            return Err(Error::setting(
                "max_tokens",
                format!("at most {} tokens with the prompt", u32::MAX),
                how.max_tokens.to_string(),
                "write less",
            ));
        }
        // A share to prune is one of the prompt; a budget may be more than the prompt has.
        let settled = with_budget(self, config, if config.pruned.is_some() { n_prompt } else { capacity })?;
        let config = StreamConfig { focus: Some(0..0), ..settled };
        let plan = self.plan(capacity, &config, Purpose::Generate)?;
        plan.check()?;
        let weights = self.prepare(&plan)?;
        let weights =
            weights.ok_or_else(|| Error::engine("no weights to write with", "please report this"))?;
        let dense = how.dense || config.exact;
        Ok((Setting { config, dense, capacity, layout: plan.layout }, weights))
    }
}

/// Returns a function that chooses each next token by its logits: the first of the largest, or a drawn one.
fn chooser(how: &GenerateConfig) -> impl FnMut(&[f32]) -> Result<u32, Error> {
    let mut drawing = LogitsProcessor::new(how.seed, Some(how.temperature), how.top_p);
    let greedy = how.temperature == 0.0;
    move |logits| {
        if greedy {
            return Ok(argmax(logits));
        }
        Ok(drawing.sample(&Tensor::new(logits, &candle_core::Device::Cpu)?)?)
    }
}

/// The text written so far.
struct Text<'a> {
    model: &'a Model,
    /// The prompt's last token.
    before: u32,
    tokens: Vec<NextToken>,
    /// Number of bytes that were reported.
    n_shown: usize,
}

impl Text<'_> {
    fn push(&mut self, id: u32, logits: &[f32]) {
        let text = self.model.tokenizer.text(id);
        let logprob = log_probability(logits, id);
        self.tokens.push(NextToken { id, text, logprob });
    }

    fn written(&self) -> String {
        let ids: Vec<u32> = self.tokens.iter().map(|token| token.id).collect();
        self.model.tokenizer.continuation(self.before, &ids)
    }
}
