//! Rows times a weight, some of its outputs at a time in every thread: each packs its own part of the weight, and no
//! thread waits for another but at the end.

use gemm::{Parallelism, gemm};
use rayon::prelude::*;

/// Outputs that one thread computes at a time: whole tiles of every instruction set.
const OUTPUTS: usize = 64;

/// Products that are worth waking a thread for.
const WORTH: usize = 1 << 19;

/// Where rows of outputs start.
struct Start(*mut f32);

#[expect(unsafe_code, reason = "threads write columns of the same rows")]
// SAFETY: each thread writes columns of its own.
unsafe impl Sync for Start {}

/// Returns x · weightᵀ. `x` is `[n_rows, n_in]`, `weight` `[n_out, n_in]`.
#[expect(unsafe_code, reason = "`gemm` takes pointers; what it writes need not be zeros before")]
pub fn times(x: &[f32], weight: &[f32], n_in: usize) -> Vec<f32> {
    let (n_rows, n_out) = (x.len() / n_in, weight.len() / n_in);
    let mut out = Vec::with_capacity(n_rows * n_out);
    let start = &Start(out.as_mut_ptr());
    let part = |(i, weight): (usize, &[f32])| {
        let n = weight.len() / n_in;
        let [row_of_x, row_of_weight, row] = [n_in, n_in, n_out].map(usize::cast_signed);
        // SAFETY: `x` has `n_rows` rows and `weight` `n` of `n_in` numbers each; `out` has room for `n_rows` rows of
        // `n_out`, of which no other part of the weight makes these `n` columns. They are written without being read.
        unsafe {
            let (to, one, zero) = (start.0.add(i * OUTPUTS), 1.0, 0.0);
            let (x, weight) = (x.as_ptr(), weight.as_ptr());
            gemm(
                n_rows,
                n,
                n_in,
                to,
                1,
                row,
                false,
                x,
                1,
                row_of_x,
                weight,
                row_of_weight,
                1,
                zero,
                one,
                false,
                false,
                false,
                Parallelism::None,
            );
        }
    };
    match n_rows * weight.len() < WORTH {
        true => part((0, weight)),
        false => weight.par_chunks(OUTPUTS * n_in).enumerate().for_each(part),
    }
    // SAFETY: all columns of all rows are written.
    unsafe { out.set_len(n_rows * n_out) };
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In one thread and in several; of parts that are not whole, and of one row.
    #[test]
    fn products_match_the_definition() {
        let number = |i: usize| ((i * 7919) % 1000) as f32 / 500.0 - 1.0;
        for (n_rows, n_in, n_out) in [(1, 3, 2), (5, 7, 65), (1, 4096, 200), (130, 100, 130)] {
            let x: Vec<f32> = (0..n_rows * n_in).map(number).collect();
            let weight: Vec<f32> = (0..n_out * n_in).map(|i| number(i + 13)).collect();
            let found = times(&x, &weight, n_in);
            assert_eq!(found.len(), n_rows * n_out);
            for (i, found) in found.into_iter().enumerate() {
                let (row, of) = (&x[i / n_out * n_in..], &weight[i % n_out * n_in..]);
                let exact: f64 = (0..n_in).map(|k| f64::from(row[k]) * f64::from(of[k])).sum();
                assert!((f64::from(found) - exact).abs() < 1e-6 * n_in as f64, "{i}: {found} {exact}");
            }
        }
    }
}
