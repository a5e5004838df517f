//! One layer's attention on the CPU: keys, values and pyramids of every head, and the record, filled chunk by
//! chunk.

use std::{borrow::Cow, mem, time::Instant};

use rayon::prelude::*;

use super::{
    attend::{KeysValues, Recorded, dense, sparse, sparse_without},
    bf16::Bf16Rows,
    never::Never,
    parts::in_parts,
    proximity::Shares,
    queries::Queries,
    record::{gram, lengths},
    search::{
        attention_share::mean_masses,
        estimate::{Index, index},
        exhaustive,
        hierarchical::{self, Indexed},
    },
    sums::product,
    tensor::{Tensor, with_slice},
};
use crate::{
    engine::{
        device::{AttentionShape, Collect, Coming, LayerAttention, StageCosts},
        search::{Candidates, baseline, by_head::Survey, sample::Histogram, tree::Tree},
    },
    error::Error,
    protocol::Hidden,
    trace::{BlockMask, Blocks, Budgets, LayerRecord, Search},
};

/// Keys and values of the whole prompt, and what search and attention have found so far.
pub struct Layer {
    pub(super) shape: AttentionShape,
    /// Per key-value head. `[n_tokens, head_dim]`
    pub(super) keys: Vec<Vec<f32>>,
    pub(super) values: Vec<Vec<f32>>,
    /// The keys for the search, per key-value head; as many as there were when the layer was indexed.
    searched: Vec<Bf16Rows>,
    /// Per key-value head; empty unless the search is hierarchical.
    indices: Vec<Box<dyn Index>>,
    /// Tokens that the indices were made of.
    indexed: usize,
    /// Queries of the prompt's last query block, for the steps to come. `[n_queries, n_heads · head_dim]`
    pub(super) last_queries: Vec<f32>,
    /// ‖W_O v‖ of each key, for each query head; empty until they are weighed. `[n_tokens]`
    written: Vec<Vec<f32>>,
    /// Query blocks with the mean mass of their queries on each key block, by head.
    /// `[n_sampled]([n_heads][n_key_blocks])`
    pub(super) sampled: Vec<(usize, Vec<Vec<f32>>)>,
    /// Of each token its sentence and 1 / tokens of that sentence, 0 between sentences. `[n_tokens]`
    sentences: Vec<(u32, f32)>,
    /// `[n_heads, capacity]`
    pub(super) anchors: Vec<f32>,
    /// Of the rows that were attended last, if proximity is recorded.
    pub(super) shares: Vec<Shares>,
    /// Proximity of what stays in the residual stream; empty if proximity is not recorded. `[n_query_blocks]`
    pub(super) stays: Vec<f32>,
    /// Has room for as many tokens as the prompt may grow to.
    pub(super) record: LayerRecord,
    pub(super) costs: StageCosts,
}

impl Layer {
    pub fn new(shape: AttentionShape) -> Self {
        let n_tokens = shape.capacity;
        let n_heads = shape.n_heads;
        let mask = BlockMask::empty(Blocks { n_tokens, ..shape.blocks }, Budgets::uniform(n_heads, 0));
        let sentences = shape.token_sentences();
        let n_stays = if shape.records_proximity() { mask.blocks.n_query_blocks() } else { 0 };
        let empty = || (0..shape.n_kv_heads).map(|_| Vec::with_capacity(n_tokens * shape.head_dim)).collect();
        Layer {
            keys: empty(),
            values: empty(),
            searched: (0..shape.n_kv_heads).map(|_| Bf16Rows::new(shape.head_dim)).collect(),
            indices: Vec::new(),
            indexed: 0,
            last_queries: Vec::new(),
            written: Vec::new(),
            anchors: vec![0.0; if sentences.is_empty() { 0 } else { n_heads * n_tokens }],
            sentences,
            shares: Vec::new(),
            stays: vec![0.0; n_stays],
            sampled: Vec::new(),
            record: LayerRecord {
                mass: Vec::new(),
                proximity: Vec::new(),
                written: Vec::new(),
                residual: Vec::new(),
                vertical: Vec::new(),
                received: vec![0.0; n_heads * n_tokens],
                focus: Vec::new(),
                recall: Vec::new(),
                experts: Vec::new(),
                on_sink: vec![0.0; shape.sinks.len() * mask.blocks.n_query_blocks()],
                mask,
            },
            costs: StageCosts::default(),
            shape,
        }
    }
}

impl LayerAttention for Layer {
    type Tensor = Tensor;
    type Repeater = Never;

    fn append(&mut self, keys: &Tensor, values: &Tensor) -> Result<(), Error> {
        let head_dim = self.shape.head_dim;
        with_slice(keys, |rows| append(&mut self.keys, rows, head_dim))?;
        with_slice(values, |rows| append(&mut self.values, rows, head_dim))
    }

    fn resize(&mut self, n_rows: usize, n_tokens: usize) {
        let len = n_rows * self.shape.head_dim;
        self.keys.iter_mut().chain(&mut self.values).for_each(|rows| rows.truncate(len));
        self.searched.iter_mut().for_each(|rows| rows.truncate(n_rows));
        self.shape.blocks.n_tokens = n_tokens;
    }

    fn follow(&mut self, repeater: Option<&Never>) {
        if let Some(repeater) = repeater {
            match *repeater {}
        }
    }

    fn gather(&mut self) -> Result<(), Error> {
        let Some(peers) = self.shape.parts.peers() else { return Ok(()) };
        let own: Vec<u8> =
            self.keys.iter().chain(&self.values).flatten().flat_map(|number| number.to_le_bytes()).collect();
        let mut heads: Vec<&mut Vec<f32>> = self.keys.iter_mut().chain(&mut self.values).collect();
        heads.iter_mut().for_each(|head| head.clear());
        for rows in peers.star.gather(&own)? {
            let n = rows.len() / heads.len();
            for (head, rows) in heads.iter_mut().zip(rows.chunks(n.max(1))) {
                head.extend(rows.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])));
            }
        }
        Ok(())
    }

    /// Takes over new keys for the search, and builds the estimates of ranges of them, unless those built
    /// before still serve.
    fn index(&mut self) -> Result<(), Error> {
        self.take_over_keys();
        let head_dim = self.shape.head_dim;
        if let Search::Hierarchical(estimate) = self.shape.config.search
            && !self.shape.is_indexed(self.indexed)
        {
            let tree = Tree::new(&self.shape.blocks);
            self.indices = self.keys.par_iter().map(|keys| index(estimate, keys, head_dim, tree)).collect();
            self.indexed = self.shape.blocks.n_tokens;
        }
        Ok(())
    }

    fn sample(&mut self, queries: &Tensor, query_blocks: &[usize]) -> Result<(), Error> {
        self.take_over_keys();
        let AttentionShape { blocks, soft_cap, .. } = self.shape;
        let mut first_row = 0;
        for &query_block in query_blocks {
            let n_rows = blocks.queries(query_block).len();
            let rows = queries.numbers()?.narrow(0, first_row, n_rows)?.into();
            first_row += n_rows;
            let masses = self.for_each_block(&rows, query_block, |head, query_block, queries| {
                mean_masses(queries, &self.searched[self.shape.kv_head(head)], &blocks, query_block, soft_cap)
            })?;
            // A prompt that is still shorter than a query block is sampled again when it grows.
            self.sampled.retain(|(sampled, _)| *sampled < query_block);
            self.sampled.push((query_block, masses.into_iter().map(|(_, _, masses)| masses).collect()));
        }
        Ok(())
    }

    fn survey(&mut self) -> Result<Coming<Survey>, Error> {
        let AttentionShape { blocks, config, n_heads, .. } = &self.shape;
        let histogram = |(query_block, masses): &(usize, Vec<Vec<f32>>), head: usize| {
            let Candidates { candidates, .. } = Candidates::new(blocks, config, *query_block, 0);
            Histogram::of(&masses[head], candidates)
        };
        let heads = (0..*n_heads).into_par_iter();
        let survey = Survey {
            sample: self.sampled.iter().map(|(query_block, _)| *query_block).collect(),
            heads: heads
                .map(|head| self.sampled.iter().map(|block| histogram(block, head)).collect())
                .collect(),
        };
        Ok(Box::new(|| Ok(survey)))
    }

    fn share_out(&mut self, budgets: Budgets) -> Result<(), Error> {
        let shape = &self.shape;
        let mask = BlockMask::empty(self.record.mask.blocks, budgets);
        self.record.mass = vec![0.0; mask.kept.len()];
        self.record.proximity = vec![0.0; if shape.records_proximity() { mask.kept.len() } else { 0 }];
        self.record.focus = vec![0.0; shape.focus.len() * mask.budgets.sum() * shape.blocks.block_size_k];
        self.record.mask = mask;
        Ok(())
    }

    fn weigh(&mut self, weight: &Tensor) -> Result<(), Error> {
        let AttentionShape { n_heads, head_dim, .. } = self.shape;
        let lengths = |weight: &[f32], head: usize| {
            let gram = gram(weight, n_heads * head_dim, head * head_dim, head_dim);
            lengths(&gram, &self.values[self.shape.kv_head(head)], head_dim)
        };
        self.written = with_slice(weight, |weight| {
            (0..n_heads).into_par_iter().map(|head| lengths(weight, head)).collect()
        })?;
        Ok(())
    }

    fn measure(&mut self, hidden: &Tensor) -> Result<(), Error> {
        let width = hidden.numbers()?.dims2()?.1;
        let lengths: Vec<f32> =
            with_slice(hidden, |rows| rows.par_chunks(width).map(|row| product(row, row).sqrt()).collect())?;
        self.record.residual.extend(self.shape.means_of_query_blocks(&lengths));
        Ok(())
    }

    fn search(&mut self, queries: &Tensor, first_query_block: usize) -> Result<(), Error> {
        self.remember(queries, first_query_block)?;
        let start = Instant::now();
        let found = self.for_each_block(queries, first_query_block, |head, query_block, queries| {
            let mut row = vec![BlockMask::NONE; self.record.mask.budgets.top_k(head)];
            let n_read = self.find(head, query_block, queries, &mut row);
            (row, n_read as u64)
        })?;
        let mut n_read = 0;
        for (head, query_block, (row, n)) in found {
            let at = self.record.mask.row(head, query_block);
            self.record.mask.kept[at].copy_from_slice(&row);
            n_read += n;
        }
        self.costs +=
            StageCosts { search: start.elapsed(), keys_read: Some(n_read), ..StageCosts::default() };
        Ok(())
    }

    fn attend(&mut self, queries: &Tensor, first_query_block: usize) -> Result<Tensor, Error> {
        let start = Instant::now();
        let shape = &self.shape;
        let mask = &self.record.mask;
        let recorded = Recorded { focus: shape.focus, sentences: &self.sentences };
        let attended = self.for_each_block(queries, first_query_block, |head, query_block, queries| {
            let all = self.attended(mask, head, query_block);
            sparse(queries, self.keys_values(head), &shape.blocks, query_block, &all, recorded)
        })?;
        let mut outputs = Vec::with_capacity(attended.len());
        self.shares.clear();
        for (head, query_block, mut block) in attended {
            outputs.push(mem::take(&mut block.output));
            let block = self.note(head, query_block, block);
            if self.shape.records_proximity() {
                self.shares.push((head, query_block, block.received));
            }
        }
        let output = self.in_rows(&outputs);
        self.costs += StageCosts { attention: start.elapsed(), ..StageCosts::default() };
        output
    }

    fn proximity(
        &mut self,
        weight: &Tensor,
        before: &Tensor,
        after: &Tensor,
        first_query_block: usize,
    ) -> Result<(), Error> {
        with_slice(weight, |weight| {
            with_slice(before, |before| {
                with_slice(after, |after| self.add_proximity(weight, before, after, first_query_block))
            })
        })??
    }

    fn keep(&mut self, mask: BlockMask) -> Result<(), Error> {
        self.record.mask = mask;
        Ok(())
    }

    fn attend_without(
        &mut self,
        queries: &Tensor,
        first_query_block: usize,
        hidden: &Hidden,
    ) -> Result<Tensor, Error> {
        let blocks = self.shape.blocks;
        let attended = self.for_each_block(queries, first_query_block, |head, query_block, queries| {
            let hidden = hidden.of(head, blocks.queries(query_block).into());
            let all = self.attended(&self.record.mask, head, query_block);
            sparse_without(queries, self.keys_values(head), &blocks, query_block, &all, &hidden)
        })?;
        self.in_rows(&attended.into_iter().map(|(_, _, output)| output).collect::<Vec<_>>())
    }

    fn step(&mut self, query: &Tensor, dense: bool) -> Result<Option<Tensor>, Error> {
        with_slice(query, |query| self.attend_last(query, dense))?
    }

    fn attend_dense(
        &mut self,
        queries: &Tensor,
        first_query_block: usize,
        measured: Option<(&BlockMask, &mut [f64])>,
    ) -> Result<Tensor, Error> {
        let (mask, mut kept_mass) = measured.unzip();
        let attended = self.for_each_block(queries, first_query_block, |head, query_block, queries| {
            let kept = mask.map_or(&[][..], |mask| mask.kept(head, query_block));
            dense(queries, self.keys_values(head), &self.shape.blocks, query_block, kept)
        })?;
        let mut outputs = Vec::with_capacity(attended.len());
        for (head, _, (output, mass)) in attended {
            outputs.push(output);
            if let Some(kept_mass) = &mut kept_mass {
                kept_mass[head] += mass;
            }
        }
        self.in_rows(&outputs)
    }

    fn into_record(self) -> Result<impl Collect + 'static, Error> {
        let written = self.shape.written(&self.written.concat(), &self.record.received);
        let recall = self.recall();
        let proximity = self.shape.shares_of_update(&self.record.mask, self.record.proximity, &self.stays);
        let vertical = self.shape.vertical(&self.anchors);
        let record = LayerRecord { written, proximity, recall, vertical, ..self.record };
        let record = record.of_query_blocks(self.shape.own_query_blocks());
        let costs = self.costs;
        Ok(move || Ok((record, costs)))
    }
}

impl Layer {
    /// Returns the key blocks that a query block attends to: those that it keeps, or in an exact run all.
    pub(super) fn attended<'a>(
        &self,
        mask: &'a BlockMask,
        head: usize,
        query_block: usize,
    ) -> Cow<'a, [u32]> {
        match self.shape.config.exact {
            true => self.shape.blocks.visible(query_block).map(|block| block as u32).collect(),
            false => mask.kept(head, query_block).into(),
        }
    }

    /// Writes the blocks that a query block of a head keeps; returns the number of keys or nodes read.
    pub(super) fn find(&self, head: usize, query_block: usize, queries: &Queries, row: &mut [u32]) -> usize {
        let AttentionShape { blocks, config, .. } = &self.shape;
        let kv_head = self.shape.kv_head(head);
        let keys = &self.searched[kv_head];
        match config.search {
            Search::Hierarchical(_) if query_block < config.first_exact_block(blocks.n_tokens) => {
                let head = Indexed { keys, index: &*self.indices[kv_head] };
                hierarchical::search(queries, head, blocks, config, query_block, row)
            }
            Search::Hierarchical(_) | Search::Exhaustive => {
                exhaustive::search(queries, keys, blocks, config, query_block, row)
            }
            Search::Window => baseline::window(blocks, config, query_block, row),
            Search::Random { seed } => baseline::random(seed, blocks, config, head, query_block, row),
        }
    }

    /// A head's value of a key. `[head_dim]`
    pub(super) fn value(&self, head: usize, key: usize) -> &[f32] {
        &self.values[self.shape.kv_head(head)][key * self.shape.head_dim..][..self.shape.head_dim]
    }

    pub(super) fn keys_values(&self, head: usize) -> KeysValues<'_> {
        let kv_head = self.shape.kv_head(head);
        let AttentionShape { head_dim, soft_cap, ref sinks, .. } = self.shape;
        let sink = sinks.get(head).copied();
        KeysValues { keys: &self.keys[kv_head], values: &self.values[kv_head], head_dim, soft_cap, sink }
    }

    /// Runs `work` for every head and query block of the rows, in parallel, and returns the results in order.
    fn for_each_block<R: Send>(
        &self,
        rows: &Tensor,
        first_query_block: usize,
        work: impl Fn(usize, usize, &Queries) -> R + Sync,
    ) -> Result<Vec<(usize, usize, R)>, Error> {
        let AttentionShape { blocks, n_heads, head_dim, .. } = self.shape;
        let stride = n_heads * head_dim;
        let query_blocks = self.shape.query_blocks(first_query_block, rows.numbers()?.elem_count() / stride);
        let first_position = blocks.queries(first_query_block).start;
        // All heads of a query block follow one another: its rows are still in the cache.
        let tasks: Vec<_> = query_blocks.flat_map(|q| (0..n_heads).map(move |head| (head, q))).collect();
        let run = |rows: &[f32], head, query_block| {
            let positions = blocks.queries(query_block);
            let start = (positions.start - first_position) * stride + head * head_dim;
            let queries = Queries::new(&rows[start..], stride, head_dim, positions);
            (head, query_block, work(head, query_block, &queries))
        };
        with_slice(rows, |rows| {
            tasks.into_par_iter().map(|(head, query_block)| run(rows, head, query_block)).collect()
        })
    }

    /// Rounds the keys that are new to bf16, for the search.
    fn take_over_keys(&mut self) {
        let head_dim = self.shape.head_dim;
        let heads = self.keys.par_iter().zip(&mut self.searched);
        heads.for_each(|(keys, searched)| searched.extend(&keys[searched.n_rows() * head_dim..]));
    }

    /// Brings outputs `[n_queries, head_dim]`, those of a query block head by head, into rows.
    /// `[n_rows, n_heads · head_dim]`
    fn in_rows(&self, outputs: &[Vec<f32>]) -> Result<Tensor, Error> {
        let AttentionShape { blocks, n_heads, head_dim, .. } = self.shape;
        let width = n_heads * head_dim;
        let n = outputs.iter().map(Vec::len).sum();
        let of_block = blocks.block_size_q * width;
        let rows = in_parts(n, of_block, |at, rows| {
            let heads = &outputs[at.start / of_block * n_heads..][..n_heads];
            for (i, row) in rows.chunks_mut(width).enumerate() {
                let heads = heads.iter().map(|head| &head[i * head_dim..][..head_dim]);
                row.chunks_mut(head_dim).zip(heads).for_each(|(to, head)| to.copy_from_slice(head));
            }
        });
        Tensor::of_rows(rows, width)
    }
}

fn append(heads: &mut [Vec<f32>], rows: &[f32], head_dim: usize) {
    let width = head_dim * heads.len();
    let of_head = |head: usize| rows.chunks(width).map(move |row| &row[head * head_dim..][..head_dim]);
    heads
        .par_iter_mut()
        .enumerate()
        .for_each(|(head, to)| of_head(head).for_each(|row| to.extend_from_slice(row)));
}
