//! Query blocks whose attention is read exactly, and what their masses say.

use std::ops::Range;

use crate::trace::{Blocks, StreamConfig};

/// Returns `n` of `n_blocks` blocks, evenly spread: the middle one of each of `n` equal stretches; all if there are fewer.
pub fn spread(n_blocks: usize, n: usize) -> Vec<usize> {
    let n = n.min(n_blocks);
    (0..n).map(|i| (2 * i + 1) * n_blocks / (2 * n)).collect()
}

/// Returns the query blocks that a run samples.
pub fn sampled(blocks: &Blocks, config: &StreamConfig) -> Vec<usize> {
    let n = config.sample.div_ceil(blocks.block_size_q).min(blocks.n_query_blocks().div_ceil(8));
    spread(blocks.n_query_blocks(), n)
}

/// Masses of one query block on the key blocks that compete: how many have about the same, by powers of 2^-1/4.
#[derive(Clone, Debug, PartialEq)]
pub struct Histogram {
    /// Of the largest masses first.
    pub counts: [u32; Histogram::BINS],
    /// Sum of the masses in each bin.
    pub masses: [f32; Histogram::BINS],
}

impl Histogram {
    pub const BINS: usize = 128;

    /// Counts the masses of some key blocks, `[n_key_blocks]`.
    pub fn of(masses: &[f32], candidates: Range<usize>) -> Self {
        let mut histogram = Histogram { counts: [0; Self::BINS], masses: [0.0; Self::BINS] };
        for &mass in &masses[candidates] {
            let bin = ((-mass.log2() * 4.0).max(0.0) as usize).min(Self::BINS - 1);
            histogram.counts[bin] += 1;
            histogram.masses[bin] += mass;
        }
        histogram
    }

    /// Returns the mass outside the `n` key blocks that have most, for ascending `n`.
    pub fn missing(&self, ns: &[usize]) -> impl Iterator<Item = f64> {
        let mut bins = self.counts.iter().zip(&self.masses).filter(|(count, _)| **count > 0);
        let mut left: f64 = self.masses.iter().map(|&mass| f64::from(mass)).sum();
        let (mut taken, mut here, mut each) = (0, 0, 0.0);
        ns.iter().map(move |&n| {
            while taken < n {
                if here == 0 {
                    let Some((&count, &mass)) = bins.next() else { return 0.0 };
                    (here, each) = (count as usize, f64::from(mass) / f64::from(count));
                }
                let more = here.min(n - taken);
                (taken, here, left) = (taken + more, here - more, left - more as f64 * each);
            }
            left.max(0.0)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_spread_over_all_blocks() {
        assert_eq!(spread(10, 1), [5]);
        assert_eq!(spread(10, 5), [1, 3, 5, 7, 9]);
        assert_eq!(spread(3, 99), [0, 1, 2]);
        assert!(
            (1..40)
                .all(|n| spread(40, n).windows(2).all(|pair| pair[0] < pair[1]) && spread(40, n).len() == n)
        );
    }

    #[test]
    fn what_is_missing_is_the_smallest_masses() {
        let masses = [0.4, 0.01, 0.2, 0.05, 0.1, 0.0, 0.03];
        let found: Vec<f64> = Histogram::of(&masses, 1..7).missing(&[0, 1, 2, 3, 4, 5, 6, 9]).collect();
        let expected = [0.39, 0.19, 0.09, 0.04, 0.01, 0.0, 0.0, 0.0];
        assert!(found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6), "{found:?}");
    }
}
