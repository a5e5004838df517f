//! The experts that a token took, beside those of the token that it read.

use serde::Serialize;

use crate::{error::Error, trace::Trace};

/// The experts that two tokens took, layer by layer.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SharedExperts {
    /// The token that was read.
    pub key: usize,
    /// The layers of the trace that have experts.
    pub layers: Vec<ExpertsOfLayer>,
}

/// The experts that two tokens took in a layer, those with the highest scores first.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ExpertsOfLayer {
    pub layer: usize,
    /// Of the token that read.
    pub of_query: Vec<usize>,
    /// Of the token that was read.
    pub of_key: Vec<usize>,
}

impl ExpertsOfLayer {
    /// Counts the experts that both took.
    pub fn n_shared(&self) -> usize {
        self.of_query.iter().filter(|expert| self.of_key.contains(expert)).count()
    }
}

impl Trace {
    /// Returns the experts that two tokens took; `None` when the run did not record them.
    ///
    /// # Errors
    /// As [`Trace::experts_of`].
    pub fn shared_experts(&self, query: usize, key: usize) -> Result<Option<SharedExperts>, Error> {
        let mut layers = Vec::new();
        for &layer in self.layers() {
            let of = |token: usize| {
                Ok::<_, Error>(self.experts_of(layer, token..token + 1)?.unwrap_or_default().concat())
            };
            let (of_query, of_key) = (of(query)?, of(key)?);
            if !of_query.is_empty() {
                layers.push(ExpertsOfLayer { layer, of_query, of_key });
            }
        }
        Ok((!layers.is_empty()).then_some(SharedExperts { key, layers }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::{
        ExpertsInfo,
        synthetic::{Shape, trace},
    };

    #[test]
    fn experts_of_two_tokens_stand_beside_each_other() {
        let experts = Some(ExpertsInfo { n_experts: 5, per_token: 3 });
        let trace = trace(&Shape { n_tokens: 40, n_layers: 2, experts, ..Default::default() });
        let shared = trace.shared_experts(11, 4).unwrap().unwrap();
        // Token t takes experts 3 t, 3 t + 1 and 3 t + 2, counted round and round.
        let expected = |layer| ExpertsOfLayer { layer, of_query: vec![3, 4, 0], of_key: vec![2, 3, 4] };
        assert_eq!(shared, SharedExperts { key: 4, layers: vec![expected(0), expected(1)] });
        assert_eq!(shared.layers[0].n_shared(), 2);
        assert!(trace.shared_experts(40, 0).is_err());
    }

    #[test]
    fn a_trace_without_experts_shares_none() {
        assert_eq!(trace(&Shape { n_tokens: 40, ..Default::default() }).shared_experts(11, 4), Ok(None));
    }
}
