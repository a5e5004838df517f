//! Thought anchors: the sentences that later ones keep coming back to (Bogdan et al. 2025).

use serde::{Deserialize, Serialize};

use super::{HeadRanking, Sentence, Sink, vertical::Verticals};
use crate::{
    error::Error,
    trace::{MIN_DISTANCE, SentenceKind, Span, Trace},
    words::{letters::shortened, numbers::count},
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
    /// Tokens whose sentences are looked at instead of the chain of thought, see [`Trace::chain`].
    pub over: Option<Span>,
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
            over: None,
            sentences: None,
            heads: None,
        }
    }
}

/// The sentences of a chain of thought, and how much later ones attend to each.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ThoughtAnchors {
    pub sentences: Vec<Sentence>,
    /// Receiver score of each sentence: mean vertical score over the receiver heads; `None` where nothing
    /// comes late enough after it, for kinds that are left out, and where a sentence holds a sink of a
    /// receiver head's layer. `[n_sentences]`
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
    /// Sinks among the sentences' tokens, see [`Trace::sinks`].
    #[serde(default)]
    pub sinks: Vec<Sink>,
    /// What a reader should know: no chain of thought was found, what was left out, what else counts.
    #[serde(default)]
    pub notes: Vec<String>,
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
    /// Returns the thought anchors of the prompt's chain of thought, by the heads of highest kurtosis.
    ///
    /// The chain is the model's last turn, or what it thinks there ([`Trace::chain`]); in a prompt without
    /// turns it is the whole prompt. A sentence that holds a sink ([`Trace::sinks`]) has no vertical score in
    /// the heads of the sink's layer, and no part in their kurtosis.
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
    /// As [`Trace::thought_anchors`]; [`Error::Missing`] when those rows were not recorded, or for tokens
    /// outside the prompt.
    pub fn thought_anchors_with(&self, config: &AnchorConfig) -> Result<ThoughtAnchors, Error> {
        let (sentences, note) = self.looked_at(config)?;
        let sinks = self.sinks(sentences[0].span.start..sentences[sentences.len() - 1].span.end)?;
        let verticals = Verticals::new(self, &sentences, &sinks, config)?;
        let kurtosis = self.kurtosis_of_heads(&verticals)?;
        let mut receivers = config.heads.clone().unwrap_or_else(|| kurtosis.clone());
        receivers.heads.retain(|head| head.layer < self.n_layers() && head.head < self.n_heads());
        receivers.heads.truncate(config.n_receiver_heads);
        let scores = verticals.mean(&receivers)?;
        let mut anchors: Vec<usize> = peaks(&scores);
        anchors.sort_by(|&a, &b| scores[b].unwrap_or(f64::MIN).total_cmp(&scores[a].unwrap_or(f64::MIN)));
        anchors.truncate(config.n_anchors);
        let behind = (verticals.n_behind > 0).then(|| {
            let behind = count(verticals.n_behind, "sentence");
            format!("attention from {behind} behind them counts, too; a trace whose focus covers them leaves it out")
        });
        let with_sinks = note_of_sinks(&sentences, &sinks, &receivers);
        let too_long = self.summary().length_note();
        Ok(ThoughtAnchors {
            scores,
            anchors,
            receivers,
            kurtosis,
            min_distance: config.min_distance,
            n_layers: self.n_layers(),
            n_heads: self.n_heads(),
            model: self.summary().model.name.clone(),
            sinks,
            notes: [note, behind, with_sinks, too_long].into_iter().flatten().collect(),
            sentences,
        })
    }

    /// Returns the sentences that are looked at, and a note where the prompt does not look like a chain.
    fn looked_at(&self, config: &AnchorConfig) -> Result<(Vec<Sentence>, Option<String>), Error> {
        let over = match (config.over, &config.sentences) {
            (Some(over), _) => Some(self.checked("stretch", over)?),
            (None, Some(_)) => None,
            (None, None) => self.chain()?,
        };
        let mut sentences = config.sentences.clone().map_or_else(|| self.labelled_sentences(), Ok)?;
        sentences.retain(|s| over.is_none_or(|over| s.span.start < over.end && s.span.end > over.start));
        if sentences.len() <= config.min_distance {
            return Err(Error::setting(
                "thought anchors",
                format!(
                    "more than {} sentences, the distance from which attention counts",
                    config.min_distance
                ),
                format!(
                    "{}{}",
                    sentences.len(),
                    if over.is_some() { " in the stretch that is looked at" } else { "" }
                ),
                "take a longer text or stretch, or a smaller min_distance",
            ));
        }
        let filler = sentences.iter().filter(|sentence| sentence.kind == SentenceKind::Filler).count();
        let is_guess = config.sentences.is_none() && over.is_none() && 2 * filler > sentences.len();
        let note = "no turn of the model and no <think> found: these are the sentences of the whole prompt, which do \
                    not read like a chain of thought";
        Ok((sentences, is_guess.then(|| note.into())))
    }

    /// Ranks all heads by the kurtosis of their vertical scores, read one after the other.
    fn kurtosis_of_heads(&self, verticals: &Verticals) -> Result<HeadRanking, Error> {
        let heads = (0..self.n_layers()).flat_map(|layer| (0..self.n_heads()).map(move |head| (layer, head)));
        let of_head = |(layer, head)| {
            let scores = verticals.of(layer, head)?;
            Ok(kurtosis(&scores.into_iter().flatten().collect::<Vec<f64>>()))
        };
        Ok(HeadRanking::new(
            "kurtosis",
            self.n_heads(),
            &heads.map(of_head).collect::<Result<Vec<_>, Error>>()?,
        ))
    }
}

/// Says which sentences have no score because they hold a sink of a receiver head's layer.
fn note_of_sinks(sentences: &[Sentence], sinks: &[Sink], receivers: &HeadRanking) -> Option<String> {
    let of_receiver = |sink: &&Sink| receivers.heads.iter().any(|head| head.layer == sink.layer);
    let mut tokens: Vec<usize> = sinks.iter().filter(of_receiver).map(|sink| sink.token).collect();
    tokens.sort_unstable();
    let holds = |sentence: &Sentence| tokens.iter().any(|token| sentence.span.range().contains(token));
    let held = sentences.iter().enumerate().filter(|(_, sentence)| holds(sentence));
    let named: Vec<String> = held.map(|(j, s)| format!("{j} “{}”", shortened(&s.text, 30))).collect();
    (!named.is_empty()).then(|| {
        format!(
            "no score for what holds a sink, a token that most heads look at from everywhere: {}",
            named.join(", ")
        )
    })
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
