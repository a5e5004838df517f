//! Recall as a map of layers and heads.

use super::{heat_map::HeatMap, labels::facts};
use crate::{
    error::Error,
    trace::{Fidelity, RowsOf, Trace},
    words::numbers::{count, shortened},
};

impl Trace {
    /// A map of each head's recall: the share of its dense attention that falls on kept blocks.
    ///
    /// # Errors
    /// [`Error::Missing`] when the trace was not compared with dense attention.
    pub fn recall_map(&self) -> Result<HeatMap, Error> {
        let fidelity = self.summary().fidelity.as_ref().ok_or_else(|| {
            Error::missing("recall", "of this trace", "it was not compared; use Tracer::compare first")
        })?;
        let summary = self.summary();
        let title = format!("{} · recall of each head", shortened(&summary.model.name, 24));
        let facts = facts(summary, summary.pruned, Some(fidelity.recall));
        Ok(HeatMap::by_layer_and_head(title, facts, &measure(fidelity), &fidelity.recall_by_head))
    }
}

fn measure(fidelity: &Fidelity) -> String {
    let run = match fidelity.rows_of {
        RowsOf::Dense => "of a dense run",
        RowsOf::Sparse => "of the sparse run",
    };
    format!(
        "Share of the dense attention mass on kept keys, mean over {} {run}",
        count(fidelity.n_rows, "row")
    )
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
