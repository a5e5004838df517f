//! How a comparison with dense attention reads in a notebook.

use super::{AnswerFidelity, CompareConfig, Fidelity, NextToken, RowsOf};
use crate::{
    notebook::{Describe, Table, nats},
    plot::count,
};

impl Describe for Fidelity {
    fn table(&self) -> Table {
        let heads =
            self.recall_by_head.iter().enumerate().flat_map(|(l, heads)| heads.iter().enumerate().map(move |(h, r)| (l, h, *r)));
        let worst = heads.min_by(|a, b| a.2.total_cmp(&b.2)).map(|(l, h, recall)| format!("{recall:.4} in layer {l}, head {h}"));
        let run = match self.rows_of {
            RowsOf::Dense => "dense",
            RowsOf::Sparse => "sparse",
        };
        Table::new("Against dense attention")
            .row("recall", format!("{:.4}, mean over {} of the {run} run", self.recall, count(self.n_rows, "row")))
            .maybe("lowest recall", worst)
            .maybe("next token", self.same_next_token.map(|same| if same { "the same" } else { "another" }))
            .maybe("of dense attention", self.dense_next_token.as_ref().map(NextToken::line))
            .maybe("KL(dense ‖ sparse)", self.kl.map(nats))
            .maybe("answer", self.answer.as_ref().map(AnswerFidelity::line))
    }
}

impl Fidelity {
    /// All in a line.
    pub(crate) fn line(&self) -> String {
        let token = self.same_next_token.map(|same| if same { "; same next token" } else { "; another next token" });
        let kl = self.kl.map(|kl| format!(", KL {}", nats(kl)));
        let sample = (self.rows_of == RowsOf::Sparse).then(|| format!(", on {}", count(self.n_rows, "row")));
        let rest = [token.map(String::from), kl, sample].into_iter().flatten().collect::<String>();
        format!("{:.4} of the dense attention mass{rest}", self.recall)
    }
}

impl Describe for AnswerFidelity {
    fn table(&self) -> Table {
        let yes = |retained| if retained { "most likely at every token" } else { "not the most likely" };
        Table::new(format!("Answer {:?}", self.text))
            .row("dense", format!("log-probability {:.4}, {}", self.dense_logprob, yes(self.dense_retained)))
            .row("sparse", format!("log-probability {:.4}, {}", self.sparse_logprob, yes(self.sparse_retained)))
    }
}

impl AnswerFidelity {
    fn line(&self) -> String {
        let kept = match (self.dense_retained, self.sparse_retained) {
            (true, true) => "kept",
            (true, false) => "lost",
            (false, _) => "not the answer of dense attention",
        };
        format!("log-probability {:.3} dense, {:.3} sparse: {kept}", self.dense_logprob, self.sparse_logprob)
    }
}

impl Describe for RowsOf {
    fn table(&self) -> Table {
        Table::new(format!("{self:?}"))
    }
}

impl Describe for CompareConfig {
    fn table(&self) -> Table {
        let rows = self.rows.map_or("all, of a dense run".into(), |n| format!("{}, of a sparse run", count(n, "row")));
        Table::new("Compare with dense attention").row("recall on", rows).maybe("answer", self.answer.as_ref())
    }
}
