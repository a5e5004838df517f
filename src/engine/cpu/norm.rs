//! Rows divided by the root of the mean of their squares.

use super::{lanes::vectorized, parts::in_parts};
use crate::engine::device::TOO_LARGE;

/// Rows that one thread works on at a time.
const ROWS: usize = 64;

/// Whether all numbers are below [`TOO_LARGE`].
#[inline(always)]
pub(super) fn has_norm(x: &[f32]) -> bool {
    x.iter().fold(true, |have, v| have & (v.abs() < TOO_LARGE))
}

/// Returns rows as long as `weight`, normed and weighted. What has no norm becomes NaN, so that it is found, and not 0.
pub(super) fn rms_norm(rows: &[f32], weight: &[f32], eps: f32) -> Vec<f32> {
    let width = weight.len();
    in_parts(rows.len(), ROWS * width, |at, out| {
        vectorized(
            #[inline(always)]
            || {
                for (out, row) in out.chunks_exact_mut(width).zip(rows[at].chunks_exact(width)) {
                    // Squares are summed in order, as everyone does: a search may hang on the last bit.
                    let root = root(row, row.iter().map(|x| x * x).sum(), eps);
                    for (out, (x, weight)) in out.iter_mut().zip(row.iter().zip(weight)) {
                        *out = x / root * weight;
                    }
                }
            },
        );
    })
}

/// The root of the mean of a row's `squares` plus `eps`; NaN where there is none.
#[inline(always)]
pub(super) fn root(row: &[f32], squares: f32, eps: f32) -> f32 {
    match has_norm(row) {
        true => (squares / row.len() as f32 + eps).sqrt(),
        false => f32::NAN,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_normed_as_defined() {
        let (n_rows, width, eps) = (ROWS + 3, 20, 0.25);
        let mut rows: Vec<f32> =
            (0..n_rows * width).map(|i| ((i * 7919) % 1000) as f32 / 500.0 - 1.0).collect();
        let weight: Vec<f32> = (0..width).map(|i| 1.0 + i as f32 / 8.0).collect();
        rows[5] = TOO_LARGE;
        rows[width + 5] = f32::NAN;
        let found = rms_norm(&rows, &weight, eps);
        assert!(found[..2 * width].iter().all(|x| x.is_nan()));
        for (row, found) in rows.chunks(width).zip(found.chunks(width)).skip(2) {
            let squares: f32 = row.iter().map(|x| x * x).sum();
            let root = (squares / width as f32 + eps).sqrt();
            for ((x, weight), found) in row.iter().zip(&weight).zip(found) {
                assert!((found - x / root * weight).abs() < 1e-6, "{x}: {found}");
            }
        }
    }
}
