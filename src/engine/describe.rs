//! How a tracer, its plans and its answers read in a notebook.

use super::{DeviceChoice, LoadOptions, Progress};
use crate::{
    config::{Estimate, Search},
    memory::{MemoryPlan, format_bytes},
    notebook::{Describe, Table},
    plot::{count, percent},
    trace::{AnswerScore, AnswerToken},
    tracer::Tracer,
};

impl Describe for Tracer {
    fn table(&self) -> Table {
        let table = Table::new(format!("Tracer of {}", self.model().line())).row("device", self.device());
        [16_384, 131_072, 1_048_576].iter().fold(table, |table, &n_tokens| {
            let cost = self.plan(n_tokens).map(|plan| match plan.total() <= plan.limit {
                true => format!("takes {}", format_bytes(plan.total())),
                false => format!("takes {}, more than the {} there are", format_bytes(plan.total()), format_bytes(plan.limit)),
            });
            table.row(&count(n_tokens, "token"), cost.unwrap_or_else(|e| e.to_string()))
        })
    }
}

impl Describe for MemoryPlan {
    fn table(&self) -> Table {
        let title = format!("{} for {}", format_bytes(self.total()), count(self.n_tokens, "token"));
        let parts = self.parts.iter().fold(Table::new(title), |table, (name, bytes)| table.row(name, format_bytes(*bytes)));
        let parts = parts.row("limit", format_bytes(self.limit)).row("at a time", count(self.chunk_rows, "token"));
        self.slower.iter().fold(parts, |table, why| table.row("slower", why))
    }
}

impl Describe for AnswerScore {
    fn table(&self) -> Table {
        let title = format!("Answer of {}", count(self.tokens.len(), "token"));
        let tokens =
            self.tokens.iter().fold(Table::new(title), |table, token| table.row(&format!("{:?}", token.text), token.line()));
        tokens.row("retained", if self.retained() { "yes" } else { "no" }).row("pruned", percent(self.pruned))
    }
}

impl Describe for AnswerToken {
    fn table(&self) -> Table {
        Table::new(format!("{:?}", self.text)).row("id", self.id).row("probability", self.line())
    }
}

impl AnswerToken {
    fn line(&self) -> String {
        let likely = if self.is_argmax { "the most likely token" } else { "another token is more likely" };
        format!("{}, {likely}", percent(self.logprob.exp()))
    }
}

impl Describe for LoadOptions {
    fn table(&self) -> Table {
        let limit = self.memory.map_or("what is free".into(), format_bytes);
        Table::new(format!("Model {}", self.model.display())).row("device", format!("{:?}", self.device)).row("memory", limit)
    }
}

impl Describe for DeviceChoice {
    fn table(&self) -> Table {
        Table::new(format!("{self:?}"))
    }
}

impl Describe for Search {
    fn table(&self) -> Table {
        Table::new(format!("{self:?}"))
    }
}

impl Describe for Estimate {
    fn table(&self) -> Table {
        Table::new(format!("{self:?}"))
    }
}

impl Describe for Progress {
    fn table(&self) -> Table {
        Table::new(self.to_string())
    }
}
