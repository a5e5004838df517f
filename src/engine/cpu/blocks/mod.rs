//! Products of a few rows with weights as they are stored, in blocks: what writing token by token does. The
//! rows are rounded to 8 bits; nothing is copied.

mod dot;
mod format;
mod rows;
mod simd;

use std::sync::{Mutex, PoisonError};

use candle_core::utils::barrier_pool;

use crate::engine::model::{format::Format as Stored, weight::InFile};
use dot::products;
use format::{Format, Q2K, Q3K, Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0};
use rows::Rows;
use simd::Instructions;

/// Bytes of weights that a thread multiplies with at a time.
const PART: usize = 1 << 15;

/// 32 numbers `scale · code + offset`, each half with its own scale and offset.
#[derive(Clone, Copy)]
pub struct Group {
    pub codes: [i8; 32],
    pub scale: [f32; 2],
    pub offset: [f32; 2],
}

impl Group {
    #[inline(always)]
    fn whole(codes: [i8; 32], scale: f32, offset: f32) -> Self {
        Group { codes, scale: [scale; 2], offset: [offset; 2] }
    }
}

/// A weight in its file, `[n_out, n_in]`, in blocks that can be multiplied.
pub struct Blocks {
    weight: InFile,
    products: fn(&[u8], &Rows, &mut [f32]),
}

impl Blocks {
    /// Wraps a weight; returns `None` if its format is unknown.
    pub fn new(weight: InFile) -> Option<Self> {
        let products = match weight.format {
            Stored::Q4_0 => products::<Q4_0>,
            Stored::Q4_1 => products::<Q4_1>,
            Stored::Q5_0 => products::<Q5_0>,
            Stored::Q5_1 => products::<Q5_1>,
            Stored::Q8_0 => products::<Q8_0>,
            Stored::Q2_K => products::<Q2K>,
            Stored::Q3_K => products::<Q3K>,
            Stored::Q4_K => products::<Q4K>,
            Stored::Q5_K => products::<Q5K>,
            Stored::Q6_K => products::<Q6K>,
            _ => return None,
        };
        Some(Blocks { weight, products })
    }

    /// Numbers of a row of products.
    pub fn n_out(&self) -> usize {
        self.weight.shape[0]
    }

    /// Multiplies rows `[n_rows, n_in]`; returns `[n_rows, n_out]`.
    pub fn multiply(&self, x: &[f32]) -> Vec<f32> {
        let [n_out, n_in] = self.weight.shape;
        let rows = Rows::new(x, n_in);
        let bytes = self.weight.bytes();
        let row_bytes = bytes.len() / n_out;
        let part = (PART / row_bytes).max(1);
        let mut out = vec![0.0; n_out * rows.n_rows];
        let parts = bytes.chunks(part * row_bytes).zip(out.chunks_mut(part * rows.n_rows));
        let parts: Vec<_> = parts.map(Mutex::new).collect();
        barrier_pool().execute_chunked(parts.len(), |range| {
            for part in &parts[range] {
                let (bytes, out) = &mut *part.lock().unwrap_or_else(PoisonError::into_inner);
                (self.products)(bytes, &rows, out);
            }
        });
        drop(parts);
        self.in_order(out, rows.n_rows)
    }

    /// Puts products in file order, `[n_out, n_rows]`, in the order of the model's rows, `[n_rows, n_out]`.
    fn in_order(&self, products: Vec<f32>, n_rows: usize) -> Vec<f32> {
        if n_rows == 1 && self.weight.interleaved == 0 {
            return products;
        }
        let n_out = self.weight.shape[0];
        let place = |i: usize| self.weight.row_in_file(i % n_out) * n_rows + i / n_out;
        (0..products.len()).map(|i| products[place(i)]).collect()
    }
}
