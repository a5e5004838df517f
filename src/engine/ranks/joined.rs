//! The record of a layer, joined from those of the ranks in the order of their rows.

use std::ops::Range;

use rayon::prelude::*;

use crate::{
    engine::{peers::query_blocks, search::sample::sampled},
    error::Error,
    trace::{BlockMask, Blocks, Budgets, LayerRecord, StreamConfig},
};

impl BlockMask {
    /// Returns the rows of some query blocks.
    pub fn kept_of(&self, own: Range<usize>) -> Vec<u32> {
        of_query_blocks(&self.kept, &self.budgets, &self.blocks, own)
    }
}

impl LayerRecord {
    /// Returns the record with what is by query block cut to some query blocks; all the rest stays.
    pub fn of_query_blocks(self, own: Range<usize>) -> Self {
        let (blocks, budgets) = (self.mask.blocks, &self.mask.budgets);
        if own == (0..blocks.n_query_blocks()) {
            return self;
        }
        let one_each = Budgets::uniform(budgets.n_heads(), 1);
        let cut = |array: &[f32], widths: &Budgets| of_query_blocks(array, widths, &blocks, own.clone());
        LayerRecord {
            mass: cut(&self.mass, budgets),
            proximity: cut(&self.proximity, budgets),
            on_sink: cut(&self.on_sink, &one_each),
            mask: BlockMask { blocks, kept: self.mask.kept_of(own), budgets: budgets.clone() },
            ..self
        }
    }
}

/// Returns the rows of some query blocks, head by head, as wide as `widths` says; of what was not recorded, nothing.
fn of_query_blocks<T: Copy>(array: &[T], widths: &Budgets, blocks: &Blocks, own: Range<usize>) -> Vec<T> {
    let n = blocks.n_query_blocks();
    let of_head = |head| &array[widths.row(head, own.start, n).start..widths.row(head, own.end - 1, n).end];
    if array.is_empty() { Vec::new() } else { (0..widths.n_heads()).flat_map(of_head).copied().collect() }
}

/// Joins the records of all ranks, by rank, whose rows are `rows`.
///
/// # Errors
/// [`Error::Engine`] when they do not belong together.
pub fn joined(
    records: &[LayerRecord],
    rows: &[Range<usize>],
    config: &StreamConfig,
) -> Result<LayerRecord, Error> {
    let (blocks, budgets) = (records[0].mask.blocks, records[0].mask.budgets.clone());
    if records.iter().any(|record| record.mask.budgets != budgets) {
        return Err(Error::engine("ranks chose other budgets than each other", "please report this"));
    }
    let n_rows: Vec<usize> = rows.iter().map(|rows| query_blocks(&blocks, rows).len()).collect();
    let n_heads = budgets.n_heads();
    let by_budget = |arrays: &[&[f32]]| by_head(arrays, &n_rows, n_heads, |head| budgets.top_k(head));
    let all = |array: fn(&LayerRecord) -> &Vec<f32>| -> Vec<&[f32]> {
        records.iter().map(|record| array(record).as_slice()).collect()
    };
    let kept: Vec<&[u32]> = records.iter().map(|record| record.mask.kept.as_slice()).collect();
    let kept = by_head(&kept, &n_rows, n_heads, |head| budgets.top_k(head));
    let mut record = LayerRecord {
        mass: by_budget(&all(|record| &record.mass)),
        received: summed(&all(|record| &record.received)),
        focus: summed(&all(|record| &record.focus)),
        written: written(records, &blocks),
        residual: all(|record| &record.residual).concat(),
        proximity: by_budget(&all(|record| &record.proximity)),
        vertical: summed(&all(|record| &record.vertical)),
        recall: recall(records, rows, &blocks, config),
        on_sink: by_head(&all(|record| &record.on_sink), &n_rows, n_heads, |_| 1),
        experts: records.iter().flat_map(|record| &record.experts).copied().collect(),
        mask: BlockMask { blocks, budgets: budgets.clone(), kept },
    };
    if config.exact {
        record.recall = record.share_on_kept();
    }
    Ok(record)
}

/// Joins arrays of head after head, each of `n_rows` rows of a head's width; nothing if it was not recorded.
fn by_head<T: Copy + Default + Send + Sync>(
    arrays: &[&[T]],
    n_rows: &[usize],
    n_heads: usize,
    width: impl Fn(usize) -> usize,
) -> Vec<T> {
    if arrays.iter().all(|array| array.is_empty()) {
        return Vec::new();
    }
    let mut out = vec![T::default(); arrays.iter().map(|array| array.len()).sum()];
    let (mut rest, mut places, mut copies) = (arrays.to_vec(), out.as_mut_slice(), Vec::new());
    for head in 0..n_heads {
        for (rest, n_rows) in rest.iter_mut().zip(n_rows) {
            let (of_head, after) = rest.split_at(n_rows * width(head));
            let place = places.split_off_mut(..of_head.len()).expect("a place for each row");
            copies.push((place, of_head));
            *rest = after;
        }
    }
    copies.into_par_iter().for_each(|(place, of_head)| place.copy_from_slice(of_head));
    out
}

/// Sums arrays of one length, in their order.
fn summed(arrays: &[&[f32]]) -> Vec<f32> {
    let mut sum = arrays[0].to_vec();
    for array in &arrays[1..] {
        sum.par_iter_mut().zip(array.par_iter()).for_each(|(sum, x)| *sum += x);
    }
    sum
}

/// Means over the keys of each block, weighted by what they received from all ranks.
fn written(records: &[LayerRecord], blocks: &Blocks) -> Vec<f32> {
    if records[0].written.is_empty() {
        return Vec::new();
    }
    let n_key_blocks = blocks.n_key_blocks();
    let mean = |i: usize| {
        let (head, block) = (i / n_key_blocks, i % n_key_blocks);
        let start = head * blocks.n_tokens + block * blocks.block_size_k;
        let end = (head * blocks.n_tokens + blocks.n_tokens).min(start + blocks.block_size_k);
        // As for one rank: keys that nobody looks at count a little.
        let weight =
            |record: &LayerRecord| record.received[start..end].iter().map(|mass| mass + 1e-9).sum::<f32>();
        let sum: f32 = records.iter().map(|record| record.written[i] * weight(record)).sum();
        sum / records.iter().map(weight).sum::<f32>()
    };
    (0..records[0].written.len()).into_par_iter().map(mean).collect()
}

/// Means over the sampled query blocks of all ranks.
fn recall(
    records: &[LayerRecord],
    rows: &[Range<usize>],
    blocks: &Blocks,
    config: &StreamConfig,
) -> Vec<f32> {
    let sample = sampled(blocks, config);
    let n_of = |rows: &Range<usize>| {
        let own = query_blocks(blocks, rows);
        sample.iter().filter(|block| own.contains(block)).count() as f32
    };
    let parts: Vec<(&[f32], f32)> =
        records.iter().zip(rows).map(|(record, rows)| (record.recall.as_slice(), n_of(rows))).collect();
    let parts: Vec<_> = parts.into_iter().filter(|(recall, n)| *n > 0.0 && !recall.is_empty()).collect();
    let n: f32 = parts.iter().map(|(_, n)| n).sum();
    let n_heads = parts.first().map_or(0, |(recall, _)| recall.len());
    (0..n_heads).map(|head| parts.iter().map(|(recall, n)| recall[head] * n).sum::<f32>() / n).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        engine::ranks::PartRecord,
        trace::{Blocks, Budgets},
    };

    /// A record whose numbers all differ.
    fn record() -> LayerRecord {
        let blocks = Blocks { n_tokens: 150, block_size_q: 32, block_size_k: 8, window: None };
        let (budgets, n_heads) = (Budgets::new(vec![2, 3]), 2);
        let n_kept = blocks.n_query_blocks() * budgets.sum();
        let numbers = |n: usize, start: usize| (start..start + n).map(|i| i as f32).collect::<Vec<_>>();
        LayerRecord {
            mask: BlockMask { blocks, budgets, kept: (0..n_kept as u32).collect() },
            mass: numbers(n_kept, 1000),
            received: numbers(n_heads * blocks.n_tokens, 2000),
            focus: numbers(32, 3000),
            written: numbers(n_heads * blocks.n_key_blocks(), 4000),
            residual: numbers(blocks.n_query_blocks(), 5000),
            proximity: numbers(n_kept, 6000),
            vertical: numbers(4, 7000),
            recall: vec![0.5, 0.75],
            on_sink: numbers(n_heads * blocks.n_query_blocks(), 8000),
            experts: (0..300).collect(),
        }
    }

    #[test]
    fn parts_travel_and_are_joined() {
        let whole = record();
        let blocks = whole.mask.blocks;
        let rows = [0..64, 64..150];
        let parts = rows.clone().map(|rows| {
            let own = query_blocks(&blocks, &rows);
            let first = rows.start == 0;
            // The first rank's queries gave all mass, the second's none: sums are known.
            let or_zero = |array: &[f32]| if first { array.to_vec() } else { vec![0.0; array.len()] };
            let part = LayerRecord {
                received: or_zero(&whole.received),
                focus: or_zero(&whole.focus),
                vertical: or_zero(&whole.vertical),
                residual: whole.residual[own.clone()].to_vec(),
                experts: whole.experts[2 * rows.start..2 * rows.end].to_vec(),
                ..whole.clone().of_query_blocks(own)
            };
            let (sent, mut bytes) =
                (PartRecord { layer: 3, record: part, costs: Default::default() }, Vec::new());
            sent.write_arrays(&mut bytes).unwrap();
            let arrived = |bytes: &[u8]| PartRecord::read(sent.header(), &mut &*bytes, blocks);
            assert!(arrived(&bytes[..bytes.len() - 1]).is_err());
            arrived(&bytes).unwrap().record
        });
        let config = StreamConfig { sample: 64, ..StreamConfig::default() };
        let joined = joined(&parts, &rows, &config).unwrap();
        let near = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-3 * b.abs());
        assert!(near(&joined.written, &whole.written) && near(&joined.recall, &whole.recall));
        assert_eq!(
            LayerRecord { written: whole.written.clone(), recall: whole.recall.clone(), ..joined },
            whole
        );
    }

    #[test]
    fn other_budgets_are_an_error() {
        let (a, mut b) = (record(), record());
        b.mask.budgets = Budgets::new(vec![3, 2]);
        assert!(joined(&[a, b], &[0..64, 64..150], &StreamConfig::default()).is_err());
    }
}
