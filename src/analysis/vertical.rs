//! Vertical scores of chosen sentences in every head, as the run recorded them or from token-level rows.

use std::collections::HashSet;

use super::{AnchorConfig, HeadRanking, Sentence, Sink, sentence::spans};
use crate::{
    error::Error,
    trace::{MIN_DISTANCE, Trace},
};

/// Vertical scores of a head. `[n_sentences]`
pub(super) type Scores = Vec<Option<f64>>;

/// Reads the vertical scores of some sentences, head by head.
pub(super) struct Verticals<'a> {
    trace: &'a Trace,
    sentences: &'a [Sentence],
    config: &'a AnchorConfig,
    /// The recorded scores of the sentences, as columns; `None` if the rows are read.
    columns: Option<Vec<usize>>,
    /// Recorded sentences behind the chosen ones, whose attention counts in the recorded scores.
    pub n_behind: usize,
    /// Layers and sentences that hold a sink there.
    sinks: HashSet<(usize, usize)>,
}

impl<'a> Verticals<'a> {
    /// Chooses where the scores come from: the recorded ones if they are of these sentences and of the settings
    /// of the run; the rows if not, or if sentences behind the chosen ones would count and the rows are there.
    ///
    /// # Errors
    /// [`Error::Missing`] when rows are needed and were not recorded, [`Error::Trace`].
    pub fn new(
        trace: &'a Trace,
        sentences: &'a [Sentence],
        sinks: &[Sink],
        config: &'a AnchorConfig,
    ) -> Result<Self, Error> {
        let as_recorded = config.min_distance == MIN_DISTANCE && !config.control_depth;
        let recorded = if as_recorded { recorded_columns(trace, sentences)? } else { None };
        let has_rows = trace.check_recorded(sentences);
        let (columns, n_behind) = match recorded {
            Some((columns, n_behind)) if n_behind == 0 || has_rows.is_err() => (Some(columns), n_behind),
            _ => {
                has_rows?;
                (None, 0)
            }
        };
        let sinks = sinks
            .iter()
            .filter_map(|sink| {
                Some((sink.layer, sentences.iter().position(|s| s.span.range().contains(&sink.token))?))
            })
            .collect();
        Ok(Verticals { trace, sentences, config, columns, n_behind, sinks })
    }

    /// Returns the scores of a head; `None` where nothing comes late enough after a sentence, for kinds that are
    /// left out, and for sentences that hold a sink of the head's layer.
    pub fn of(&self, layer: usize, head: usize) -> Result<Scores, Error> {
        let mut scores = match &self.columns {
            Some(columns) => self.recorded(layer, head, columns)?,
            None => self.measured(layer, head)?,
        };
        for (j, (score, sentence)) in scores.iter_mut().zip(self.sentences).enumerate() {
            if self.config.leave_out.contains(&sentence.kind) || self.sinks.contains(&(layer, j)) {
                *score = None;
            }
        }
        Ok(scores)
    }

    /// Returns the mean of the heads' scores; `None` where a head's is missing, or without heads.
    pub fn mean(&self, heads: &HeadRanking) -> Result<Scores, Error> {
        let mut means = vec![if heads.heads.is_empty() { None } else { Some(0.0) }; self.sentences.len()];
        for head in &heads.heads {
            for (mean, score) in means.iter_mut().zip(self.of(head.layer, head.head)?) {
                *mean = mean.zip(score).map(|(mean, score)| mean + score / heads.heads.len() as f64);
            }
        }
        Ok(means)
    }

    fn recorded(&self, layer: usize, head: usize, columns: &[usize]) -> Result<Scores, Error> {
        let scores = self.trace.vertical(layer, head)?;
        let last = columns.len() + self.n_behind;
        let score = |(j, &column): (usize, &usize)| {
            let score = f64::from(scores[column]);
            (j + MIN_DISTANCE < last && !score.is_nan()).then_some(score)
        };
        Ok(columns.iter().enumerate().map(score).collect())
    }

    fn measured(&self, layer: usize, head: usize) -> Result<Scores, Error> {
        let attention = self.trace.sentence_attention(layer, head, &spans(self.sentences))?;
        let attention = if self.config.control_depth { attention.ranked() } else { attention };
        Ok(attention.vertical(self.config.min_distance))
    }
}

/// Returns the columns of the recorded scores of some sentences, and the number of recorded sentences behind
/// them; `None` if they are not neighbours among the recorded ones.
fn recorded_columns(trace: &Trace, sentences: &[Sentence]) -> Result<Option<(Vec<usize>, usize)>, Error> {
    let layer = trace.layers().first().copied().unwrap_or_default();
    let counts: Vec<bool> = trace.vertical(layer, 0)?.iter().map(|score| !score.is_nan()).collect();
    let stretches = trace.sentences()?;
    let counted: Vec<usize> = (0..stretches.len()).filter(|&column| counts[column]).collect();
    let first =
        counted.iter().position(|&column| sentences.first().is_some_and(|s| s.span == stretches[column]));
    let Some(chosen) = first.and_then(|first| counted.get(first..first + sentences.len())) else {
        return Ok(None);
    };
    let same = chosen.iter().zip(sentences).all(|(&column, sentence)| stretches[column] == sentence.span);
    let n_behind = counted.iter().filter(|&column| Some(column) > chosen.last()).count();
    Ok(same.then(|| (chosen.to_vec(), n_behind)))
}
