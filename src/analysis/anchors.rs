//! Thought anchors: the sentences that later ones keep coming back to (Bogdan et al. 2025).

use serde::{Deserialize, Serialize};

use super::{HeadRanking, RankedHead, Sentence, sentence::spans};
use crate::{
    error::Error,
    trace::{MIN_DISTANCE, SentenceKind, Trace},
};

/// How thought anchors are found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AnchorConfig {
    /// Attention counts only from sentences at least `min_distance` later.
    pub min_distance: usize,
    /// Number of heads whose scores are averaged: 20 or 32 in a large model.
    pub n_receiver_heads: usize,
    /// Replaces each row by its ranks first, so that sentences deep in the text are not at a disadvantage.
    pub control_depth: bool,
    /// Number of sentences that are called anchors: the highest peaks.
    pub n_anchors: usize,
    /// Kinds of sentences that are left out, also of the heads' kurtosis.
    pub leave_out: Vec<SentenceKind>,
    /// Sentences to take instead of the prompt's, in order.
    pub sentences: Option<Vec<Sentence>>,
    /// Heads to take instead of those of highest kurtosis in this prompt: from several prompts, or
    /// calibrated.
    pub heads: Option<HeadRanking>,
}

impl Default for AnchorConfig {
    fn default() -> Self {
        AnchorConfig {
            min_distance: MIN_DISTANCE,
            n_receiver_heads: 10,
            control_depth: false,
            n_anchors: 5,
            leave_out: Vec::new(),
            sentences: None,
            heads: None,
        }
    }
}

/// The sentences of a prompt, and how much later ones attend to each.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ThoughtAnchors {
    pub sentences: Vec<Sentence>,
    /// Receiver score of each sentence: mean vertical score over the receiver heads; `None` where nothing
    /// comes late enough after it, and for kinds that are left out. `[n_sentences]`
    pub scores: Vec<Option<f64>>,
    /// Sentences that are anchors, highest score first.
    pub anchors: Vec<usize>,
    /// Heads whose scores were averaged.
    pub receivers: HeadRanking,
    /// All heads by the excess kurtosis of their vertical scores in this prompt.
    pub kurtosis: HeadRanking,
    pub min_distance: usize,
    pub n_layers: usize,
    pub n_heads: usize,
    pub model: String,
}

impl ThoughtAnchors {
    /// Returns the anchors that are sentences, with their places: a file may hold any numbers.
    pub(crate) fn places(&self) -> impl Iterator<Item = (usize, usize)> {
        self.anchors.iter().copied().enumerate().filter(|&(_, j)| j < self.sentences.len())
    }

    /// Returns the score of a sentence, if it has one.
    pub(crate) fn score(&self, sentence: usize) -> Option<f64> {
        self.scores.get(sentence).copied().flatten()
    }
}

impl Trace {
    /// Returns the thought anchors of the prompt, by the heads of highest kurtosis.
    ///
    /// # Errors
    /// [`Error::Setting`] when there are too few sentences, [`Error::Trace`] for a file of version 1.
    pub fn thought_anchors(&self) -> Result<ThoughtAnchors, Error> {
        self.thought_anchors_with(&AnchorConfig::default())
    }

    /// Returns the same with other settings. The caller's own sentences, another distance and depth control
    /// need token-level rows of all the sentences: trace with `StreamConfig::focus` over them.
    ///
    /// # Errors
    /// As [`Trace::thought_anchors`]; [`Error::Missing`] when those rows were not recorded.
    pub fn thought_anchors_with(&self, config: &AnchorConfig) -> Result<ThoughtAnchors, Error> {
        let recorded = self.labelled_sentences()?;
        let sentences = config.sentences.clone().unwrap_or_else(|| recorded.clone());
        if sentences.len() <= config.min_distance {
            return Err(Error::setting(
                "thought anchors",
                format!(
                    "more than {} sentences, the distance from which attention counts",
                    config.min_distance
                ),
                format!("{}", sentences.len()),
                "take a longer text, or a smaller min_distance",
            ));
        }
        let from_file = spans(&sentences) == spans(&recorded)
            && config.min_distance == MIN_DISTANCE
            && !config.control_depth;
        if !from_file {
            self.check_recorded(&sentences)?;
        }
        let vertical = |head: &RankedHead| {
            let mut scores = match from_file {
                true => self.recorded_vertical(head.layer, head.head)?,
                false => self.measured_vertical(head.layer, head.head, &sentences, config)?,
            };
            let left_out =
                scores.iter_mut().zip(&sentences).filter(|(_, s)| config.leave_out.contains(&s.kind));
            left_out.for_each(|(score, _)| *score = None);
            Ok(scores)
        };
        let kurtosis = self.kurtosis_of_heads(vertical)?;
        let mut receivers = config.heads.clone().unwrap_or_else(|| kurtosis.clone());
        receivers.heads.retain(|head| head.layer < self.n_layers() && head.head < self.n_heads());
        receivers.heads.truncate(config.n_receiver_heads);
        let scores = mean_scores(&receivers, sentences.len(), vertical)?;
        let mut anchors: Vec<usize> = peaks(&scores);
        anchors.sort_by(|&a, &b| scores[b].unwrap_or(f64::MIN).total_cmp(&scores[a].unwrap_or(f64::MIN)));
        anchors.truncate(config.n_anchors);
        Ok(ThoughtAnchors {
            sentences,
            scores,
            anchors,
            receivers,
            kurtosis,
            min_distance: config.min_distance,
            n_layers: self.n_layers(),
            n_heads: self.n_heads(),
            model: self.summary().model.name.clone(),
        })
    }

    /// Ranks all heads by the kurtosis of their vertical scores, read one after the other.
    fn kurtosis_of_heads(&self, vertical: impl Fn(&RankedHead) -> Scores) -> Result<HeadRanking, Error> {
        let heads = (0..self.n_layers()).flat_map(|layer| (0..self.n_heads()).map(move |head| (layer, head)));
        let of_head = |(layer, head)| {
            let scores = vertical(&RankedHead { layer, head, score: 0.0 })?;
            Ok(kurtosis(&scores.into_iter().flatten().collect::<Vec<f64>>()))
        };
        Ok(HeadRanking::new(
            "kurtosis",
            self.n_heads(),
            &heads.map(of_head).collect::<Result<Vec<_>, Error>>()?,
        ))
    }

    /// Returns the vertical scores as the run recorded them.
    fn recorded_vertical(&self, layer: usize, head: usize) -> Result<Vec<Option<f64>>, Error> {
        let scores = self.vertical(layer, head)?;
        let n = scores.len();
        Ok(scores
            .into_iter()
            .enumerate()
            .map(|(j, score)| (j + MIN_DISTANCE < n).then_some(f64::from(score)))
            .collect())
    }

    /// Computes the vertical scores from token-level rows.
    fn measured_vertical(
        &self,
        layer: usize,
        head: usize,
        sentences: &[Sentence],
        config: &AnchorConfig,
    ) -> Result<Vec<Option<f64>>, Error> {
        let attention = self.sentence_attention(layer, head, &spans(sentences))?;
        let attention = if config.control_depth { attention.ranked() } else { attention };
        Ok(attention.vertical(config.min_distance))
    }
}

/// Vertical scores of a head. `[n_sentences]`
type Scores = Result<Vec<Option<f64>>, Error>;

/// Returns the mean of the heads' vertical scores; `None` where a head's is missing, or without heads.
/// `[n_sentences]`
fn mean_scores(heads: &HeadRanking, n: usize, vertical: impl Fn(&RankedHead) -> Scores) -> Scores {
    let mut means = vec![if heads.heads.is_empty() { None } else { Some(0.0) }; n];
    for head in &heads.heads {
        for (mean, score) in means.iter_mut().zip(vertical(head)?) {
            *mean = mean.zip(score).map(|(mean, score)| mean + score / heads.heads.len() as f64);
        }
    }
    Ok(means)
}

/// Returns the sentences whose score is above those of the neighbours that have one.
fn peaks(scores: &[Option<f64>]) -> Vec<usize> {
    let known: Vec<(usize, f64)> =
        scores.iter().enumerate().filter_map(|(j, score)| Some((j, (*score)?))).collect();
    let above = |at: usize, other: Option<usize>| {
        other.and_then(|o| known.get(o)).is_none_or(|other| known[at].1 > other.1)
    };
    let is_peak = |&at: &usize| above(at, at.checked_sub(1)) && above(at, Some(at + 1));
    (0..known.len()).filter(is_peak).map(|at| known[at].0).collect()
}

/// Returns the excess kurtosis, Fisher's, biased; 0 for numbers that are all the same.
pub(super) fn kurtosis(values: &[f64]) -> f64 {
    let n = values.len().max(1) as f64;
    let mean = values.iter().sum::<f64>() / n;
    let moment = |power: i32| values.iter().map(|v| (v - mean).powi(power)).sum::<f64>() / n;
    let variance = moment(2);
    if variance <= f64::EPSILON * mean * mean { 0.0 } else { moment(4) / (variance * variance) - 3.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kurtosis_is_fishers() {
        // scipy.stats.kurtosis([1, 2, 3, 4, 10]) and of eight zeros and a one.
        assert!(
            (kurtosis(&[1.0, 2.0, 3.0, 4.0, 10.0]) + 0.212).abs() < 1e-12,
            "{}",
            kurtosis(&[1.0, 2.0, 3.0, 4.0, 10.0])
        );
        assert!((kurtosis(&[0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0]) - 4.125).abs() < 1e-9);
        assert_eq!((kurtosis(&[2.0; 9]), kurtosis(&[])), (0.0, 0.0));
    }

    #[test]
    fn peaks_stand_above_their_neighbours() {
        let scores = [Some(3.0), Some(1.0), None, Some(2.0), Some(2.0), Some(5.0), None];
        assert_eq!(peaks(&scores), [0, 5]);
        assert_eq!(peaks(&[Some(1.0)]), [0]);
        assert!(peaks(&[None, None]).is_empty());
    }
}
