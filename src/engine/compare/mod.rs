//! Compares a trace with dense attention.

mod positions;

use super::{
    decoder::{Decoder, Reached},
    device::Device,
    probabilities::log_softmax,
    run::Run,
    search::sample::spread,
};
use crate::{
    error::Error,
    trace::{AnswerFidelity, CompareConfig, Fidelity, NextToken, RowsOf, Trace},
};

/// Share of the dense mass on kept keys. `[n_layers][n_heads]`
type Recall = Vec<Vec<f64>>;

impl<D: Device> Run<'_, D> {
    pub fn compare(&mut self, trace: &Trace, what: &CompareConfig) -> Result<Fidelity, Error> {
        what.validate()?;
        let summary = trace.summary();
        let tokens = self.tokens_of(trace)?;
        // The trace's budget stays as it is: for a short prompt it is smaller than a new run may ask for.
        let (decoder, _) = self.planned(&tokens, summary.config.clone(), summary.focus)?;
        let mut fidelity = match what.rows {
            Some(rows) => self.on_rows(trace, &decoder, rows)?,
            None => self.on_all_rows(trace, &decoder, &positions(what, tokens.len())?)?,
        };
        let answer = |answer: &String| self.answer(trace, answer);
        fidelity.answer = what.answer.as_ref().map(answer).transpose()?;
        Ok(fidelity)
    }

    fn on_all_rows(
        &mut self,
        trace: &Trace,
        decoder: &Decoder<'_, D>,
        positions: &[usize],
    ) -> Result<Fidelity, Error> {
        let mut recall = Recall::new();
        let n_rows = decoder.tokens.len();
        let clock = self.clock("dense", n_rows);
        let on_layer = |layer, reached: Reached<Vec<f64>>| {
            clock.during(layer, &reached).into_iter().for_each(&mut *self.progress);
            reached.end().into_iter().for_each(|kept_mass| recall.push(shares(&kept_mass, n_rows)));
        };
        let hidden = decoder.dense(|layer| trace.mask(layer).map(Some), on_layer)?;
        let logits = decoder.last_logits(&hidden, 1)?;
        let dense = decoder.states(&hidden, 0, positions)?;
        drop(hidden);
        let fidelity = self.fidelity(trace, recall, n_rows, Some(&logits[0]))?;
        Ok(Fidelity { positions: self.at_positions(trace, decoder, positions, &dense)?, ..fidelity })
    }

    fn on_rows(&mut self, trace: &Trace, decoder: &Decoder<'_, D>, rows: usize) -> Result<Fidelity, Error> {
        let blocks = trace.summary().blocks(0);
        let sample = spread(blocks.n_query_blocks(), rows.div_ceil(blocks.block_size_q));
        let n_rows = sample.iter().map(|&block| blocks.queries(block).len()).sum();
        let mut recall = Recall::new();
        let clock = self.clock("sample", decoder.tokens.len());
        let on_layer = |layer, reached: Reached<Vec<f64>>| {
            clock.during(layer, &reached).into_iter().for_each(&mut *self.progress);
            reached.end().into_iter().for_each(|kept_mass| recall.push(shares(&kept_mass, n_rows)));
        };
        decoder.sampled(&sample, |layer| trace.mask(layer), on_layer)?;
        self.fidelity(trace, recall, n_rows, None)
    }

    fn fidelity(
        &self,
        trace: &Trace,
        recall: Recall,
        n_rows: usize,
        dense: Option<&Vec<f32>>,
    ) -> Result<Fidelity, Error> {
        let dense_next_token: Option<NextToken> = dense.map(|logits| self.next_token(logits));
        Ok(Fidelity {
            recall: recall.iter().flatten().sum::<f64>() / recall.iter().map(Vec::len).sum::<usize>() as f64,
            recall_by_head: recall,
            n_rows,
            rows_of: if dense.is_some() { RowsOf::Dense } else { RowsOf::Sparse },
            same_next_token: dense_next_token.as_ref().map(|token| token.id == trace.summary().next_token.id),
            kl: dense.map(|dense| Ok::<_, Error>(kl(dense, &trace.logits()?))).transpose()?,
            dense_next_token,
            positions: None,
            answer: None,
        })
    }

    fn answer(&mut self, trace: &Trace, answer: &str) -> Result<AnswerFidelity, Error> {
        let mut score = |dense| self.score(trace.text(), answer, &trace.summary().config, dense);
        let sparse = score(false)?;
        let dense = score(true)?;
        Ok(AnswerFidelity {
            text: answer.into(),
            dense_logprob: dense.logprob(),
            sparse_logprob: sparse.logprob(),
            dense_survives: dense.survives(),
            sparse_survives: sparse.survives(),
        })
    }
}

/// Returns the positions of a prompt after which the next token is compared, ascending.
fn positions(what: &CompareConfig, n_tokens: usize) -> Result<Vec<usize>, Error> {
    let over = what.over.clone().unwrap_or(0..n_tokens);
    if over.start >= over.end || over.end > n_tokens {
        return Err(Error::setting(
            "over",
            format!("a span of the prompt's {n_tokens} tokens"),
            format!("{over:?}"),
            "choose tokens of the prompt, or leave it out for all",
        ));
    }
    Ok(spread(over.len(), what.n_positions()).into_iter().map(|at| over.start + at).collect())
}

/// Divides each sum by `n_rows`.
fn shares(sums: &[f64], n_rows: usize) -> Vec<f64> {
    sums.iter().map(|sum| sum / n_rows as f64).collect()
}

/// Returns KL(dense ‖ sparse) in nats.
pub(super) fn kl(dense: &[f32], sparse: &[f32]) -> f64 {
    let p = log_softmax(dense);
    let q = log_softmax(sparse);
    p.iter().zip(&q).map(|(p, q)| p.exp() * (p - q)).sum::<f64>().max(0.0)
}
