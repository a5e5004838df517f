//! Where a view opens: on the head and the pair that say most about what the model wrote.

use crate::{error::Error, trace::Trace};

/// A head, by its place among the trace's heads, a query and a key.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Opening {
    pub head: usize,
    pub query: usize,
    pub key: usize,
}

/// Returns the pair to open on: the query is the last one recorded key by key, as a rule the last of the prompt;
/// head and key are those of its largest attention on a single key. Sinks, and the blocks that every query keeps
/// (the first ones and the last ones), count only where there is nothing else.
pub(super) fn opening(trace: &Trace, sinks: &[usize]) -> Result<Opening, Error> {
    let summary = trace.summary();
    let query = summary.focus.range().next_back().unwrap_or(trace.n_tokens() - 1);
    let blocks = summary.blocks(0);
    let always = summary.config.sink_blocks * blocks.block_size_k;
    let near = blocks
        .visible(query / blocks.block_size_q)
        .end
        .saturating_sub(summary.config.local_blocks.max(1))
        .saturating_mul(blocks.block_size_k);
    let mut best = (0, -1.0, Opening { head: 0, query, key: query });
    for (at, (layer, head)) in heads(trace).enumerate() {
        for (key, mass) in looked_at(trace, layer, head, query)? {
            let rank = if sinks.contains(&key) {
                0
            } else if key < always || key >= near {
                1
            } else {
                2
            };
            if (rank, mass) > (best.0, best.1) {
                best = (rank, mass, Opening { head: at, query, key });
            }
        }
    }
    Ok(best.2)
}

/// The heads of a trace, layer by layer.
pub(super) fn heads(trace: &Trace) -> impl Iterator<Item = (usize, usize)> + '_ {
    trace.layers().iter().flat_map(|&layer| (0..trace.n_heads()).map(move |head| (layer, head)))
}

/// What a query looks at: single keys where they were recorded, otherwise the first keys of its blocks.
fn looked_at(trace: &Trace, layer: usize, head: usize, query: usize) -> Result<Vec<(usize, f32)>, Error> {
    if trace.summary().focus.range().contains(&query) {
        return trace.attention_row(layer, head, query);
    }
    let head = trace.head(layer, head)?;
    let row = head.row(query / head.blocks.block_size_q);
    Ok(row.map(|(block, mass)| (head.blocks.keys(block).start, mass)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::synthetic::{Shape, trace};

    #[test]
    fn it_opens_on_what_the_last_query_found_far_away() {
        let trace = trace(&Shape::default());
        let Opening { head, query, key } = opening(&trace, &[0]).unwrap();
        // The needle stands in block 25 of 250; the last head looks at it most.
        assert_eq!((head, query, key), (3, 1999, 200));
    }

    #[test]
    fn without_rows_key_by_key_it_opens_on_a_block() {
        let trace = trace(&Shape { focus: 0, ..Shape::default() });
        assert_eq!(opening(&trace, &[0]).unwrap(), Opening { head: 3, query: 1999, key: 200 });
    }

    #[test]
    fn a_short_prompt_opens_too() {
        let trace = trace(&Shape { n_tokens: 1, ..Shape::default() });
        assert_eq!(opening(&trace, &[0]).unwrap(), Opening { head: 0, query: 0, key: 0 });
    }
}
