//! One number for each pair of a sentence and an earlier one.

use serde::{Deserialize, Serialize};

use super::{CausalTest, HeadRanking, Sentence, Unit, auc::auc, sentence::spans};
use crate::{
    error::Error,
    protocol::{Effect, Intervention},
    trace::{SentenceKind, Span, Trace},
    words::numbers::head_name,
};

/// How the changes of a later sentence's tokens become one number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SuppressionMeasure {
    /// Mean over the sentence's tokens of ln KL(base ‖ without), minus the mean of its row (Bogdan et al. 2025).
    Published,
    /// ln of the mean KL of the three tokens that change most: what a sentence needs changes a few of its tokens, such as the
    /// digits of a number, and one that needs nothing has a row of small numbers.
    Peak,
}

/// What sentences get from earlier ones: attention, or what changes without them. Rows are the later sentences.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SentenceMatrix {
    /// What the numbers are.
    pub measure: String,
    #[serde(default)]
    pub unit: Unit,
    pub sentences: Vec<Sentence>,
    /// For each sentence the numbers of all before it. `[n_sentences][..i]`
    pub rows: Vec<Vec<f64>>,
    pub model: String,
    /// Pairs `(later, earlier)` that are known to belong together, framed in the figure.
    #[serde(default)]
    pub known: Vec<(usize, usize)>,
    /// How well the numbers tell them from other pairs: area under the ROC curve.
    #[serde(default)]
    pub known_auc: Option<f64>,
    /// That the prompt is longer than the model was made for, or than its windows, if it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

impl Trace {
    /// How strongly each sentence looks at the ones before it: the largest attention of one of its tokens on the whole of an
    /// earlier sentence but for sinks ([`Trace::sinks`]), mean over the best heads of a ranking.
    ///
    /// Not the mean over tokens, because a sentence that needs another reads it at a single token, such as a number.
    ///
    /// # Errors
    /// [`Error::Missing`] when a sentence's rows were not recorded, or for a head that the model does not have.
    pub fn sentence_links(
        &self,
        sentences: &[Sentence],
        heads: &HeadRanking,
        n_heads: usize,
    ) -> Result<SentenceMatrix, Error> {
        self.check_recorded(sentences)?;
        let mut rows: Vec<Vec<f64>> = (0..sentences.len()).map(|i| vec![0.0; i]).collect();
        let best = heads.best(n_heads);
        let sinks = match (sentences.first(), sentences.last()) {
            (Some(first), Some(last)) => self.sinks(first.span.start..last.span.end)?,
            _ => Vec::new(),
        };
        for &(layer, head) in &best {
            let sinks: Vec<usize> =
                sinks.iter().filter(|sink| sink.layer == layer).map(|sink| sink.token).collect();
            let attention = self.sentence_attention_without(layer, head, &spans(sentences), &sinks)?;
            for (i, row) in rows.iter_mut().enumerate() {
                for (j, to) in row.iter_mut().enumerate() {
                    *to += f64::from(attention.peak(i, j).unwrap_or_default()) / best.len() as f64;
                }
            }
        }
        let names: Vec<String> = best.iter().map(|(layer, head)| head_name(*layer, *head)).collect();
        let without = if sinks.is_empty() { "" } else { ", without sinks" };
        let measure = format!("peak attention of heads {}, by {}{without}", names.join(", "), heads.how);
        let matrix = SentenceMatrix::new(measure, sentences, rows, &self.summary().model.name);
        Ok(SentenceMatrix { note: self.summary().length_note(), ..matrix })
    }

    /// Whether the rows of all sentences were recorded key by key.
    pub(super) fn check_recorded(&self, sentences: &[Sentence]) -> Result<(), Error> {
        let focus = self.summary().focus;
        match sentences.iter().find(|s| s.span.start < focus.start || s.span.end > focus.end) {
            None => Ok(()),
            Some(sentence) => Err(Error::missing(
                "rows of sentence",
                format!("{:?} at tokens {}", sentence.text, sentence.span),
                format!(
                    "rows were recorded for tokens {focus}; trace again with StreamConfig::focus over the sentences"
                ),
            )),
        }
    }
}

impl SuppressionMeasure {
    /// One number from the divergences of a sentence's tokens.
    fn of(self, mut divergences: Vec<f64>) -> f64 {
        divergences.sort_by(|a, b| b.total_cmp(a));
        let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len().max(1) as f64;
        match self {
            SuppressionMeasure::Published => {
                mean(&divergences.iter().map(|kl| kl.ln()).collect::<Vec<f64>>())
            }
            SuppressionMeasure::Peak => {
                mean(&divergences[..divergences.len().min(3)]).max(SentenceMatrix::LEAST).ln()
            }
        }
    }

    fn name(self) -> &'static str {
        match self {
            SuppressionMeasure::Published => "mean log KL without the sentence, minus the row's mean",
            SuppressionMeasure::Peak => "log KL without the sentence, of the three tokens that change most",
        }
    }

    /// A number less its row's mean is no divergence's logarithm.
    fn unit(self) -> Unit {
        match self {
            SuppressionMeasure::Published => Unit::Plain,
            SuppressionMeasure::Peak => Unit::LogKl,
        }
    }
}

impl SentenceMatrix {
    /// Smallest divergence that is told from none, in nats.
    const LEAST: f64 = 1e-6;

    /// The interventions that give a matrix of effects: each hides one sentence from everything after it.
    pub fn suppressions(sentences: &[Sentence]) -> Vec<Intervention> {
        let of = |(i, sentence): (usize, &Sentence)| {
            Intervention::without_span(&format!("without sentence {i}"), sentence.span)
        };
        sentences.iter().enumerate().map(of).collect()
    }

    /// The tokens whose predictions those interventions are to be asked about.
    pub fn asked(sentences: &[Sentence]) -> Option<Span> {
        let first = sentences.first()?.span.start.max(1);
        let end = sentences.last()?.span.end;
        (first < end).then_some(Span { start: first, end })
    }

    /// What each sentence changes about the later ones, from the `effects` of [`SentenceMatrix::suppressions`] on the tokens that
    /// [`SentenceMatrix::asked`] names.
    pub fn of_effects(
        sentences: &[Sentence],
        effects: &[Effect],
        measure: SuppressionMeasure,
        model: &str,
    ) -> Self {
        let first = Self::asked(sentences).map_or(0, |asked| asked.start);
        let divergences = |i: usize, j: usize| -> Vec<f64> {
            let tokens = sentences[i]
                .span
                .range()
                .filter_map(|token| effects.get(j)?.tokens.get(token.checked_sub(first)?));
            tokens.map(|token| token.kl.max(Self::LEAST)).collect()
        };
        let row = |i: usize| {
            let row: Vec<f64> = (0..i).map(|j| measure.of(divergences(i, j))).collect();
            let middle = row.iter().sum::<f64>() / row.len().max(1) as f64;
            row.into_iter()
                .map(|value| if measure == SuppressionMeasure::Published { value - middle } else { value })
                .collect()
        };
        let matrix =
            Self::new(measure.name().into(), sentences, (0..sentences.len()).map(row).collect(), model);
        SentenceMatrix { unit: measure.unit(), ..matrix }
    }

    fn new(measure: String, sentences: &[Sentence], rows: Vec<Vec<f64>>, model: &str) -> Self {
        let (sentences, model) = (sentences.to_vec(), model.into());
        let unit = Unit::default();
        SentenceMatrix {
            measure,
            unit,
            sentences,
            rows,
            model,
            known: Vec::new(),
            known_auc: None,
            note: None,
        }
    }

    /// The same beside what is known: `depends_on[i]` are the sentences that sentence `i` needs. Earlier sentences of the kinds
    /// in `leave_out` are left out of it.
    pub fn against(mut self, depends_on: &[Vec<usize>], leave_out: &[SentenceKind]) -> Self {
        let counts = |i: usize, j: usize| j < i && !leave_out.contains(&self.sentences[j].kind);
        let needs = depends_on.iter().take(self.sentences.len()).enumerate();
        let pairs = needs.flat_map(|(i, needs)| needs.iter().map(move |&j| (i, j)));
        self.known = pairs.filter(|&(i, j)| counts(i, j)).collect();
        self.known_auc = self.auc(depends_on, leave_out);
        self
    }

    /// Whether later sentences need some sentences more than the others: the largest number that each has in a row at least
    /// `min_distance` after it. Sentences without such a row are left out.
    pub fn test(&self, claim: &str, sentences: &[usize], min_distance: usize) -> CausalTest {
        let largest = |j: usize| {
            let later = self.rows.iter().skip(j + min_distance.max(1)).filter_map(|row| row.get(j).copied());
            Some((j, later.max_by(f64::total_cmp)?))
        };
        let all = (0..self.sentences.len()).filter_map(largest);
        let (claimed, controls): (Vec<_>, Vec<_>) = all.partition(|(j, _)| sentences.contains(j));
        CausalTest {
            claim: claim.into(),
            measure: format!("{}; largest of the sentences at least {min_distance} later", self.measure),
            unit: self.unit,
            claimed: claimed.into_iter().map(|(j, value)| (j.to_string(), value)).collect(),
            controls: controls.into_iter().map(|(_, value)| value).collect(),
            model: self.model.clone(),
            note: self.note.clone(),
        }
    }

    /// Every pair's number and whether the later sentence needs the earlier one, `depends_on[i]` being what sentence `i` needs;
    /// pairs with an earlier sentence of the kinds in `leave_out` are left out.
    pub fn cases(&self, depends_on: &[Vec<usize>], leave_out: &[SentenceKind]) -> Vec<(f64, bool)> {
        let counts = |j: usize| !leave_out.contains(&self.sentences[j].kind);
        let rows = self.rows.iter().zip(depends_on);
        rows.flat_map(|(row, needs)| {
            row.iter().enumerate().filter(|(j, _)| counts(*j)).map(|(j, &v)| (v, needs.contains(&j)))
        })
        .collect()
    }

    /// How well the numbers tell what each sentence needs: area under the ROC curve, see [`SentenceMatrix::cases`].
    pub fn auc(&self, depends_on: &[Vec<usize>], leave_out: &[SentenceKind]) -> Option<f64> {
        auc(&self.cases(depends_on, leave_out))
    }
}
