//! Rows of numbers in bf16, and their products with 32 queries, for the search on the CPU.
//!
//! To rank key blocks bf16 is enough, and what a GPU reads, too. It takes half of the memory of f32, and half of
//! the time where the processor multiplies pairs of numbers fast (AVX512-BF16); elsewhere pairs are taken apart.

use pulp::Simd;

use super::lanes::{self, Best, Instructions, LANES, Lanes, vectorized};

/// Rows that are taken apart together.
const APART: usize = 16;

/// Two numbers, the first in the lower half.
pub type Pair = u32;

/// A pair of each of 32 queries.
pub type PairLanes = [Pair; LANES];

/// Rows in bf16. `[n_rows][width]` pairs; an odd number of numbers is filled up with a zero.
pub struct Bf16Rows {
    pairs: Vec<Pair>,
    n_numbers: usize,
}

impl Bf16Rows {
    pub fn new(n_numbers: usize) -> Self {
        Bf16Rows { pairs: Vec::new(), n_numbers }
    }

    /// Adds rows `[n_rows, n_numbers]`.
    pub fn extend(&mut self, rows: &[f32]) {
        self.pairs.reserve_exact(rows.len() / self.n_numbers * self.width());
        vectorized(
            #[inline(always)]
            || {
                for row in rows.chunks_exact(self.n_numbers) {
                    let (pairs, last) = row.as_chunks::<2>();
                    self.pairs.extend(pairs.iter().map(|&[a, b]| pair(a, b)));
                    self.pairs.extend(last.iter().map(|&a| pair(a, 0.0)));
                }
            },
        );
    }

    pub fn truncate(&mut self, n_rows: usize) {
        self.pairs.truncate(n_rows * self.width());
    }

    pub fn n_rows(&self) -> usize {
        self.pairs.len() / self.width()
    }

    pub fn row(&self, i: usize) -> &[Pair] {
        &self.pairs[i * self.width()..][..self.width()]
    }

    fn width(&self) -> usize {
        self.n_numbers.div_ceil(2)
    }
}

/// A panel of queries in bf16, as this processor multiplies it.
pub enum Panel {
    /// For instructions that multiply pairs. `[n_numbers / 2][LANES]`
    #[cfg(target_arch = "x86_64")]
    Pairs(x86::Pairwise, Vec<PairLanes>),
    /// First numbers of all pairs, then the second ones. `[n_numbers][LANES]`
    Apart(Vec<Lanes>),
}

impl Panel {
    /// Rounds a panel of queries `[n_numbers][LANES]`.
    pub fn new(queries: &[Lanes]) -> Self {
        let pairs = pairs(queries);
        #[cfg(target_arch = "x86_64")]
        if let Some(simd) = x86::Pairwise::where_faster() {
            return Panel::Pairs(simd, pairs);
        }
        Panel::Apart(apart(&pairs))
    }
}

/// Rounds a panel to pairs.
fn pairs(panel: &[Lanes]) -> Vec<PairLanes> {
    let mut pairs = vec![[0; LANES]; panel.len().div_ceil(2)];
    vectorized(
        #[inline(always)]
        || {
            for (pairs, dims) in pairs.iter_mut().zip(panel.chunks(2)) {
                let (a, b) = (&dims[0], dims.get(1).unwrap_or(&[0.0; LANES]));
                for lane in 0..LANES {
                    pairs[lane] = pair(a[lane], b[lane]);
                }
            }
        },
    );
    pairs
}

/// First numbers of all pairs, then the second ones.
fn apart(panel: &[PairLanes]) -> Vec<Lanes> {
    let mut apart = vec![[0.0; LANES]; 2 * panel.len()];
    let (firsts, seconds) = apart.split_at_mut(panel.len());
    for (pairs, (firsts, seconds)) in panel.iter().zip(firsts.iter_mut().zip(seconds)) {
        take_apart(pairs, firsts, seconds);
    }
    apart
}

#[inline(always)]
fn pair(a: f32, b: f32) -> Pair {
    rounded(a) >> 16 | rounded(b)
}

/// The nearest bf16, in the upper half; of two, the even one. What is too large for it becomes the largest.
#[inline(always)]
fn rounded(x: f32) -> u32 {
    const LARGEST: f32 = f32::from_bits(0x7f7f_0000);
    const NAN: u32 = 0x7fff_0000;
    let bits = if x.abs() > LARGEST { LARGEST.copysign(x) } else { x }.to_bits();
    if x.is_nan() { NAN } else { (bits + 0x7fff + (bits >> 16 & 1)) & 0xffff_0000 }
}

#[inline(always)]
fn first(pair: Pair) -> f32 {
    f32::from_bits(pair << 16)
}

#[inline(always)]
fn second(pair: Pair) -> f32 {
    f32::from_bits(pair & 0xffff_0000)
}

#[inline(always)]
fn take_apart(pairs: &[Pair], firsts: &mut [f32], seconds: &mut [f32]) {
    for (&pair, (a, b)) in pairs.iter().zip(firsts.iter_mut().zip(seconds)) {
        (*a, *b) = (first(pair), second(pair));
    }
}

/// Products of each row with all lanes: `out[i] = Σ_d row(i)[d] · panel[d]`.
pub fn products<'a>(panel: &Panel, row: impl Fn(usize) -> &'a [Pair], out: &mut [Lanes]) {
    match panel {
        #[cfg(target_arch = "x86_64")]
        Panel::Pairs(simd, panel) => simd.vectorize(x86::With(*simd, x86::Products { panel, row, out })),
        Panel::Apart(panel) => pulp::Arch::new().dispatch(Best(Products { panel, row, out })),
    }
}

/// Products with a panel that is taken apart.
struct Products<'p, R> {
    panel: &'p [Lanes],
    row: R,
    out: &'p mut [Lanes],
}

/// Takes rows apart, some at a time.
impl<'a, R: Fn(usize) -> &'a [Pair]> Instructions for Products<'_, R> {
    #[inline(always)]
    fn run<S: Simd, const V: usize>(self, simd: S) {
        let Products { panel, row: pairs, out } = self;
        let n_numbers = panel.len();
        let mut rows = vec![0.0; APART * n_numbers];
        for (group, out) in out.chunks_mut(APART).enumerate() {
            for (i, apart) in rows.chunks_exact_mut(n_numbers).take(out.len()).enumerate() {
                let (firsts, seconds) = apart.split_at_mut(n_numbers / 2);
                take_apart(pairs(group * APART + i), firsts, seconds);
            }
            let row = |i: usize| &rows[i * n_numbers..][..n_numbers];
            lanes::Products { panel, row, out }.run::<S, V>(simd);
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::{
        arch::x86_64::{__cpuid, __m512, __m512bh, __m512i, _mm512_dpbf16_ps},
        array,
        mem::transmute,
        sync::LazyLock,
    };

    use pulp::{NullaryFnOnce, cast};

    use super::{Lanes, Pair, PairLanes};

    /// Rows multiplied together: enough independent sums to fill the pipelines.
    const ROWS: usize = 4;

    pulp::simd_type! {
        /// A processor that multiplies pairs of bf16.
        pub struct Pairwise {
            avx512f: "avx512f",
            avx512bf16: "avx512bf16",
        }
    }

    impl Pairwise {
        /// Returns the instructions where they are worth it: Intel's processors multiply two single numbers sooner than
        /// a pair.
        pub fn where_faster() -> Option<Self> {
            static IS_INTEL: LazyLock<bool> = LazyLock::new(|| {
                let vendor = __cpuid(0);
                [vendor.ebx, vendor.edx, vendor.ecx].map(u32::to_le_bytes).concat() == b"GenuineIntel"
            });
            Self::try_new().filter(|_| !*IS_INTEL)
        }

        /// Adds to each lane the products of two pairs.
        #[inline(always)]
        fn add(self, sums: __m512, a: __m512i, b: __m512i) -> __m512 {
            #[expect(unsafe_code, reason = "pulp has the features, but not this instruction")]
            // SAFETY: a `Pairwise` is made where the processor has both features; the types are 512 bits each,
            // of which any are numbers.
            unsafe {
                let [a, b] = [transmute::<__m512i, __m512bh>(a), transmute::<__m512i, __m512bh>(b)];
                _mm512_dpbf16_ps(sums, a, b)
            }
        }

        #[inline(always)]
        fn multiply<const N: usize>(self, panel: &[PairLanes], rows: [&[Pair]; N]) -> [Lanes; N] {
            let mut sums = [[self.avx512f._mm512_setzero_ps(); 2]; N];
            for (d, queries) in panel.iter().enumerate() {
                let queries: [__m512i; 2] = cast(*queries);
                for i in 0..N {
                    let row = self.avx512f._mm512_set1_epi32(rows[i][d].cast_signed());
                    for v in 0..2 {
                        sums[i][v] = self.add(sums[i][v], row, queries[v]);
                    }
                }
            }
            cast(sums)
        }
    }

    /// Products with a panel of pairs.
    pub struct Products<'p, R> {
        pub panel: &'p [PairLanes],
        pub row: R,
        pub out: &'p mut [Lanes],
    }

    /// Products and the instructions for them; a closure would not be inlined.
    pub struct With<P>(pub Pairwise, pub P);

    impl<'a, R: Fn(usize) -> &'a [Pair]> NullaryFnOnce for With<Products<'_, R>> {
        type Output = ();

        #[inline(always)]
        fn call(self) {
            let With(simd, Products { panel, row, out }) = self;
            let row = |i: usize| &row(i)[..panel.len()];
            let (groups, rest) = out.as_chunks_mut::<ROWS>();
            let n_grouped = groups.len() * ROWS;
            for (group, sums) in groups.iter_mut().enumerate() {
                *sums = simd.multiply(panel, array::from_fn::<_, ROWS, _>(|i| row(group * ROWS + i)));
            }
            for (i, sum) in rest.iter_mut().enumerate() {
                [*sum] = simd.multiply(panel, [row(n_grouped + i)]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_rounded_to_the_nearest() {
        let mut random = fastrand::Rng::with_seed(1);
        let special = [f32::NAN, f32::from_bits(0x7f80_0001), f32::INFINITY, f32::MIN, -0.0];
        for x in (0..100_000).map(|_| f32::from_bits(random.u32(..))).chain(special) {
            let exact = half::bf16::from_f32(x);
            let exact =
                if exact.is_infinite() { half::bf16::MAX.to_f32().copysign(x) } else { exact.to_f32() };
            let found = second(rounded(x));
            assert!(found == exact || (found.is_nan() && exact.is_nan()), "{x}: {found} {exact}");
        }
    }

    /// Of all instructions that this processor has.
    #[test]
    fn products_match_the_definition() {
        let mut random = fastrand::Rng::with_seed(2);
        for (n_rows, n_numbers) in [(1, 1), (5, 6), (9, 64), (4, 7), (130, 96)] {
            let mut number = || random.f32() * 2.0 - 1.0;
            let keys: Vec<f32> = (0..n_rows * n_numbers).map(|_| number()).collect();
            let panel: Vec<Lanes> = (0..n_numbers).map(|_| std::array::from_fn(|_| number())).collect();
            let mut rows = Bf16Rows::new(n_numbers);
            keys.chunks(2 * n_numbers).for_each(|keys| rows.extend(keys));
            assert_eq!(rows.n_rows(), n_rows);
            let round = |x: f32| half::bf16::from_f32(x).to_f64();
            let exact = |row: usize, lane: usize| -> f64 {
                let key = &keys[row * n_numbers..][..n_numbers];
                key.iter().zip(&panel).map(|(&k, q)| round(k) * round(q[lane])).sum()
            };
            let pairs = pairs(&panel);
            let apart = apart(&pairs);
            let check = |multiply: &dyn Fn(&mut [Lanes])| {
                let mut found = vec![[0.0; LANES]; n_rows];
                multiply(&mut found);
                for (row, lane) in (0..n_rows).flat_map(|row| (0..LANES).map(move |lane| (row, lane))) {
                    assert!((f64::from(found[row][lane]) - exact(row, lane)).abs() < 1e-5, "{row} {lane}");
                }
            };
            let row = |i: usize| rows.row(i);
            check(&|out| products(&Panel::new(&panel), row, out));
            check(&|out| pulp::Arch::new().dispatch(Best(Products { panel: &apart, row, out })));
            #[cfg(target_arch = "x86_64")]
            if let Some(simd) = x86::Pairwise::try_new() {
                check(&|out| simd.vectorize(x86::With(simd, x86::Products { panel: &pairs, row, out })));
            }
            rows.truncate(1);
            assert_eq!(rows.n_rows(), 1);
        }
    }
}
