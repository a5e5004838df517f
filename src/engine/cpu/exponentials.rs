//! What a softmax takes, of 32 queries side by side: largest numbers, exponentials, sums.
//!
//! Written with explicit vectors, like the products: of loops over lanes within a loop over rows, compilers make
//! vectors of rows, which they gather and scatter number by number.

use std::f32::consts::LN_2;

use pulp::Simd;

use super::lanes::{Best, Instructions, LANES, Lanes, lanes, vectors};

/// Raises `most` to the largest number of each lane.
pub fn raise(most: &mut Lanes, rows: &[Lanes]) {
    run(Raise { most, rows });
}

/// Adds rows to `sum`.
pub fn add(sum: &mut Lanes, rows: &[Lanes]) {
    run(Add { sum, rows });
}

/// Makes 2^(x · `scale` − `most`) of each number, and adds them to `sum`. `most` is the largest x · `scale`, rounded
/// as here: of large numbers, a product that is not rounded may be larger.
pub fn exponentials(rows: &mut [Lanes], scale: f32, most: &Lanes, sum: &mut Lanes) {
    run(Exponentials { rows, scale, most, sum });
}

/// Returns 2^(`row` − `most`).
pub fn exponential(row: Lanes, most: &Lanes) -> Lanes {
    let mut rows = [row];
    exponentials(&mut rows, 1.0, most, &mut [0.0; LANES]);
    rows[0]
}

/// Returns Σ 2^(x · `scale` − `most`) over the rows.
pub fn sum_of_exponentials(rows: &[Lanes], scale: f32, most: &Lanes) -> Lanes {
    let mut sum = [0.0; LANES];
    run(SumOfExponentials { rows, scale, most, sum: &mut sum });
    sum
}

/// Multiplies rows by a factor for each lane.
pub fn times(rows: &mut [Lanes], factors: &Lanes) {
    run(Times { rows, factors });
}

/// Multiplies rows by a factor for each lane, and adds the sum of each row's lanes to `sums`. `[n_rows]`
pub fn times_and_sum(rows: &mut [Lanes], factors: &Lanes, sums: &mut [f32]) {
    run(TimesAndSum { rows, factors, sums });
}

/// Raises `most` to the largest x · `factor` − `less` of each row. `[n_rows]`
pub fn raise_rows<'m>(
    most: impl Iterator<Item = &'m mut f32>,
    rows: &[Lanes],
    factors: &Lanes,
    less: &Lanes,
) {
    run(RaiseRows { most, rows, factors, less });
}

/// Adds to `sums` `[n_rows]` each row's lanes times their factors, of those lanes whose bound is at least the row's
/// number.
pub fn add_within(
    sums: &mut [f32],
    rows: &[Lanes],
    factors: &Lanes,
    bounds: &Lanes,
    number: impl Fn(usize) -> f32,
) {
    run(AddWithin { sums, rows, factors, bounds, number });
}

fn run(work: impl Instructions) {
    pulp::Arch::new().dispatch(Best(work));
}

/// 2^x for x ≤ 0, relative error under 3e-7; 0 below 2⁻¹²⁵. NaN stays NaN.
#[inline(always)]
fn exp2<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    const ROUND: f32 = 12_582_912.0; // 1.5 · 2²³: adding it leaves the rounded integer in the low bits
    let number = |x: f32| simd.splat_f32s(x);
    let bits = |x: u32| simd.splat_u32s(x);
    let shifted = simd.add_f32s(x, number(ROUND));
    let r = simd.mul_f32s(simd.sub_f32s(x, simd.sub_f32s(shifted, number(ROUND))), number(LN_2));
    let mut e = number(1.0 / 720.0);
    for c in [1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        e = simd.mul_add_e_f32s(r, e, number(c));
    }
    let power = simd.wrapping_dyn_shl_u32s(simd.transmute_u32s_f32s(shifted), bits(23));
    let power = simd.transmute_f32s_u32s(simd.add_u32s(power, bits(1.0f32.to_bits())));
    let is_least = simd.less_than_f32s(x, number(-125.0));
    simd.select_f32s(is_least, number(0.0), simd.mul_f32s(e, power))
}

struct Raise<'a> {
    most: &'a mut Lanes,
    rows: &'a [Lanes],
}

impl Instructions for Raise<'_> {
    #[inline(always)]
    fn run<S: Simd, const V: usize>(self, simd: S) {
        let mut most = vectors::<S, V>(self.most);
        for row in self.rows {
            let row = vectors::<S, V>(row);
            for v in 0..V {
                // Of a NaN and a number this order takes the number.
                most[v] = simd.max_f32s(row[v], most[v]);
            }
        }
        *self.most = lanes::<S, V>(most);
    }
}

struct Add<'a> {
    sum: &'a mut Lanes,
    rows: &'a [Lanes],
}

impl Instructions for Add<'_> {
    #[inline(always)]
    fn run<S: Simd, const V: usize>(self, simd: S) {
        let mut sum = vectors::<S, V>(self.sum);
        for row in self.rows {
            let row = vectors::<S, V>(row);
            for v in 0..V {
                sum[v] = simd.add_f32s(sum[v], row[v]);
            }
        }
        *self.sum = lanes::<S, V>(sum);
    }
}

struct Exponentials<'a> {
    rows: &'a mut [Lanes],
    scale: f32,
    most: &'a Lanes,
    sum: &'a mut Lanes,
}

impl Instructions for Exponentials<'_> {
    #[inline(always)]
    fn run<S: Simd, const V: usize>(self, simd: S) {
        let scale = simd.splat_f32s(self.scale);
        let most = vectors::<S, V>(self.most);
        let mut sum = vectors::<S, V>(self.sum);
        for row in self.rows {
            let mut values = vectors::<S, V>(row);
            for v in 0..V {
                values[v] = exp2(simd, simd.sub_f32s(simd.mul_f32s(values[v], scale), most[v]));
                sum[v] = simd.add_f32s(sum[v], values[v]);
            }
            *row = lanes::<S, V>(values);
        }
        *self.sum = lanes::<S, V>(sum);
    }
}

struct SumOfExponentials<'a> {
    rows: &'a [Lanes],
    scale: f32,
    most: &'a Lanes,
    sum: &'a mut Lanes,
}

impl Instructions for SumOfExponentials<'_> {
    #[inline(always)]
    fn run<S: Simd, const V: usize>(self, simd: S) {
        let scale = simd.splat_f32s(self.scale);
        let most = vectors::<S, V>(self.most);
        let mut sum = [simd.splat_f32s(0.0); V];
        for row in self.rows {
            let row = vectors::<S, V>(row);
            for v in 0..V {
                let power = exp2(simd, simd.sub_f32s(simd.mul_f32s(row[v], scale), most[v]));
                sum[v] = simd.add_f32s(sum[v], power);
            }
        }
        *self.sum = lanes::<S, V>(sum);
    }
}

struct Times<'a> {
    rows: &'a mut [Lanes],
    factors: &'a Lanes,
}

impl Instructions for Times<'_> {
    #[inline(always)]
    fn run<S: Simd, const V: usize>(self, simd: S) {
        let factors = vectors::<S, V>(self.factors);
        for row in self.rows {
            let mut values = vectors::<S, V>(row);
            for v in 0..V {
                values[v] = simd.mul_f32s(values[v], factors[v]);
            }
            *row = lanes::<S, V>(values);
        }
    }
}

struct TimesAndSum<'a> {
    rows: &'a mut [Lanes],
    factors: &'a Lanes,
    sums: &'a mut [f32],
}

impl Instructions for TimesAndSum<'_> {
    #[inline(always)]
    fn run<S: Simd, const V: usize>(self, simd: S) {
        let factors = vectors::<S, V>(self.factors);
        for (row, sum) in self.rows.iter_mut().zip(self.sums) {
            let mut values = vectors::<S, V>(row);
            let mut sums = simd.splat_f32s(0.0);
            for v in 0..V {
                values[v] = simd.mul_f32s(values[v], factors[v]);
                sums = simd.add_f32s(sums, values[v]);
            }
            *row = lanes::<S, V>(values);
            *sum += simd.reduce_sum_f32s(sums);
        }
    }
}

struct RaiseRows<'a, M> {
    most: M,
    rows: &'a [Lanes],
    factors: &'a Lanes,
    less: &'a Lanes,
}

impl<'m, M: Iterator<Item = &'m mut f32>> Instructions for RaiseRows<'_, M> {
    #[inline(always)]
    fn run<S: Simd, const V: usize>(self, simd: S) {
        let factors = vectors::<S, V>(self.factors);
        let less = vectors::<S, V>(self.less);
        for (row, most) in self.rows.iter().zip(self.most) {
            let row = vectors::<S, V>(row);
            let mut largest = simd.splat_f32s(f32::NEG_INFINITY);
            for v in 0..V {
                let value = simd.sub_f32s(simd.mul_f32s(row[v], factors[v]), less[v]);
                largest = simd.max_f32s(value, largest);
            }
            *most = most.max(simd.reduce_max_f32s(largest));
        }
    }
}

struct AddWithin<'a, N> {
    sums: &'a mut [f32],
    rows: &'a [Lanes],
    factors: &'a Lanes,
    bounds: &'a Lanes,
    number: N,
}

impl<N: Fn(usize) -> f32> Instructions for AddWithin<'_, N> {
    #[inline(always)]
    fn run<S: Simd, const V: usize>(self, simd: S) {
        let factors = vectors::<S, V>(self.factors);
        let bounds = vectors::<S, V>(self.bounds);
        let zero = simd.splat_f32s(0.0);
        for (i, (row, sum)) in self.rows.iter().zip(self.sums).enumerate() {
            let row = vectors::<S, V>(row);
            let number = simd.splat_f32s((self.number)(i));
            let mut sums = zero;
            for v in 0..V {
                let value = simd.mul_f32s(row[v], factors[v]);
                let is_within = simd.less_than_or_equal_f32s(number, bounds[v]);
                sums = simd.add_f32s(sums, simd.select_f32s(is_within, value, zero));
            }
            *sum += simd.reduce_sum_f32s(sums);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(n: usize, number: impl Fn(usize, usize) -> f32) -> Vec<Lanes> {
        (0..n).map(|row| std::array::from_fn(|lane| number(row, lane))).collect()
    }

    #[test]
    fn powers_are_close_to_the_library() {
        for of_row in rows(3000, |row, lane| -((row * LANES + lane) as f32) * 1.3e-3) {
            let found = exponential(of_row, &[0.0; LANES]);
            for (x, found) in of_row.into_iter().zip(found) {
                let (found, exact) = (f64::from(found), f64::from(x).exp2());
                assert!((found - exact).abs() <= 3e-7 * exact + 3e-38, "2^{x}: {found} {exact}");
            }
        }
        assert_eq!(exponential([f32::NEG_INFINITY; LANES], &[1.0; LANES]), [0.0; LANES]);
        assert!(exponential([f32::NAN; LANES], &[1.0; LANES]).iter().all(|x| x.is_nan()));
    }

    #[test]
    fn rows_match_the_definitions() {
        for n in [0, 1, 5] {
            let of = rows(n, |row, lane| ((row * 37 + lane * 11) % 23) as f32 * 0.5 - 4.0);
            let factors: Lanes = std::array::from_fn(|lane| 0.5 + lane as f32 / 64.0);
            let less: Lanes = std::array::from_fn(|lane| lane as f32 / 8.0);
            let (mut most, mut sum) = ([-3.0; LANES], [1.0; LANES]);
            raise(&mut most, &of);
            add(&mut sum, &of);
            let (mut powers, mut all) = (of.clone(), [0.0; LANES]);
            exponentials(&mut powers, 1.5, &less, &mut all);
            let alone = sum_of_exponentials(&of, 1.5, &less);
            let (mut scaled, mut summed, mut sums) = (of.clone(), of.clone(), vec![2.0; n]);
            times(&mut scaled, &factors);
            times_and_sum(&mut summed, &factors, &mut sums);
            let mut raised = vec![-1.0; n];
            raise_rows(raised.iter_mut(), &of, &factors, &less);
            let mut within = vec![0.5; n];
            add_within(&mut within, &of, &factors, &less, |i| i as f32 / 2.0);
            let close = |a: f32, b: f32| assert!((a - b).abs() <= 1e-5 * b.abs().max(1.0), "{a} {b}");
            for lane in 0..LANES {
                let column = || of.iter().map(|row| row[lane]);
                let power = |x: f32| (x * 1.5 - less[lane]).exp2();
                assert_eq!(most[lane], column().fold(-3.0, f32::max));
                close(sum[lane], 1.0 + column().sum::<f32>());
                close(all[lane], column().map(power).sum());
                close(alone[lane], all[lane]);
                for (i, x) in column().enumerate() {
                    close(powers[i][lane], power(x));
                    assert_eq!([scaled[i][lane], summed[i][lane]], [x * factors[lane]; 2]);
                }
            }
            for i in 0..n {
                close(sums[i], 2.0 + scaled[i].iter().sum::<f32>());
                let largest = (0..LANES).map(|lane| scaled[i][lane] - less[lane]).fold(-1.0, f32::max);
                close(raised[i], largest);
                let is_within = |lane: &usize| i as f32 / 2.0 <= less[*lane];
                close(within[i], 0.5 + (0..LANES).filter(is_within).map(|lane| scaled[i][lane]).sum::<f32>());
            }
        }
    }

    #[test]
    fn a_nan_is_not_the_largest() {
        let mut most = [1.0; LANES];
        raise(&mut most, &[[f32::NAN; LANES], [2.0; LANES], [f32::NAN; LANES]]);
        assert_eq!(most, [2.0; LANES]);
    }
}
