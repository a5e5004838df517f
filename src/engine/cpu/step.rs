//! Attention of one row, as a token is written: nothing runs again that stays as it was.

use std::sync::{Mutex, PoisonError};

use rayon::prelude::*;

use super::{Layer, Tensor, one_query::attend_one, queries::Queries, tensor::with_slice};
use crate::{
    engine::device::{AttentionShape, LayerAttention},
    error::Error,
    trace::BlockMask,
};

/// Keys times dimensions that are worth waking a thread for.
const WORTH: usize = 1 << 21;

impl Layer {
    /// Keeps the queries of the prompt's last query block, if they are among these rows.
    pub(super) fn remember(&mut self, queries: &Tensor, first_query_block: usize) -> Result<(), Error> {
        let AttentionShape { blocks, n_heads, head_dim, .. } = self.shape;
        let width = n_heads * head_dim;
        let last = blocks.queries(blocks.n_query_blocks() - 1);
        let first_row = blocks.queries(first_query_block).start;
        let kept = with_slice(queries, |rows| {
            (first_row + rows.len() / width == last.end)
                .then(|| rows[(last.start - first_row) * width..].into())
        })?;
        self.last_queries = kept.unwrap_or_default();
        Ok(())
    }

    /// As `LayerAttention::step`; `query` is `[n_heads · head_dim]`.
    pub(super) fn attend_last(&mut self, query: &[f32], dense: bool) -> Result<Option<Tensor>, Error> {
        let blocks = self.shape.blocks;
        let row = blocks.n_tokens - 1;
        let kept = if dense || self.shape.config.exact {
            None
        } else {
            let query_block = blocks.n_query_blocks() - 1;
            if blocks.queries(query_block).start == row {
                self.last_queries.clear();
            }
            self.last_queries.extend_from_slice(query);
            if !self.keeps_on(query_block)? {
                return Ok(None);
            }
            Some(query_block)
        };
        let visible = blocks.visible_keys(row);
        let keys = |head: usize| -> Vec<usize> {
            let Some(query_block) = kept else { return visible.clone().collect() };
            let kept = self.record.mask.kept(head, query_block).iter();
            kept.flat_map(|&b| blocks.keys(b as usize)).filter(|key| visible.contains(key)).collect()
        };
        let head_dim = self.shape.head_dim;
        let mut output = vec![0.0; query.len()];
        let heads: Vec<_> = query.chunks(head_dim).zip(output.chunks_mut(head_dim)).map(Mutex::new).collect();
        let attend = |head: usize| {
            let (query, output) = &mut *heads[head].lock().unwrap_or_else(PoisonError::into_inner);
            attend_one(query, self.keys_values(head), &keys(head), output);
        };
        in_parallel(heads.len(), visible.len() * head_dim * heads.len(), attend);
        drop(heads);
        Tensor::of_rows(output, query.len()).map(Some)
    }

    /// Searches for the last query block, whose last query is new; returns whether its other queries attend to
    /// what they did before.
    fn keeps_on(&mut self, query_block: usize) -> Result<bool, Error> {
        let AttentionShape { blocks, n_heads, .. } = self.shape;
        let visible = blocks.visible(query_block);
        let all = |head: usize| visible.len() <= self.record.mask.budgets.top_k(head);
        if !(0..n_heads).all(all) {
            self.index()?;
        }
        let found: Vec<Mutex<Vec<u32>>> = (0..n_heads).map(|_| Mutex::new(Vec::new())).collect();
        let width = self.last_queries.len() / n_heads;
        in_parallel(n_heads, visible.len() * blocks.block_size_k * width, |head| {
            let row = self.found(head, query_block);
            *found[head].lock().unwrap_or_else(PoisonError::into_inner) = row;
        });
        let seen_before = |block: &&u32| {
            **block != BlockMask::NONE && blocks.keys(**block as usize).start < blocks.n_tokens - 1
        };
        let mut keeps_on = true;
        for (head, row) in found.into_iter().enumerate() {
            let row = row.into_inner().unwrap_or_else(PoisonError::into_inner);
            let at = self.record.mask.row(head, query_block);
            let before = &mut self.record.mask.kept[at];
            keeps_on &= before.iter().filter(seen_before).eq(row.iter().filter(seen_before));
            before.copy_from_slice(&row);
        }
        // The first query of a block has no others beside it.
        Ok(keeps_on || blocks.queries(query_block).start == blocks.n_tokens - 1)
    }

    /// Returns the blocks that a head keeps for the last query block.
    fn found(&self, head: usize, query_block: usize) -> Vec<u32> {
        let AttentionShape { blocks, n_heads, head_dim, .. } = self.shape;
        let mut row = vec![BlockMask::NONE; self.record.mask.budgets.top_k(head)];
        let visible = blocks.visible(query_block);
        if visible.len() <= row.len() {
            row.iter_mut().zip(visible).for_each(|(kept, block)| *kept = block as u32);
        } else {
            let rows = &self.last_queries[head * head_dim..];
            let queries = Queries::new(rows, n_heads * head_dim, head_dim, blocks.queries(query_block));
            self.find(head, query_block, &queries, &mut row);
        }
        row
    }
}

/// Calls `work` for every head, on several threads if its `cost` is worth it.
fn in_parallel(n_heads: usize, cost: usize, work: impl Fn(usize) + Sync) {
    if cost < WORTH {
        (0..n_heads).for_each(work);
    } else {
        (0..n_heads).into_par_iter().for_each(&work);
    }
}
