//! Rows by expert on the CPU.

use candle_core::{CpuStorage, InplaceOp1, Layout, Tensor as Numbers};
use rayon::prelude::*;

use super::{Tensor, tensor::with_slice};
use crate::error::Error;

/// Copies the rows that an expert takes.
pub(super) fn gathered(x: &Tensor, rows: &[u32]) -> Result<Tensor, Error> {
    let width = x.numbers()?.dim(1)?;
    let gathered = with_slice(x, |x| {
        let mut gathered = vec![0.0; rows.len() * width];
        let places = gathered.par_chunks_mut(width).zip(rows);
        places.for_each(|(to, &row)| to.copy_from_slice(&x[row as usize * width..][..width]));
        gathered
    })?;
    Tensor::of_rows(gathered, width)
}

/// Rows `part`, `[n, width]`, on their way to those of a sum, ascending, each with its weight.
struct Scattered<'a> {
    part: &'a [f32],
    rows: &'a [u32],
    weights: &'a [f32],
}

impl InplaceOp1 for Scattered<'_> {
    fn name(&self) -> &'static str {
        "rows by expert"
    }

    fn cpu_fwd(&self, sums: &mut CpuStorage, layout: &Layout) -> candle_core::Result<()> {
        let (CpuStorage::F32(sums), Some((start, end))) = (sums, layout.contiguous_offsets()) else {
            candle_core::bail!("sums that are not contiguous f32")
        };
        let width = self.part.len() / self.rows.len().max(1);
        let sums = &mut sums[start..end];
        for ((part, weight), &row) in self.part.chunks(width).zip(self.weights).zip(self.rows) {
            let to = &mut sums[row as usize * width..][..width];
            to.iter_mut().zip(part).for_each(|(to, part)| *to += weight * part);
        }
        Ok(())
    }
}

/// Adds to some rows of `sum`, ascending, those of `part` times their weights.
pub(super) fn add_scattered(sum: &Tensor, part: &Tensor, rows: &[u32], weights: &[f32]) -> Result<(), Error> {
    with_slice(part, |part| Ok(sum.numbers()?.inplace_op1(&Scattered { part, rows, weights })?))?
}

/// Multiplies each row of `y` by the sigmoid of the product of the same row of `x` and `gate`.
pub(super) fn times_sigmoid(y: &Tensor, x: &Tensor, gate: &Tensor) -> Result<Tensor, Error> {
    let logits: Numbers = x.numbers()?.matmul(&gate.numbers()?.t()?)?;
    Ok(y.numbers()?.broadcast_mul(&candle_nn::ops::sigmoid(&logits)?)?.into())
}
