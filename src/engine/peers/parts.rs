//! The rows of a prompt that each rank takes.

use std::{ops::Range, sync::Arc};

use super::Peers;
use crate::{engine::search::by_head::Survey, error::Error, trace::Blocks};

/// The rows of a prompt, shared out among ranks in stretches of whole chunks, one after the other.
#[derive(Clone, Debug, Default)]
pub struct Parts {
    /// None where one device takes all rows.
    shared: Option<Shared>,
}

#[derive(Clone, Debug)]
struct Shared {
    peers: Arc<Peers>,
    /// First row of each rank, and the end. `[n_ranks + 1]`
    starts: Arc<[usize]>,
}

impl Parts {
    /// Shares out `n_tokens` rows in chunks of `chunk_rows`; ranks differ by a chunk at most.
    pub fn new(peers: Arc<Peers>, n_tokens: usize, chunk_rows: usize) -> Self {
        let (n_chunks, n_ranks) = (n_tokens.div_ceil(chunk_rows), peers.n_ranks);
        let start = |rank: usize| ((rank * n_chunks).div_ceil(n_ranks) * chunk_rows).min(n_tokens);
        Parts { shared: Some(Shared { peers, starts: (0..=n_ranks).map(start).collect() }) }
    }

    /// The other ranks; `None` where there are none.
    pub fn peers(&self) -> Option<&Peers> {
        self.shared.as_ref().map(|shared| &*shared.peers)
    }

    /// Rows of this rank among `n_tokens`.
    pub fn own(&self, n_tokens: usize) -> Range<usize> {
        self.shared.as_ref().map_or(0..n_tokens, |shared| self.of(shared.peers.rank, n_tokens))
    }

    /// Rows of a rank among `n_tokens`.
    pub fn of(&self, rank: usize, n_tokens: usize) -> Range<usize> {
        match &self.shared {
            Some(shared) => shared.starts[rank]..shared.starts[rank + 1],
            None => 0..n_tokens,
        }
    }

    /// Rows of each rank among `n_tokens`, by rank.
    pub fn all(&self, n_tokens: usize) -> impl Iterator<Item = Range<usize>> {
        (0..self.shared.as_ref().map_or(1, |shared| shared.peers.n_ranks))
            .map(move |rank| self.of(rank, n_tokens))
    }

    /// Returns what the sampled query blocks of all ranks look at.
    ///
    /// # Errors
    /// [`Error::Engine`] when another rank has ended.
    pub fn gathered(&self, own: Survey) -> Result<Survey, Error> {
        let Some(shared) = &self.shared else { return Ok(own) };
        let all = shared.peers.star.gather(&own.to_bytes())?;
        let parts: Option<Vec<Survey>> =
            all.iter().map(|bytes| Survey::from_bytes(bytes, own.heads.len())).collect();
        let parts = parts
            .ok_or_else(|| Error::engine("a rank sent something else than a survey", "please report this"))?;
        Ok(parts.into_iter().reduce(Survey::followed_by).unwrap_or(own))
    }
}

/// Returns the query blocks of rows that start at one.
pub fn query_blocks(blocks: &Blocks, rows: &Range<usize>) -> Range<usize> {
    rows.start / blocks.block_size_q..rows.end.div_ceil(blocks.block_size_q)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(rank: usize, n_ranks: usize, n_tokens: usize, chunk_rows: usize) -> Parts {
        Parts::new(Arc::new(Peers::new(rank, n_ranks, Vec::new())), n_tokens, chunk_rows)
    }

    #[test]
    fn every_row_is_of_one_rank_and_ranks_differ_by_a_chunk() {
        for (n_ranks, n_tokens, chunk) in
            [(1, 100, 32), (2, 1000, 64), (3, 1000, 128), (8, 1_048_576, 8192), (4, 130, 32)]
        {
            let all: Vec<_> = parts(0, n_ranks, n_tokens, chunk).all(n_tokens).collect();
            assert!(all.windows(2).all(|pair| pair[0].end == pair[1].start), "{all:?}");
            assert_eq!((all[0].start, all[n_ranks - 1].end), (0, n_tokens));
            assert!(all.iter().all(|rows| rows.start % chunk == 0 && !rows.is_empty()), "{all:?}");
            let n_chunks = all.iter().map(|rows| rows.len().div_ceil(chunk));
            assert!(n_chunks.clone().max().unwrap() - n_chunks.min().unwrap() <= 1, "{all:?}");
        }
        assert_eq!(parts(1, 2, 1000, 64).own(1000), 512..1000);
        assert_eq!(Parts::default().own(7), 0..7);
    }
}
