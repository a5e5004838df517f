//! Rows of activations in groups of 32 codes of 8 bits, for products with weights in blocks.

use crate::engine::cpu::lanes::vectorized;

/// Rows in groups of 32 numbers, `scale · code` each.
pub struct Rows {
    pub n_rows: usize,
    /// Groups of a row.
    pub n_groups: usize,
    /// `[n_rows, n_groups]`, as everything below.
    pub codes: Vec<[i16; 32]>,
    pub scales: Vec<f32>,
    /// The sum of each half's numbers.
    pub sums: Vec<[f32; 2]>,
}

impl Rows {
    /// Rounds rows of `width` numbers, a multiple of 32, to 127 steps between 0 and the largest of their
    /// group. A group with a number that is not finite becomes NaN.
    pub fn new(x: &[f32], width: usize) -> Self {
        let groups = x.as_chunks().0;
        let mut rows = Rows {
            n_rows: x.len() / width,
            n_groups: width / 32,
            codes: vec![[0; 32]; groups.len()],
            scales: vec![0.0; groups.len()],
            sums: vec![[0.0; 2]; groups.len()],
        };
        vectorized(
            #[inline(always)]
            || {
                for (i, group) in groups.iter().enumerate() {
                    (rows.scales[i], rows.sums[i]) = round(group, &mut rows.codes[i]);
                }
            },
        );
        rows
    }

    /// The groups of a row, each with its codes, scale and sums.
    #[inline(always)]
    pub fn row(&self, row: usize) -> (&[[i16; 32]], &[f32], &[[f32; 2]]) {
        let groups = row * self.n_groups..(row + 1) * self.n_groups;
        (&self.codes[groups.clone()], &self.scales[groups.clone()], &self.sums[groups])
    }
}

/// 1.5 · 2²³: adding it leaves the rounded integer in the low bits.
const ROUND: f32 = 12_582_912.0;

/// Writes the codes of a group; returns its scale, and the sum of the numbers that each half's codes stand for.
#[inline(always)]
fn round(numbers: &[f32; 32], codes: &mut [i16; 32]) -> (f32, [f32; 2]) {
    let mut most = [0.0f32; 8];
    let mut lost = 0.0;
    for (i, x) in numbers.iter().enumerate() {
        most[i % 8] = most[i % 8].max(x.abs());
        // NaN for an infinity or a NaN, which a maximum passes over.
        lost += x * 0.0;
    }
    let most = most.iter().fold(0.0, |most: f32, &x| most.max(x));
    let scale = most / 127.0 + lost;
    // Beyond, 127 steps are too many to count.
    let steps = if most < 1e-36 { 0.0 } else { 127.0 / most };
    let mut sums = [0; 2];
    for (i, x) in numbers.iter().enumerate() {
        codes[i] = ((x * steps + ROUND).to_bits() as i32 - ROUND.to_bits() as i32) as i16;
        sums[i / 16] += i32::from(codes[i]);
    }
    (scale, sums.map(|sum| scale * sum as f32))
}
