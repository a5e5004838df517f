//! A study that was written: its tables, read to be summed up and drawn.

use std::{collections::BTreeMap, path::PathBuf};

use super::{
    rows::{AnchorRow, HeadRow, PromptRow, SpanRow},
    tables::Tables,
};
use crate::{
    analysis::{HeadRanking, RetrievalHeads},
    error::Error,
    words::{
        numbers::{count, head_name, thousands},
        table::{Describe, Table, show_as_table},
    },
};

/// The tables of a folder that `streamtrace batch` wrote.
#[derive(Clone, Debug)]
pub struct Study {
    pub prompts: Vec<PromptRow>,
    /// With the ids of their prompts, as the other tables.
    pub heads: Vec<(String, HeadRow)>,
    pub spans: Vec<(String, SpanRow)>,
    pub anchors: Vec<(String, AnchorRow)>,
}

/// A number over the prompts of a study.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    pub mean: f64,
    /// Standard deviation over prompts, 0 for one.
    pub deviation: f64,
    pub n: usize,
}

impl Spread {
    /// `None` of no values.
    pub fn of(values: &[f64]) -> Option<Self> {
        let n = values.len();
        let mean = values.iter().sum::<f64>() / n as f64;
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        let deviation = if n > 1 { (squares / (n - 1) as f64).sqrt() } else { 0.0 };
        (n > 0).then_some(Spread { mean, deviation, n })
    }
}

/// A head and a number over the prompts.
pub type OfHead = ((usize, usize), Spread);

impl Study {
    /// # Errors
    /// [`Error::File`] when the folder holds no tables or one is damaged.
    pub fn open(folder: impl Into<PathBuf>) -> Result<Self, Error> {
        let folder = folder.into();
        if !folder.join("prompts").is_dir() {
            return Err(Error::file("read", &folder, "it holds no tables of `streamtrace batch`"));
        }
        let tables = Tables::open(folder)?;
        Ok(Study {
            prompts: tables.read()?.into_iter().map(|(_, row)| row).collect(),
            heads: tables.read()?,
            spans: tables.read()?,
            anchors: tables.read()?,
        })
    }

    /// Writes the tables to a folder, each as one file, for a study that is done: a file for each prompt is many files.
    /// [`Study::open`], DuckDB and Polars read it as the other.
    ///
    /// # Errors
    /// [`Error::File`] when the disk is full.
    pub fn save(&self, folder: impl Into<PathBuf>) -> Result<(), Error> {
        let tables = Tables::open(folder)?;
        let prompts: Vec<_> = self.prompts.iter().map(|row| (row.id.clone(), row.clone())).collect();
        tables.write_all(&prompts)?;
        tables.write_all(&self.heads)?;
        tables.write_all(&self.spans)?;
        tables.write_all(&self.anchors)
    }

    /// Returns what each head has of a number, over the prompts, largest mean first; `value` gives it, such as
    /// `|head| head.recall`.
    pub fn of_heads(&self, value: impl Fn(&HeadRow) -> Option<f64>) -> Vec<OfHead> {
        spreads(self.heads.iter().filter_map(|(_, row)| Some(((row.layer, row.head), value(row)?))))
    }

    /// Returns how much of its attention each head has on the spans of a name, largest mean first.
    ///
    /// # Errors
    /// [`Error::Missing`] when no prompt names such a span.
    pub fn readers(&self, span: &str) -> Result<Vec<OfHead>, Error> {
        let rows = self.spans.iter().map(|(_, row)| row).filter(|row| row.span == span);
        let found = spreads(rows.map(|row| ((row.layer, row.head), row.mass)));
        if !found.is_empty() {
            return Ok(found);
        }
        let mut names: Vec<&str> = self.spans.iter().map(|(_, row)| row.span.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        let known = if names.is_empty() {
            "no prompt names one".into()
        } else {
            format!("there are {}", names.join(", "))
        };
        Err(Error::missing("span", span, known))
    }

    /// Returns which heads copy the spans of a name into the answers, mean over the prompts that have both.
    ///
    /// # Errors
    /// [`Error::Missing`] when none has.
    pub fn retrieval_heads(&self, span: &str) -> Result<RetrievalHeads, Error> {
        let rows = self.spans.iter().map(|(_, row)| row).filter(|row| row.span == span);
        let copied = spreads(rows.filter_map(|row| Some(((row.layer, row.head), row.copied?))));
        let Some((_, one)) = copied.first() else {
            let needed = "give the lines of the prompts an answer and such a span";
            return Err(Error::missing("retrieval scores of the span", span, needed));
        };
        let n_prompts = one.n;
        let [n_layers, n_heads] =
            [|h: &OfHead| h.0.0, |h: &OfHead| h.0.1].map(|of| copied.iter().map(of).max().unwrap_or(0) + 1);
        let mut scores = vec![vec![0.0; n_heads]; n_layers];
        copied.iter().for_each(|((layer, head), spread)| scores[*layer][*head] = spread.mean);
        let model = self.prompts.iter().find_map(|row| row.model.clone()).unwrap_or_default();
        Ok(RetrievalHeads { model, n_prompts, scores })
    }

    /// Returns the receiver scores of the thought anchors by the kind of their sentence.
    pub fn anchors_by_kind(&self) -> BTreeMap<String, Spread> {
        let mut kinds: BTreeMap<String, Vec<f64>> = BTreeMap::new();
        for (_, row) in &self.anchors {
            kinds.entry(row.kind.clone()).or_default().push(row.score);
        }
        kinds.into_iter().filter_map(|(kind, scores)| Some((kind, Spread::of(&scores)?))).collect()
    }

    /// Returns heads as a ranking, to be drawn; `how` says by what.
    pub fn ranking(how: &str, heads: &[OfHead]) -> HeadRanking {
        HeadRanking::ranked(how, heads.iter().map(|((layer, head), spread)| (*layer, *head, spread.mean)))
    }
}

/// Returns the spread of each head's values, largest mean first.
fn spreads(values: impl Iterator<Item = ((usize, usize), f64)>) -> Vec<OfHead> {
    let mut of_heads: BTreeMap<(usize, usize), Vec<f64>> = BTreeMap::new();
    for (head, value) in values {
        of_heads.entry(head).or_default().push(value);
    }
    let mut found: Vec<OfHead> =
        of_heads.into_iter().filter_map(|(head, values)| Some((head, Spread::of(&values)?))).collect();
    found.sort_by(|a, b| b.1.mean.total_cmp(&a.1.mean));
    found
}

/// Heads that a table names.
const NAMED: usize = 5;

impl Describe for Study {
    fn table(&self) -> Table {
        let failed = self.prompts.iter().filter(|row| row.error.is_some()).count();
        let over = |value: fn(&PromptRow) -> Option<f64>| {
            let values: Vec<f64> = self.prompts.iter().filter_map(value).collect();
            Spread::of(&values).map_or("–".into(), |s| format!("{:.3} ± {:.3}", s.mean, s.deviation))
        };
        let tokens: Vec<f64> = self.prompts.iter().filter_map(|row| row.n_tokens).map(|n| n as f64).collect();
        let tokens = Spread::of(&tokens).map_or("–".into(), |s| {
            format!("{} ± {}", thousands(s.mean as u64), thousands(s.deviation as u64))
        });
        let survive: Vec<bool> = self.prompts.iter().filter_map(|row| row.answer_survives).collect();
        let survived = survive.iter().filter(|survives| **survives).count();
        let mut table = Table::new(format!("Study of {}", count(self.prompts.len(), "prompt")))
            .row("failed", failed)
            .row("tokens", tokens)
            .row("pruned", over(|row| row.pruned))
            .row("recall", over(|row| row.recall));
        if !survive.is_empty() {
            table = table.row("answers that survive", format!("{survived} of {}", survive.len()));
        }
        let mut spans: Vec<&String> = self.spans.iter().map(|(_, row)| &row.span).collect();
        spans.sort_unstable();
        spans.dedup();
        for span in spans {
            let named = |((layer, head), s): &OfHead| {
                format!("{} {:.2} ± {:.2}", head_name(*layer, *head), s.mean, s.deviation)
            };
            let readers = self.readers(span).unwrap_or_default();
            let best: Vec<String> = readers.iter().take(NAMED).map(named).collect();
            table = table.row(&format!("heads that read {span:?}"), best.join(", "));
        }
        for (kind, spread) in self.anchors_by_kind() {
            table = table.row(
                &format!("anchors, {kind}"),
                format!("{}, scores {:.4} ± {:.4}", spread.n, spread.mean, spread.deviation),
            );
        }
        table
    }
}

show_as_table!(Study);
