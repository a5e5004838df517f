//! One number for each pair of a sentence and an earlier one.

use serde::{Deserialize, Serialize};

use super::{HeadRanking, Sentence, auc::auc, sentence::spans};
use crate::{
    error::Error,
    intervention::{Effect, Intervention},
    tasks::SentenceKind,
    trace::{Span, Trace},
};

/// What sentences get from earlier ones: attention, or what changes without them. Rows are the later sentences.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SentenceMatrix {
    /// What the numbers are.
    pub measure: String,
    pub sentences: Vec<Sentence>,
    /// For each sentence the numbers of all before it. `[n_sentences][..i]`
    pub rows: Vec<Vec<f64>>,
    pub model: String,
}

impl Trace {
    /// How strongly each sentence looks at the ones before it: the largest attention of one of its tokens on the whole of an
    /// earlier sentence, mean over the best heads of a ranking.
    ///
    /// Not the mean over tokens, because a sentence that needs another reads it at a single token, such as a number.
    ///
    /// # Errors
    /// [`Error::Missing`] when a sentence's rows were not recorded, or for a head that the model does not have.
    pub fn sentence_links(&self, sentences: &[Sentence], heads: &HeadRanking, n_heads: usize) -> Result<SentenceMatrix, Error> {
        self.check_recorded(sentences)?;
        let mut rows: Vec<Vec<f64>> = (0..sentences.len()).map(|i| vec![0.0; i]).collect();
        let best = heads.best(n_heads);
        for &(layer, head) in &best {
            let attention = self.sentence_attention(layer, head, &spans(sentences))?;
            for (i, row) in rows.iter_mut().enumerate() {
                for (j, to) in row.iter_mut().enumerate() {
                    *to += f64::from(attention.peak(i, j).unwrap_or_default()) / best.len() as f64;
                }
            }
        }
        let names: Vec<String> = best.iter().map(|(layer, head)| format!("{layer}·{head}")).collect();
        let measure = format!("peak attention of heads {}, {}", names.join(", "), heads.how);
        Ok(SentenceMatrix { measure, sentences: sentences.to_vec(), rows, model: self.summary().model.name.clone() })
    }

    /// Whether the rows of all sentences were recorded key by key.
    pub(super) fn check_recorded(&self, sentences: &[Sentence]) -> Result<(), Error> {
        let focus = self.summary().focus;
        match sentences.iter().find(|s| s.span.start < focus.start || s.span.end > focus.end) {
            None => Ok(()),
            Some(sentence) => Err(Error::Missing {
                what: "rows of sentence".into(),
                index: format!("{:?} at tokens {}", sentence.text, sentence.span),
                available: format!(
                    "rows were recorded for tokens {focus}; trace again with StreamConfig::focus over the sentences"
                ),
            }),
        }
    }
}

impl SentenceMatrix {
    /// Smallest divergence that is told from none, in nats.
    const LEAST: f64 = 1e-9;

    /// The interventions that give a matrix of effects: each hides one sentence from everything after it.
    pub fn suppressions(sentences: &[Sentence]) -> Vec<Intervention> {
        let of = |(i, sentence): (usize, &Sentence)| Intervention::without_span(&format!("without sentence {i}"), sentence.span);
        sentences.iter().enumerate().map(of).collect()
    }

    /// The tokens whose predictions those interventions are to be asked about.
    pub fn asked(sentences: &[Sentence]) -> Span {
        match (sentences.first(), sentences.last()) {
            (Some(first), Some(last)) => Span { start: first.span.start.max(1), end: last.span.end },
            _ => Span::default(),
        }
    }

    /// What each sentence changes about the later ones (Bogdan et al. 2025): the mean over a later sentence's tokens of
    /// ln KL(base ‖ without the earlier one), minus its row's mean. `effects` are those of [`SentenceMatrix::suppressions`] on
    /// the tokens that [`SentenceMatrix::asked`] names.
    pub fn of_effects(sentences: &[Sentence], effects: &[Effect], model: &str) -> Self {
        let first = Self::asked(sentences).start;
        let mean = |i: usize, j: usize| {
            let tokens = sentences[i].span.range().filter_map(|token| effects.get(j)?.tokens.get(token.checked_sub(first)?));
            let (n, sum) = tokens.fold((0, 0.0), |(n, sum), token| (n + 1, sum + token.kl.max(Self::LEAST).ln()));
            sum / f64::from(n.max(1))
        };
        let row = |i: usize| {
            let row: Vec<f64> = (0..i).map(|j| mean(i, j)).collect();
            let middle = row.iter().sum::<f64>() / row.len().max(1) as f64;
            row.into_iter().map(|value| value - middle).collect()
        };
        SentenceMatrix {
            measure: "ln KL without the sentence, minus the row's mean".into(),
            sentences: sentences.to_vec(),
            rows: (0..sentences.len()).map(row).collect(),
            model: model.into(),
        }
    }

    /// Every pair's number and whether the later sentence needs the earlier one, `depends_on[i]` being what sentence `i` needs;
    /// pairs with an earlier sentence of the kinds in `leave_out` are left out.
    pub fn cases(&self, depends_on: &[Vec<usize>], leave_out: &[SentenceKind]) -> Vec<(f64, bool)> {
        let counts = |j: usize| !leave_out.contains(&self.sentences[j].kind);
        let rows = self.rows.iter().zip(depends_on);
        rows.flat_map(|(row, needs)| row.iter().enumerate().filter(|(j, _)| counts(*j)).map(|(j, &v)| (v, needs.contains(&j))))
            .collect()
    }

    /// How well the numbers tell what each sentence needs: area under the ROC curve, see [`SentenceMatrix::cases`].
    pub fn auc(&self, depends_on: &[Vec<usize>], leave_out: &[SentenceKind]) -> Option<f64> {
        auc(&self.cases(depends_on, leave_out))
    }
}
