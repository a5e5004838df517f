//! What a trace says, as rows: of the prompt, of each head, of each head and named span, of each anchor.

use serde::{Deserialize, Serialize};

use super::Prompt;
use crate::{
    analysis::{RetrievalHeads, ThoughtAnchors},
    error::Error,
    trace::{AnswerScore, Span, Trace},
};

/// A prompt: a row of the table `prompts`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PromptRow {
    pub id: String,
    pub model: Option<String>,
    /// Tokens that were traced: of the prompt, and of the answer but for its last.
    pub n_tokens: Option<usize>,
    /// Share of the query-key pairs that was not computed.
    pub pruned: Option<f64>,
    /// Mean recall over layers and heads.
    pub recall: Option<f64>,
    /// The most likely token after the prompt, and its logarithmic probability in nats.
    pub next_token: Option<String>,
    pub next_logprob: Option<f64>,
    /// Of the answer, in nats, and whether each of its tokens was the most likely one.
    pub answer_logprob: Option<f64>,
    pub answer_survives: Option<bool>,
    /// Seconds of the runs.
    pub seconds: Option<f64>,
    /// Why there is nothing else.
    pub error: Option<String>,
}

/// A head on a prompt: a row of the table `heads`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HeadRow {
    pub layer: usize,
    pub head: usize,
    pub recall: Option<f64>,
    /// Key blocks in a row of the head.
    pub blocks: usize,
    /// Excess kurtosis of the vertical scores of the prompt's sentences, where there are enough.
    pub kurtosis: Option<f64>,
}

/// A head and a named span: a row of the table `spans`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SpanRow {
    pub span: String,
    pub layer: usize,
    pub head: usize,
    /// Share of the attention on the span: mean over the queries that produce the answer, or without one of the prompt's
    /// last token.
    pub mass: f64,
    /// Retrieval score (Wu et al. 2024): share of the span's tokens that the head copies into the answer.
    pub copied: Option<f64>,
}

/// A thought anchor: a row of the table `anchors`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AnchorRow {
    /// 1 for the highest receiver score.
    pub rank: usize,
    pub score: f64,
    pub kind: String,
    pub first_token: usize,
    pub end_token: usize,
    pub text: String,
}

/// All rows of a prompt.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rows {
    pub prompt: PromptRow,
    pub heads: Vec<HeadRow>,
    pub spans: Vec<SpanRow>,
    pub anchors: Vec<AnchorRow>,
}

impl Rows {
    /// Returns the row of a prompt that has no trace.
    pub fn failed(id: impl Into<String>, error: &Error) -> Self {
        let prompt = PromptRow { id: id.into(), error: Some(error.to_string()), ..PromptRow::default() };
        Rows { prompt, ..Rows::default() }
    }

    /// Returns the rows of a trace of `prompt`; `answer` is its score and its tokens in the trace.
    ///
    /// # Errors
    /// [`Error::Missing`] for a span whose text is not in the prompt, [`Error::Trace`] for a damaged trace.
    pub fn of(prompt: &Prompt, trace: &Trace, answer: Option<(&AnswerScore, Span)>) -> Result<Self, Error> {
        let (score, span) = answer.unzip();
        let anchors = trace.thought_anchors().ok();
        Ok(Rows {
            prompt: PromptRow::of(prompt, trace, score),
            heads: head_rows(trace, anchors.as_ref())?,
            spans: span_rows(prompt, trace, span)?,
            anchors: anchors.as_ref().map_or_else(Vec::new, anchor_rows),
        })
    }
}

impl PromptRow {
    fn of(prompt: &Prompt, trace: &Trace, score: Option<&AnswerScore>) -> Self {
        let summary = trace.summary();
        let first = score.and_then(|score| score.tokens.first());
        let next = &summary.next_token;
        PromptRow {
            id: prompt.id.clone(),
            model: Some(summary.model.name.clone()),
            n_tokens: Some(summary.n_tokens),
            pruned: Some(summary.pruned),
            recall: summary.recall.as_ref().map(|recall| recall.mean),
            next_token: match first {
                Some(first) if !first.is_argmax => None,
                first => Some(first.map_or(&next.text, |first| &first.text).clone()),
            },
            next_logprob: match first {
                Some(first) => first.is_argmax.then_some(first.logprob),
                None => Some(next.logprob),
            },
            answer_logprob: score.map(AnswerScore::logprob),
            answer_survives: score.map(AnswerScore::survives),
            seconds: Some(summary.seconds.total + score.map_or(0.0, |score| score.seconds.total)),
            error: None,
        }
    }
}

fn head_rows(trace: &Trace, anchors: Option<&ThoughtAnchors>) -> Result<Vec<HeadRow>, Error> {
    let kurtosis = |layer, head| anchors?.kurtosis.score(layer, head).filter(|kurtosis| kurtosis.is_finite());
    let mut rows = Vec::new();
    for layer in 0..trace.n_layers() {
        let (budgets, recall) = (trace.budgets(layer)?, trace.recall(layer)?);
        rows.extend((0..trace.n_heads()).map(|head| HeadRow {
            layer,
            head,
            recall: recall.as_ref().map(|recall| f64::from(recall[head])),
            blocks: budgets.top_k(head),
            kurtosis: kurtosis(layer, head),
        }));
    }
    Ok(rows)
}

fn anchor_rows(anchors: &ThoughtAnchors) -> Vec<AnchorRow> {
    let row = |(place, i): (usize, usize)| {
        let sentence = &anchors.sentences[i];
        AnchorRow {
            rank: place + 1,
            score: anchors.score(i).unwrap_or_default(),
            kind: sentence.kind.name().into(),
            first_token: sentence.span.start,
            end_token: sentence.span.end,
            text: sentence.text.clone(),
        }
    };
    anchors.places().map(row).collect()
}

fn span_rows(prompt: &Prompt, trace: &Trace, answer: Option<Span>) -> Result<Vec<SpanRow>, Error> {
    let last = Span::from(trace.n_tokens() - 1..trace.n_tokens());
    let queries = answer.map_or(last, |answer| answer.predictors());
    let named = prompt.spans.iter().map(|(name, text)| Ok((name, trace.find(text)?)));
    let named = named.collect::<Result<Vec<(&String, Span)>, Error>>()?;
    let copied = |span: Span| answer.map(|answer| trace.retrieval_heads(span, answer)).transpose();
    let copied = named.iter().map(|(_, span)| copied(*span)).collect::<Result<Vec<_>, Error>>()?;
    let mut rows = Vec::new();
    for (layer, head) in
        (0..trace.n_layers()).flat_map(|layer| (0..trace.n_heads()).map(move |head| (layer, head)))
    {
        let mut masses = vec![0.0; named.len()];
        for query in queries.range() {
            let row = trace.attention_row(layer, head, query)?;
            for (mass, (_, span)) in masses.iter_mut().zip(&named) {
                let on_span = row.iter().filter(|(key, _)| span.range().contains(key));
                *mass += on_span.map(|(_, share)| f64::from(*share)).sum::<f64>() / queries.len() as f64;
            }
        }
        rows.extend(named.iter().zip(masses).zip(&copied).map(|(((name, _), mass), copied)| SpanRow {
            span: (*name).clone(),
            layer,
            head,
            mass,
            copied: copied.as_ref().map(|heads: &RetrievalHeads| heads.scores[layer][head]),
        }));
    }
    Ok(rows)
}
