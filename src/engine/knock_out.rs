//! Runs on the masks of a trace without some attention, and measures what that changes.

use std::ops::Range;

use super::{
    compare::kl,
    decoder::{Decoder, branches::Branch},
    device::Device,
    probabilities::{argmax, log_softmax},
    run::Run,
};
use crate::{
    error::Error,
    protocol::{Effect, Intervention, MemoryPlan, TokenEffect},
    trace::{Span, Trace},
};

/// Rows whose logits are compared together.
const ROWS: usize = 64;

impl<D: Device> Run<'_, D> {
    /// Returns what each intervention changes about the next token and the tokens of a span.
    pub fn knock_out(
        &mut self,
        trace: &Trace,
        interventions: &[Intervention],
        answer: Option<Span>,
    ) -> Result<Vec<Effect>, Error> {
        let summary = trace.summary();
        let tokens = self.tokens_of(trace)?;
        interventions.iter().try_for_each(|intervention| intervention.check(trace))?;
        answer.map_or(Ok(()), |answer| check_span(answer, tokens.len()))?;
        let span = answer.unwrap_or_default();
        let (decoder, plan) = self.planned(&tokens, summary.config.clone(), Span::default())?;
        let mut effects = Vec::new();
        for group in groups(interventions, &decoder) {
            let rows: usize = group.iter().map(|i| tokens.len() - decoder.start(i)).sum();
            with_branches(plan.clone(), rows * self.model.config.hidden_size * size_of::<f32>()).check()?;
            let clock = self.clock("knock out", tokens.len() + rows);
            let branches = decoder.branches(
                group,
                |layer| trace.mask(layer),
                |layer| (self.progress)(clock.at(layer)),
            )?;
            effects.extend(self.effects(&decoder, group, &branches, span)?);
        }
        Ok(effects)
    }

    /// Compares each branch with the base, the first of them.
    fn effects(
        &self,
        decoder: &Decoder<D>,
        group: &[Intervention],
        branches: &[Branch<D::Residual>],
        span: Span,
    ) -> Result<Vec<Effect>, Error> {
        let (base, branches) = branches.split_first().expect("the base is always there");
        let mut tokens = vec![Vec::with_capacity(span.len()); branches.len()];
        // A token is predicted by the row before it.
        for first in span.range().step_by(ROWS) {
            let end = span.end.min(first + ROWS);
            let before = decoder.branch_logits(base, first - 1..end - 1)?;
            for (branch, tokens) in branches.iter().zip(&mut tokens) {
                let after = self.rows_of(decoder, branch, &before, first - 1..end - 1)?;
                let ids = &decoder.tokens[first..end];
                tokens.extend(
                    ids.iter()
                        .zip(&before)
                        .zip(&after)
                        .map(|((&id, before), after)| self.effect(id, before, after)),
                );
            }
        }
        let last = decoder.tokens.len() - 1..decoder.tokens.len();
        let before = decoder.branch_logits(base, last.clone())?;
        let branch_effect =
            |((branch, tokens), intervention): ((&Branch<D::Residual>, Vec<TokenEffect>), &Intervention)| {
                let after = self.rows_of(decoder, branch, &before, last.clone())?;
                let next = self.effect(argmax(&before[0]), &before[0], &after[0]);
                Ok(Effect {
                    name: intervention.name.clone(),
                    next,
                    next_token: self.next_token(&after[0]),
                    tokens,
                })
            };
        branches.iter().zip(tokens).zip(group).map(branch_effect).collect()
    }

    /// Returns the logits of a branch; the base's for the rows before its position.
    fn rows_of(
        &self,
        decoder: &Decoder<D>,
        branch: &Branch<D::Residual>,
        base: &[Vec<f32>],
        rows: Range<usize>,
    ) -> Result<Vec<Vec<f32>>, Error> {
        let own = rows.start.max(branch.position).min(rows.end)..rows.end;
        let mut logits = base[..own.start - rows.start].to_vec();
        logits.extend(decoder.branch_logits(branch, own)?);
        Ok(logits)
    }

    fn effect(&self, id: u32, before: &[f32], after: &[f32]) -> TokenEffect {
        TokenEffect {
            id,
            text: self.model.tokenizer.text(id),
            before: log_softmax(before)[id as usize],
            after: log_softmax(after)[id as usize],
            was_argmax: argmax(before) == id,
            is_argmax: argmax(after) == id,
            kl: kl(before, after),
        }
    }
}

/// Groups the interventions that run together: their rows are no more than the prompt's, or a group is one
/// alone.
fn groups<'i, D: Device>(interventions: &'i [Intervention], decoder: &Decoder<D>) -> Vec<&'i [Intervention]> {
    let mut groups = Vec::new();
    let mut start = 0;
    let mut rows = 0;
    for (i, intervention) in interventions.iter().enumerate() {
        let n = decoder.tokens.len() - decoder.start(intervention);
        if i > start && rows + n > decoder.tokens.len() {
            groups.push(&interventions[start..i]);
            (start, rows) = (i, 0);
        }
        rows += n;
    }
    groups.extend(Some(&interventions[start..]).filter(|group| !group.is_empty()));
    groups
}

/// Returns the plan of a run with the hidden states of its branches.
fn with_branches(mut plan: MemoryPlan, bytes: usize) -> MemoryPlan {
    plan.parts.push(("hidden states of the runs beside it".into(), bytes as u64));
    plan
}

/// Checks that a span's tokens have one before them, and lie in the prompt.
fn check_span(span: Span, n_tokens: usize) -> Result<(), Error> {
    if !span.is_empty() && span.start > 0 && span.end <= n_tokens {
        return Ok(());
    }
    Err(Error::missing(
        "span of predicted tokens",
        format!("{}..{}", span.start, span.end),
        format!(
            "the first token is predicted by none, the prompt has tokens 0..{n_tokens}, and a span at least one of them"
        ),
    ))
}
