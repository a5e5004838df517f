//! Recall as a map of layers and heads.

use super::{
    heat_map::HeatMap,
    labels::{facts, told_recall},
};
use crate::{
    error::Error,
    trace::{RowsOf, Trace},
    words::{
        letters::shortened,
        numbers::{count, percent},
    },
};

impl Trace {
    /// A map of each head's recall: the share of its attention to all keys that falls on kept blocks, as it
    /// was compared with dense attention, else as the run told it.
    ///
    /// # Errors
    /// [`Error::Missing`] when neither is there; [`Error::Trace`] when the file is damaged.
    pub fn recall_map(&self) -> Result<HeatMap, Error> {
        let summary = self.summary();
        let kept = told_recall(summary)
            .map_or(String::new(), |recall| format!("{} of the attention was kept: ", percent(recall)));
        let title = format!("{kept}recall of each head");
        let facts = facts(summary, summary.config.top_k, summary.pruned, told_recall(summary));
        let facts = format!("{} · {facts}", shortened(&summary.model.name, 24));
        if let Some(fidelity) = &summary.fidelity {
            let measure = measure(fidelity.n_rows, fidelity.rows_of);
            return Ok(HeatMap::by_layer_and_head(title, facts, &measure, &fidelity.recall_by_head));
        }
        let Some(told) = summary.recall else {
            let fix = "trace again with a sample, or use Tracer::compare first";
            return Err(Error::missing("recall", "of this trace", fix));
        };
        let of_layer = |layer| {
            let recall = if self.layers().contains(&layer) { self.recall(layer)? } else { None };
            Ok(recall
                .map_or(vec![f64::NAN; self.n_heads()], |recall| recall.into_iter().map(f64::from).collect()))
        };
        let by_head = (0..self.n_layers()).map(of_layer).collect::<Result<Vec<_>, Error>>()?;
        Ok(HeatMap::by_layer_and_head(title, facts, &measure(told.rows, RowsOf::Sparse), &by_head))
    }
}

fn measure(n_rows: usize, rows_of: RowsOf) -> String {
    let run = match rows_of {
        RowsOf::Dense => "of a dense run",
        RowsOf::Sparse => "of the sparse run",
    };
    format!("Share of the dense attention mass on kept keys, mean over {} {run}", count(n_rows, "row"))
}

#[cfg(test)]
mod tests {
    use crate::trace::synthetic::{Shape, trace};

    #[test]
    fn a_trace_that_was_compared_has_a_map_of_its_recall() {
        let t = trace(&Shape { n_layers: 3, n_heads: 5, ..Default::default() });
        let map = t.recall_map().unwrap();
        assert_eq!((map.rows.len(), map.columns.len(), map.values[2][4]), (3, 5, Some(0.9934)));
        assert!(
            map.measure.contains("512 rows of a dense run") && map.facts.contains("recall 0.993"),
            "{map:?}"
        );
    }
}
