//! Finds the smallest budget that preserves what the model does: one dense run, then sparse ones.

use super::{
    compare::kl,
    device::Device,
    probabilities::{argmax, log_softmax},
    run::Run,
};
use crate::{
    error::Error,
    protocol::{Criterion, SmallestTopK, Tried, smallest_top_k::smallest},
    trace::StreamConfig,
};

/// Dense attention's logits, and the tokens that they should favour.
struct Reference {
    /// The prompt and the answer without its last token.
    tokens: Vec<u32>,
    /// After the prompt, and after each token of the answer but the last. `[n][vocab_size]`
    logits: Vec<Vec<f32>>,
    /// The answer, or the next token.
    wanted: Vec<u32>,
}

impl<D: Device> Run<'_, D> {
    pub fn smallest_top_k(
        &mut self,
        prompt: &str,
        criterion: &Criterion,
        config: &StreamConfig,
    ) -> Result<SmallestTopK, Error> {
        criterion.validate()?;
        // Without a share to prune, the blocks are the same for prompts of all lengths.
        let config = StreamConfig { pruned: None, recall: None, ..config.clone() }.with_blocks(prompt.len());
        let config = StreamConfig { top_k: config.top_k.max(config.always_kept()), ..config };
        let reference = self.reference(prompt, criterion, &config)?;
        let n_key_blocks = reference.tokens.len().div_ceil(config.block_size_k);
        let mut tried = Vec::new();
        let top_k = smallest(config.always_kept().max(1), n_key_blocks, |top_k| {
            let trial = self.trial(&reference, criterion, &StreamConfig { top_k, ..config.clone() })?;
            let passes = trial.passes;
            tried.push(trial);
            Ok(passes)
        })?;
        Ok(SmallestTopK { criterion: criterion.clone(), search: config.search, top_k, n_key_blocks, tried })
    }

    fn reference(
        &mut self,
        prompt: &str,
        criterion: &Criterion,
        config: &StreamConfig,
    ) -> Result<Reference, Error> {
        let (tokens, answer) = match criterion {
            Criterion::AnswerSurvives(answer) => self.with_answer(prompt, answer)?,
            _ => (self.model.tokenizer.encode(prompt)?.ids, Vec::new()),
        };
        let logits = self.dense_logits(&tokens, answer.len().max(1), config)?;
        let best: Vec<u32> = logits.iter().map(|logits| argmax(logits)).collect();
        if !answer.is_empty() && best != answer {
            let best: Vec<String> = best.iter().map(|&id| self.model.tokenizer.text(id)).collect();
            return Err(Error::setting(
                "answer",
                "what dense attention finds the most likely, token by token",
                format!("an answer where it prefers {:?}", best.concat()),
                "no budget can keep what is not there: ask for another answer",
            ));
        }
        Ok(Reference { tokens, logits, wanted: best })
    }

    fn trial(
        &mut self,
        reference: &Reference,
        criterion: &Criterion,
        config: &StreamConfig,
    ) -> Result<Tried, Error> {
        let Reference { tokens, logits: dense, wanted } = reference;
        let (decoder, _) = self.decoder(tokens, config)?;
        let mut kept_pairs = 0;
        let clock = self.clock("trace", tokens.len());
        let hidden = decoder.sparse(|layer, reached| {
            clock.during(layer, &reached).into_iter().for_each(&mut *self.progress);
            if let Some(record) = reached.end() {
                kept_pairs += record()?.0.mask.kept_pairs();
            }
            Ok(())
        })?;
        let logits = decoder.last_logits(&hidden, wanted.len())?;
        let kl = kl(&dense[0], &logits[0]);
        let passes = match criterion {
            Criterion::KlAtMost(nats) => kl <= *nats,
            _ => logits.iter().zip(wanted).all(|(logits, &id)| argmax(logits) == id),
        };
        let logprob = logits.iter().zip(wanted).map(|(logits, &id)| log_softmax(logits)[id as usize]).sum();
        Ok(Tried { top_k: config.top_k, pruned: self.pruned(kept_pairs, tokens.len()), passes, kl, logprob })
    }
}
