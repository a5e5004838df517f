//! Vector arithmetic (SIMD) on 32 queries side by side, for the search and the attention on the CPU.
//!
//! Queries lie transposed, one dimension after the other, so that one key is multiplied with 32 queries at
//! once and key rows are read where they are, in any order, without gathering. The instructions are chosen at
//! run time (AVX-512, AVX2, NEON). The two products are written with explicit vectors: left to itself the
//! compiler packs rows, not lanes.

use std::{array, cell::Cell};

use pulp::{Simd, WithSimd};

/// Queries that are worked on together.
pub const LANES: usize = 32;

/// Dimensions that are multiplied between two checks of bounds.
const DIMS: usize = 8;

/// One number for each of 32 queries.
pub type Lanes = [f32; LANES];

/// Runs loops over lanes compiled for the best instruction set that the processor has.
#[inline(always)]
pub fn vectorized<R>(work: impl FnOnce() -> R) -> R {
    pulp::Arch::new().dispatch(work)
}

/// Lends `n` lanes of memory that the thread keeps for the next time, with whatever they last held.
pub fn lend<R>(n: usize, work: impl FnOnce(&mut [Lanes]) -> R) -> R {
    thread_local!(static KEPT: Cell<Vec<Lanes>> = const { Cell::new(Vec::new()) });
    let mut lanes = KEPT.take();
    if lanes.len() < n {
        lanes.resize(n, [0.0; LANES]);
    }
    let result = work(&mut lanes[..n]);
    KEPT.set(lanes);
    result
}

/// Transposes up to 32 rows of `[head_dim]` that lie `stride` apart; missing lanes repeat the last row, so
/// that a maximum over lanes is a maximum over queries. `[head_dim][LANES]`
pub fn panel(rows: &[f32], stride: usize, n_rows: usize, head_dim: usize) -> Vec<Lanes> {
    let mut panel = vec![[0.0; LANES]; head_dim];
    // Four rows at a time: what is written lies side by side.
    for first in (0..LANES).step_by(4) {
        let row = |lane: usize| &rows[lane.min(n_rows - 1) * stride..][..head_dim];
        let [a, b, c, d] = [0, 1, 2, 3].map(|i| row(first + i));
        for ((((dim, a), b), c), d) in panel.iter_mut().zip(a).zip(b).zip(c).zip(d) {
            dim[first..first + 4].copy_from_slice(&[*a, *b, *c, *d]);
        }
    }
    panel
}

/// Products of each row with all lanes: `out[i] = Σ_d row(i)[d] · panel[d]`.
pub fn products<'a>(panel: &[Lanes], row: impl Fn(usize) -> &'a [f32], out: &mut [Lanes]) {
    pulp::Arch::new().dispatch(Best(Products { panel, row, out }));
}

/// Adds weighted value rows: `out[d] += Σ_i row(i)[d] · weights[i]`, `out` is `[head_dim][LANES]`.
pub fn add_weighted<'a>(out: &mut [Lanes], weights: &[Lanes], row: impl Fn(usize) -> &'a [f32]) {
    pulp::Arch::new().dispatch(Best(AddWeighted { out, weights, row }));
}

/// Work on lanes that are `V` vectors of an instruction set.
pub(super) trait Instructions {
    fn run<S: Simd, const V: usize>(self, simd: S);
}

/// Runs them with the processor's best instruction set.
pub(super) struct Best<I>(pub I);

impl<I: Instructions> WithSimd for Best<I> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        match LANES / S::F32_LANES {
            2 => self.0.run::<S, 2>(simd),
            4 => self.0.run::<S, 4>(simd),
            8 => self.0.run::<S, 8>(simd),
            _ => self.0.run::<S, LANES>(simd),
        }
    }
}

pub(super) struct Products<'p, R> {
    pub panel: &'p [Lanes],
    pub row: R,
    pub out: &'p mut [Lanes],
}

impl<'a, R: Fn(usize) -> &'a [f32]> Instructions for Products<'_, R> {
    #[inline(always)]
    fn run<S: Simd, const V: usize>(self, simd: S) {
        match V {
            2 => self.together::<S, V, 8>(simd),
            _ => self.together::<S, V, 4>(simd),
        }
    }
}

impl<'a, R: Fn(usize) -> &'a [f32]> Products<'_, R> {
    /// Multiplies `N` rows together: enough independent sums to fill the pipelines, few enough to stay in registers.
    #[inline(always)]
    fn together<S: Simd, const V: usize, const N: usize>(self, simd: S) {
        let Products { panel, row, out } = self;
        let row = |i: usize| &row(i)[..panel.len()];
        let (groups, rest) = out.as_chunks_mut::<N>();
        let n_grouped = groups.len() * N;
        for (group, sums) in groups.iter_mut().enumerate() {
            *sums = products_of::<S, V, N>(simd, panel, array::from_fn(|i| row(group * N + i)));
        }
        for (i, sum) in rest.iter_mut().enumerate() {
            [*sum] = products_of::<S, V, 1>(simd, panel, [row(n_grouped + i)]);
        }
    }
}

#[inline(always)]
fn products_of<S: Simd, const V: usize, const N: usize>(
    simd: S,
    panel: &[Lanes],
    rows: [&[f32]; N],
) -> [Lanes; N] {
    let mut sums = [[simd.splat_f32s(0.0); V]; N];
    let (groups, rest) = panel.as_chunks::<DIMS>();
    let of_groups = rows.map(|row| row.as_chunks::<DIMS>().0);
    for (g, group) in groups.iter().enumerate() {
        let numbers: [&[f32; DIMS]; N] = array::from_fn(|i| &of_groups[i][g]);
        for d in 0..DIMS {
            let queries = vectors::<S, V>(&group[d]);
            for i in 0..N {
                fused_add(simd, &mut sums[i], numbers[i][d], &queries);
            }
        }
    }
    for (d, queries) in panel.iter().enumerate().skip(panel.len() - rest.len()) {
        let queries = vectors::<S, V>(queries);
        for i in 0..N {
            fused_add(simd, &mut sums[i], rows[i][d], &queries);
        }
    }
    sums.map(lanes::<S, V>)
}

struct AddWeighted<'p, R> {
    out: &'p mut [Lanes],
    weights: &'p [Lanes],
    row: R,
}

impl<'a, R: Fn(usize) -> &'a [f32]> Instructions for AddWeighted<'_, R> {
    #[inline(always)]
    fn run<S: Simd, const V: usize>(self, simd: S) {
        match V {
            2 => self.together::<S, V, 8>(simd),
            _ => self.together::<S, V, 4>(simd),
        }
    }
}

impl<'a, R: Fn(usize) -> &'a [f32]> AddWeighted<'_, R> {
    /// Adds to `N` sums together, as of products.
    #[inline(always)]
    fn together<S: Simd, const V: usize, const N: usize>(self, simd: S) {
        let AddWeighted { out, weights, row } = self;
        let (groups, rest) = out.as_chunks_mut::<N>();
        let n_grouped = groups.len() * N;
        for (group, sums) in groups.iter_mut().enumerate() {
            add_weighted_to::<S, V, N>(simd, sums, weights, |i| row(i)[group * N..].first_chunk());
        }
        for (d, sum) in rest.iter_mut().enumerate() {
            let one = std::array::from_mut(sum);
            add_weighted_to::<S, V, 1>(simd, one, weights, |i| row(i)[n_grouped + d..].first_chunk());
        }
    }
}

#[inline(always)]
fn add_weighted_to<'a, S: Simd, const V: usize, const N: usize>(
    simd: S,
    out: &mut [Lanes; N],
    weights: &[Lanes],
    values: impl Fn(usize) -> Option<&'a [f32; N]>,
) {
    let mut sums: [[S::f32s; V]; N] = array::from_fn(|i| vectors::<S, V>(&out[i]));
    for (i, weight) in weights.iter().enumerate() {
        let weight = vectors::<S, V>(weight);
        let Some(values) = values(i) else { return };
        for d in 0..N {
            fused_add(simd, &mut sums[d], values[d], &weight);
        }
    }
    *out = sums.map(lanes::<S, V>);
}

#[inline(always)]
pub(super) fn fused_add<S: Simd, const V: usize>(
    simd: S,
    sums: &mut [S::f32s; V],
    factor: f32,
    vectors: &[S::f32s; V],
) {
    let factor = simd.splat_f32s(factor);
    for v in 0..V {
        sums[v] = simd.mul_add_e_f32s(factor, vectors[v], sums[v]);
    }
}

#[inline(always)]
pub(super) fn vectors<S: Simd, const V: usize>(lanes: &Lanes) -> [S::f32s; V] {
    let (source, _) = S::as_simd_f32s(lanes);
    let mut vectors = [source[0]; V];
    vectors.copy_from_slice(source);
    vectors
}

#[inline(always)]
pub(super) fn lanes<S: Simd, const V: usize>(vectors: [S::f32s; V]) -> Lanes {
    let mut lanes = [0.0; LANES];
    S::as_mut_simd_f32s(&mut lanes).0.copy_from_slice(&vectors);
    lanes
}

/// The length of each lane's query. `panel` is `[head_dim][LANES]`
#[inline(always)]
pub fn lengths(panel: &[Lanes]) -> Lanes {
    let mut sums = [0.0; LANES];
    for dim in panel {
        for lane in 0..LANES {
            sums[lane] += dim[lane] * dim[lane];
        }
    }
    sums.map(f32::sqrt)
}

/// 2^x for x ≤ 0, relative error under 3e-7; 0 below 2⁻¹²⁵. NaN stays NaN.
#[inline(always)]
pub fn exp2(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0; // 1.5 · 2²³: adding it leaves the rounded integer in the low bits
    const LN2: f32 = std::f32::consts::LN_2;
    let shifted = x + ROUND;
    let r = (x - (shifted - ROUND)) * LN2;
    let mut e = 1.0 / 720.0;
    for c in [1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        e = r.mul_add(e, c);
    }
    // A product, where adding to the bits of `e` would do: from some NaNs that makes numbers.
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(1.0f32.to_bits()));
    if x < -125.0 { 0.0 } else { e * power }
}

/// `cap · tanh(x / cap)` of each number. An infinity becomes a NaN, so that it is found, and not taken for the
/// cap.
#[inline(always)]
pub fn soft_cap(numbers: &mut [f32], cap: f32) {
    for x in numbers {
        let e = exp2(x.abs() * (-2.0 * std::f32::consts::LOG2_E / cap));
        *x = (cap * (1.0 - e) / (1.0 + e)).copysign(*x) + 0.0 * *x;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp2_is_close_to_the_library() {
        for i in 0..100_000 {
            let x = -(i as f32) * 1.3e-3;
            let (fast, exact) = (exp2(x) as f64, (x as f64).exp2());
            assert!((fast - exact).abs() <= 3e-7 * exact + 3e-38, "2^{x}: {fast} {exact}");
        }
        assert_eq!(exp2(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp2(0.0), 1.0);
    }

    /// Whatever bits a NaN carries, and however it is signed.
    #[test]
    fn nan_stays_nan() {
        for payload in [0, 1, 0x7f, 0xff, 0x100, 0x1ff, 0x3f_ffff] {
            for quiet in [0x7fc0_0000, 0xffc0_0000] {
                assert!(exp2(f32::from_bits(quiet | payload)).is_nan(), "{payload:x}");
            }
        }
        for number in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut lanes = [number; LANES];
            soft_cap(&mut lanes, 50.0);
            assert!(lanes[0].is_nan(), "{number}");
        }
    }

    #[test]
    fn products_and_sums_match_the_definition() {
        let number = |i: usize| ((i * 7919) % 1000) as f32 / 500.0 - 1.0;
        for (n_queries, n_keys, head_dim) in [(1, 1, 1), (3, 5, 6), (32, 9, 64), (31, 4, 7)] {
            let queries: Vec<f32> = (0..n_queries * head_dim).map(number).collect();
            let keys: Vec<f32> = (0..n_keys * head_dim).map(|i| number(i + 13)).collect();
            let panel = panel(&queries, head_dim, n_queries, head_dim);
            let mut scores = vec![[0.0; LANES]; n_keys];
            products(&panel, |i| &keys[i * head_dim..][..head_dim], &mut scores);
            let mut sums = vec![[1.0; LANES]; head_dim];
            add_weighted(&mut sums, &scores, |i| &keys[i * head_dim..][..head_dim]);
            for lane in 0..LANES {
                let q = lane.min(n_queries - 1);
                let dot = |k: usize| -> f32 {
                    (0..head_dim).map(|d| queries[q * head_dim + d] * keys[k * head_dim + d]).sum()
                };
                for (k, score) in scores.iter().enumerate() {
                    assert!((score[lane] - dot(k)).abs() < 1e-5);
                }
                for (d, sum) in sums.iter().enumerate() {
                    let exact: f32 = 1.0 + (0..n_keys).map(|k| dot(k) * keys[k * head_dim + d]).sum::<f32>();
                    assert!((sum[lane] - exact).abs() < 1e-4);
                }
            }
        }
    }

    #[test]
    fn soft_cap_matches_the_definition() {
        for i in -1000..1000 {
            let (x, cap) = (i as f32 * 0.37, 50.0);
            let mut lanes = [x; LANES];
            soft_cap(&mut lanes, cap);
            let exact = 50.0 * (x as f64 / 50.0).tanh();
            assert!((lanes[0] as f64 - exact).abs() < 2e-5, "{x}: {} {exact}", lanes[0]);
        }
    }
}
