//! The experts that tokens took, as rows of numbers.

use std::vec::IntoIter;

use crate::{error::Error, trace::Trace};

/// Tokens whose experts are read at a time.
const AT_A_TIME: usize = 1 << 14;

/// An expert that a token took in a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExpertEdge {
    pub layer: usize,
    pub token: usize,
    /// 0 for the expert with the token's highest score, 1 for the next.
    pub rank: usize,
    pub expert: usize,
}

/// The experts that tokens took: by layer, token and rank. Reads some tokens at a time.
pub struct ExpertRows {
    trace: Trace,
    stretches: IntoIter<(usize, usize)>,
    rows: IntoIter<ExpertEdge>,
}

impl Trace {
    /// Returns the experts of every token in every layer that the trace holds and that has experts.
    ///
    /// # Errors
    /// [`Error::Missing`] when the run did not record them.
    pub fn expert_edges(&self) -> Result<ExpertRows, Error> {
        if self.summary().experts.is_none() {
            let fix = "trace a model with experts, with StreamConfig::experts";
            return Err(Error::missing("record of experts", self.summary().model.name.clone(), fix));
        }
        let starts =
            |&layer: &usize| (0..self.n_tokens()).step_by(AT_A_TIME).map(move |start| (layer, start));
        let stretches: Vec<(usize, usize)> = self.layers().iter().flat_map(starts).collect();
        let (stretches, rows) = (stretches.into_iter(), Vec::new().into_iter());
        Ok(ExpertRows { trace: self.clone(), stretches, rows })
    }
}

impl Iterator for ExpertRows {
    type Item = Result<ExpertEdge, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(row) = self.rows.next() {
                return Some(Ok(row));
            }
            let (layer, start) = self.stretches.next()?;
            let end = (start + AT_A_TIME).min(self.trace.n_tokens());
            match self.trace.experts_of(layer, start..end) {
                Ok(experts) => self.rows = rows(layer, start, &experts.unwrap_or_default()).into_iter(),
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

/// Returns the rows of tokens from `first` on.
fn rows(layer: usize, first: usize, experts: &[Vec<usize>]) -> Vec<ExpertEdge> {
    let of_token = |(at, experts): (usize, &Vec<usize>)| {
        let ranked = experts.clone().into_iter().enumerate();
        ranked.map(move |(rank, expert)| ExpertEdge { layer, token: first + at, rank, expert })
    };
    experts.iter().enumerate().flat_map(of_token).collect()
}
