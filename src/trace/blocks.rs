//! The geometry of a prompt cut into blocks: which queries see which keys.

use std::ops::Range;

/// Query and key blocks over a causal prompt, with the layer's sliding window if it has one.
///
/// A query sees itself and the keys before it; with a window of `w`, only the last `w` of them, itself
/// included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blocks {
    pub n_tokens: usize,
    pub block_size_q: usize,
    pub block_size_k: usize,
    pub window: Option<usize>,
}

impl Blocks {
    pub fn n_query_blocks(&self) -> usize {
        self.n_tokens.div_ceil(self.block_size_q)
    }

    pub fn n_key_blocks(&self) -> usize {
        self.n_tokens.div_ceil(self.block_size_k)
    }

    /// Returns the tokens of a query block.
    pub fn queries(&self, query_block: usize) -> Range<usize> {
        block_range(query_block, self.block_size_q, self.n_tokens)
    }

    /// Returns the tokens of a key block.
    pub fn keys(&self, key_block: usize) -> Range<usize> {
        block_range(key_block, self.block_size_k, self.n_tokens)
    }

    /// Returns the keys that one query sees.
    pub fn visible_keys(&self, query: usize) -> Range<usize> {
        let start = self.window.map_or(0, |w| (query + 1).saturating_sub(w));
        start..query + 1
    }

    /// Returns the key blocks that at least one query of the block sees.
    pub fn visible(&self, query_block: usize) -> Range<usize> {
        let queries = self.queries(query_block);
        let first = self.visible_keys(queries.start).start / self.block_size_k;
        first..queries.end.saturating_sub(1) / self.block_size_k + 1
    }

    /// Returns whether every query of the block sees every key of the block.
    pub fn is_full(&self, query_block: usize, key_block: usize) -> bool {
        let (queries, keys) = (self.queries(query_block), self.keys(key_block));
        keys.end <= queries.start + 1 && keys.start >= self.visible_keys(queries.end - 1).start
    }

    /// Counts the pairs of a query and a key that it sees.
    pub fn pairs(&self, query_block: usize, key_block: usize) -> usize {
        let (queries, keys) = (self.queries(query_block), self.keys(key_block));
        if self.is_full(query_block, key_block) {
            return queries.len() * keys.len();
        }
        queries
            .map(|q| {
                let seen = self.visible_keys(q);
                seen.end.min(keys.end).saturating_sub(seen.start.max(keys.start))
            })
            .sum()
    }

    /// Counts all pairs of a query and a key not after it, T(T+1)/2, of which `pruned` is a share.
    pub fn causal_pairs(&self) -> u64 {
        let t = self.n_tokens as u64;
        t * (t + 1) / 2
    }

    /// Counts the key blocks that a search with the budget `top_k` keeps.
    pub fn n_kept(&self, query_block: usize, top_k: usize) -> usize {
        self.visible(query_block).len().min(top_k)
    }
}

fn block_range(block: usize, size: usize, n_tokens: usize) -> Range<usize> {
    let start = block.saturating_mul(size).min(n_tokens);
    start..start.saturating_add(size).min(n_tokens)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blocks(n_tokens: usize, bq: usize, bk: usize, window: Option<usize>) -> Blocks {
        Blocks { n_tokens, block_size_q: bq, block_size_k: bk, window }
    }

    #[test]
    fn visible_blocks_are_causal_and_windowed() {
        let b = blocks(10, 4, 2, None);
        assert_eq!((b.n_query_blocks(), b.n_key_blocks()), (3, 5));
        assert_eq!([b.visible(0), b.visible(1), b.visible(2)], [0..2, 0..4, 0..5]);
        let b = blocks(10, 4, 2, Some(3));
        assert_eq!([b.visible(0), b.visible(1), b.visible(2)], [0..2, 1..4, 3..5]);
    }

    #[test]
    fn pairs_count_what_each_query_sees() {
        for window in [None, Some(1), Some(3), Some(7), Some(100)] {
            for (t, bq, bk) in [(1, 4, 2), (10, 4, 2), (23, 2, 8), (17, 4, 4), (5, 1, 1)] {
                let b = blocks(t, bq, bk, window);
                let by_block: usize =
                    (0..b.n_query_blocks()).flat_map(|q| b.visible(q).map(move |k| b.pairs(q, k))).sum();
                let by_query: usize = (0..t).map(|q| b.visible_keys(q).len()).sum();
                assert_eq!(by_block, by_query, "{b:?}");
            }
        }
    }
}
