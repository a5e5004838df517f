//! The heads that read a piece of a prompt.

use super::HeadRanking;
use crate::{
    error::Error,
    trace::{Span, Trace},
};

impl Trace {
    /// Ranks the heads of the layers that the trace holds by the share of their attention that falls on
    /// `span`: a head's score is the mean over `queries` of the probability on the span's keys.
    ///
    /// The queries must be recorded key by key, as those of the trace's focus are: the last tokens of a
    /// prompt, or the answer of [`Tracer::trace_answer`](crate::Tracer::trace_answer).
    ///
    /// # Errors
    /// [`Error::Missing`] for an empty span, one that ends past the prompt, or queries outside the focus.
    pub fn readers(&self, span: impl Into<Span>, queries: impl Into<Span>) -> Result<HeadRanking, Error> {
        let span = self.checked("span that is read", span.into())?;
        let queries = self.checked("span of queries", queries.into())?;
        let mut heads = Vec::new();
        for &layer in self.layers() {
            for head in 0..self.n_heads() {
                let mut on_span = 0.0;
                for query in queries.range() {
                    let row = self.attention_row(layer, head, query)?;
                    let keys = row.iter().filter(|(key, _)| span.range().contains(key));
                    on_span += keys.map(|&(_, probability)| f64::from(probability)).sum::<f64>();
                }
                heads.push((layer, head, on_span / queries.len() as f64));
            }
        }
        let how = format!("share of attention on tokens {span}, mean over queries {queries}");
        Ok(HeadRanking::ranked(&how, heads))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::synthetic::{Shape, trace};

    #[test]
    fn heads_are_ranked_by_their_attention_on_the_span() {
        let trace = trace(&Shape { n_tokens: 600, n_layers: 2, n_heads: 4, top_k: 12, ..Default::default() });
        let queries = Span::from(590..600);
        for span in [Span::from(0..1), Span::from(55..70), trace.output()] {
            let readers = trace.readers(span, queries).unwrap();
            assert_eq!(readers.heads.len(), 8);
            assert!(readers.heads.is_sorted_by(|a, b| a.score >= b.score), "{readers:?}");
            for reader in &readers.heads {
                let on_span = |query| {
                    let row = trace.attention_row(reader.layer, reader.head, query).unwrap();
                    row.iter()
                        .filter(|(key, _)| span.range().contains(key))
                        .map(|(_, p)| f64::from(*p))
                        .sum::<f64>()
                };
                let mean = queries.range().map(on_span).sum::<f64>() / 10.0;
                assert!((reader.score - mean).abs() < 1e-9, "{reader:?} {mean}");
            }
        }
        let sink = trace.readers(0..1, queries).unwrap();
        assert!(sink.heads[0].score > 0.0, "somebody reads the first token: {sink:?}");
        let one = trace.of_layers(&[1]).unwrap().readers(0..1, queries).unwrap();
        assert!(one.heads.len() == 4 && one.heads.iter().all(|head| head.layer == 1), "{one:?}");
    }

    #[test]
    fn spans_that_are_not_there_are_refused() {
        let trace = trace(&Shape { n_tokens: 300, ..Default::default() });
        for (span, queries) in
            [(5..5, 290..300), (0..301, 290..300), (0..5, 300..300), (0..5, 290..301), (0..5, 3..4)]
        {
            let refused = trace.readers(span.clone(), queries.clone());
            assert!(matches!(refused, Err(Error::Missing { .. })), "{span:?} {queries:?}");
        }
    }
}
