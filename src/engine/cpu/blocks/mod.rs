//! Products of a few rows with weights as they are stored, in blocks: what writing token by token does. The
//! rows are rounded to 8 bits; the weights are not copied. candle has such products too, but on x86 it takes the
//! numbers of Q4_1, Q5_0 and Q5_1 one by one, and it waits for threads that the system has put aside.

mod dot;
mod format;
mod rows;
mod simd;
mod team;

use std::{
    hint::spin_loop,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
};

use rayon::prelude::*;

use crate::engine::model::{format::Format as Stored, weight::InFile};
use dot::{multiply, read};
use format::{Format, Q2K, Q3K, Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0};
use rows::Rows;
use simd::Instructions;
use team::{Task, Team};

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
    format: Operations,
}

/// What can be done with a format's blocks.
#[derive(Clone, Copy)]
struct Operations {
    /// Multiplies rows of weights with rows of activations; the products are `[n_weight_rows, n_rows]`.
    multiply: fn(&[u8], &Rows, &mut [f32]),
    /// Reads a row of weights.
    read: fn(&[u8], &mut [f32]),
}

impl Operations {
    fn of<F: Format>() -> Self {
        Operations { multiply: multiply::<F>, read: read::<F> }
    }
}

impl Blocks {
    /// Wraps a weight; returns `None` if its format is unknown.
    pub fn new(weight: InFile) -> Option<Self> {
        let format = match weight.format {
            Stored::Q4_0 => Operations::of::<Q4_0>(),
            Stored::Q4_1 => Operations::of::<Q4_1>(),
            Stored::Q5_0 => Operations::of::<Q5_0>(),
            Stored::Q5_1 => Operations::of::<Q5_1>(),
            Stored::Q8_0 => Operations::of::<Q8_0>(),
            Stored::Q2_K => Operations::of::<Q2K>(),
            Stored::Q3_K => Operations::of::<Q3K>(),
            Stored::Q4_K => Operations::of::<Q4K>(),
            Stored::Q5_K => Operations::of::<Q5K>(),
            Stored::Q6_K => Operations::of::<Q6K>(),
            _ => return None,
        };
        Some(Blocks { weight, format })
    }

    /// Returns the numbers, `[n_out, n_in]`.
    pub fn numbers(&self) -> Vec<f32> {
        let [n_out, n_in] = self.weight.shape;
        let bytes = self.weight.bytes();
        let row_bytes = bytes.len() / n_out;
        let rows_of_part = (PART / row_bytes).max(1);
        let mut numbers = vec![0.0; n_out * n_in];
        numbers.par_chunks_mut(rows_of_part * n_in).enumerate().for_each(|(part, numbers)| {
            for (i, numbers) in numbers.chunks_mut(n_in).enumerate() {
                let row = self.weight.row_in_file(part * rows_of_part + i);
                (self.format.read)(&bytes[row * row_bytes..][..row_bytes], numbers);
            }
        });
        numbers
    }

    /// Numbers of a row of products.
    pub fn n_out(&self) -> usize {
        self.weight.shape[0]
    }

    /// Multiplies rows `[n_rows, n_in]`; returns `[n_rows, n_out]`.
    pub fn multiply(self: &Arc<Self>, x: &[f32]) -> Vec<f32> {
        let [n_out, n_in] = self.weight.shape;
        let rows_of_part = (PART / (self.weight.bytes().len() / n_out)).max(1);
        let task = Arc::new(Product {
            blocks: self.clone(),
            rows: Rows::new(x, n_in),
            rows_of_part,
            next: AtomicUsize::new(0),
            parts: vec![OnceLock::new(); n_out.div_ceil(rows_of_part)],
        });
        Team::get().work(task.clone());
        let mut out = Vec::with_capacity(n_out * task.rows.n_rows);
        task.parts.iter().for_each(|part| out.extend_from_slice(wait_for(part)));
        self.in_order(out, task.rows.n_rows)
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

/// Rows times a weight, in parts of its rows.
struct Product {
    blocks: Arc<Blocks>,
    rows: Rows,
    rows_of_part: usize,
    /// The next part that nobody works on.
    next: AtomicUsize,
    /// `[rows_of_part, n_rows]` each.
    parts: Vec<OnceLock<Vec<f32>>>,
}

impl Task for Product {
    fn work(&self) {
        let Blocks { weight, format } = &*self.blocks;
        let bytes = weight.bytes();
        let part_bytes = self.rows_of_part * (bytes.len() / weight.shape[0]);
        loop {
            let i = self.next.fetch_add(1, Ordering::Relaxed);
            let Some(part) = self.parts.get(i) else { return };
            let bytes = &bytes[i * part_bytes..bytes.len().min((i + 1) * part_bytes)];
            let n = bytes.len() * self.rows_of_part / part_bytes;
            let mut out = vec![0.0; n * self.rows.n_rows];
            (format.multiply)(bytes, &self.rows, &mut out);
            let _ = part.set(out);
        }
    }
}

/// Waits for a part that another thread works on.
fn wait_for(part: &OnceLock<Vec<f32>>) -> &[f32] {
    loop {
        match part.get() {
            Some(products) => return products,
            None => spin_loop(),
        }
    }
}
