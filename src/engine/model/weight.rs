//! One tensor of a model's files: where it lies, and how its numbers are read. A tensor is copied only when
//! it is used.

use std::{borrow::Cow, ops::Range, sync::Arc};

use half::{bf16, f16};
use memmap2::Mmap;
use rayon::prelude::*;
use safetensors::{Dtype, tensor::TensorView};

use super::{
    dequantise,
    format::Format,
    rearranged::{Order, of_columns, of_pairs},
};
use crate::error::Error;

/// Rows that a thread gathers at least.
const AT_A_TIME: usize = 64;

/// A tensor of a mapped file.
#[derive(Clone, Debug)]
pub struct Weight<'a> {
    shape: Vec<usize>,
    bytes: &'a [u8],
    stored: Stored,
    /// Every number `x` is read as `factor · x + offset`.
    factor: f32,
    offset: f32,
    /// Rows of each head if the file has its rotary pairs side by side, (0, 1), (2, 3), …; otherwise 0.
    interleaved: usize,
    /// The first rows of each head, which lie so; the others follow in order.
    n_rotated: usize,
    /// Whether the bytes lie in a mapped file.
    is_mapped: bool,
    /// The map that they lie in, if it can be shared.
    map: Option<&'a Arc<Mmap>>,
    order: Order<'a>,
}

/// The blocks of a quantized weight, which keep their file mapped.
pub struct InFile {
    map: Arc<Mmap>,
    range: Range<usize>,
    pub format: Format,
    /// `[n_rows, width]`
    pub shape: [usize; 2],
    /// As of a [`Weight`].
    pub interleaved: usize,
    n_rotated: usize,
}

impl InFile {
    /// Returns the blocks, row by row in file order.
    pub fn bytes(&self) -> &[u8] {
        &self.map[self.range.clone()]
    }

    /// Returns the row in the file of a row of the weight.
    pub fn row_in_file(&self, row: usize) -> usize {
        row_in_file(row, self.interleaved, self.n_rotated)
    }
}

/// Returns the row in the file of a row, where the first `n_rotated` of the `head_dim` rows of each head are
/// interleaved, if it is not 0.
fn row_in_file(row: usize, head_dim: usize, n_rotated: usize) -> usize {
    let half = n_rotated / 2;
    match row.checked_rem(head_dim) {
        Some(inside) if inside < 2 * half => row - inside + inside % half * 2 + inside / half,
        _ => row,
    }
}

/// The format in which numbers are stored.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Stored {
    /// f32, f16 or bf16.
    Plain(Dtype),
    /// llama.cpp's blocks, each of a scale and a few bits per number.
    Quantized(Format),
}

/// A tensor in llama.cpp's blocks, as a device needs it to read the numbers itself.
#[derive(Clone, Debug)]
pub struct Blocks<'a> {
    pub format: Format,
    /// Row after row of whole blocks, in the file's order.
    pub bytes: Cow<'a, [u8]>,
    /// Every number `x` is read as `factor · x + offset`.
    pub factor: f32,
    pub offset: f32,
    /// Rows of each head if the file has them in the order 0, head_dim / 2, 1, head_dim / 2 + 1, …;
    /// otherwise 0.
    pub interleaved: usize,
}

/// The numbers of a tensor, borrowed from the file where they can be used unchanged.
pub struct Values<'a> {
    dtype: Dtype,
    shape: Vec<usize>,
    data: Cow<'a, [u8]>,
}

impl Values<'_> {
    /// Returns the numbers as a tensor of safetensors.
    pub fn view(&self) -> TensorView<'_> {
        TensorView::new(self.dtype, self.shape.clone(), &self.data).expect("as many bytes as the shape says")
    }
}

impl Stored {
    /// Bytes of a row of `width` numbers; `None` unless `width` is a multiple of the block size.
    pub fn row_bytes(self, width: usize) -> Option<usize> {
        let (block, bytes) = match self {
            Stored::Plain(dtype) => (1, dtype.bitsize() / 8),
            Stored::Quantized(format) => (format.block_size(), format.block_bytes()),
        };
        (width / block).checked_mul(bytes).filter(|_| width.is_multiple_of(block))
    }
}

impl<'a> Weight<'a> {
    /// Wraps `bytes`, whose length must be what `shape` and `stored` give.
    pub(super) fn new(shape: Vec<usize>, bytes: &'a [u8], stored: Stored) -> Self {
        let (factor, offset, interleaved, n_rotated) = (1.0, 0.0, 0, 0);
        let (is_mapped, map, order) = (false, None, Order::Rows);
        Weight { shape, bytes, stored, factor, offset, interleaved, n_rotated, is_mapped, map, order }
    }

    /// Notes that the bytes lie in a mapped file.
    pub(super) fn of_file(self) -> Self {
        Weight { is_mapped: true, ..self }
    }

    /// Gives the pages of the file back to the system, from which they come again when they are read again.
    #[cfg(target_os = "linux")]
    #[expect(unsafe_code, reason = "weights are mapped")]
    pub fn give_back(&self) {
        use rustix::{mm, param::page_size};

        let place = self.bytes.as_ptr().addr()..self.bytes.as_ptr().addr() + self.bytes.len();
        let start = self.bytes.as_ptr().wrapping_add(place.start.next_multiple_of(page_size()) - place.start);
        let n_bytes = (place.end / page_size() * page_size()).saturating_sub(start.addr());
        if self.is_mapped && n_bytes > 0 {
            // SAFETY: the pages are of a file that is mapped to be read alone. A failure costs memory alone.
            let _ = unsafe { mm::madvise(start.cast_mut().cast(), n_bytes, mm::Advice::LinuxDontNeed) };
        }
    }

    #[cfg(not(target_os = "linux"))]
    pub fn give_back(&self) {}

    /// Reads the bytes in another order, as a tensor of `shape`.
    pub(super) fn ordered(self, shape: Vec<usize>, order: Order<'a>) -> Self {
        Weight { shape, order, ..self }
    }

    /// Takes a vector for a matrix of one row.
    pub(super) fn into_row(self) -> Self {
        Weight { shape: vec![1, self.shape.iter().product()], ..self }
    }

    /// Returns one of the tensors that this one is a list of.
    pub(super) fn item(&self, i: usize) -> Self {
        let Weight { shape, .. } = self.rows(i..i + 1);
        Weight { shape: shape[1..].to_vec(), ..self.rows(i..i + 1) }
    }

    /// Lets blocks be used after the weight is gone; `map` is where the bytes lie.
    pub(super) fn mapped_in(self, map: &'a Arc<Mmap>) -> Self {
        Weight { map: Some(map), ..self.of_file() }
    }

    /// Returns the blocks as they are stored; `None` for numbers that are not in blocks, or not used
    /// unchanged, or of no matrix.
    pub fn in_file(&self) -> Option<InFile> {
        let (map, Stored::Quantized(format), &[n_rows, width]) = (self.map?, self.stored, &self.shape[..])
        else {
            return None;
        };
        if (self.factor, self.offset, self.order) != (1.0, 0.0, Order::Rows) {
            return None;
        }
        let start = (self.bytes.as_ptr() as usize).checked_sub(map.as_ptr() as usize)?;
        let (range, shape) = (start..start + self.bytes.len(), [n_rows, width]);
        let (interleaved, n_rotated) = (self.interleaved, self.n_rotated);
        Some(InFile { map: map.clone(), range, format, shape, interleaved, n_rotated })
    }

    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Returns the tensor's bytes in the file.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    pub fn stored(&self) -> Stored {
        self.stored
    }

    /// Returns the blocks of a quantised tensor, for a device that reads them itself; `None` for heads that are
    /// interleaved in part, which no device knows.
    pub fn blocks(&self) -> Option<Blocks<'a>> {
        let Weight { factor, offset, interleaved, .. } = *self;
        match self.stored {
            Stored::Plain(_) => None,
            Stored::Quantized(_) if interleaved != self.n_rotated => None,
            Stored::Quantized(format) => {
                Some(Blocks { format, bytes: self.in_rows(), factor, offset, interleaved })
            }
        }
    }

    /// Multiplies all numbers by `factor`.
    pub fn times(self, factor: f32) -> Self {
        Weight { factor: self.factor * factor, offset: self.offset * factor, ..self }
    }

    /// Adds `offset` to all numbers.
    pub fn plus(self, offset: f32) -> Self {
        Weight { offset: self.offset + offset, ..self }
    }

    /// Moves the first `n_rotated` of each head's rows from (0, 1), (2, 3), … to (0, `n_rotated` / 2),
    /// (1, `n_rotated` / 2 + 1), ….
    pub fn deinterleaved(self, head_dim: usize, n_rotated: usize) -> Self {
        Weight { interleaved: head_dim, n_rotated, ..self }
    }

    /// Selects `rows`, which must be whole heads if the heads are interleaved.
    pub fn rows(&self, rows: Range<usize>) -> Self {
        let n = self.bytes.len() / self.shape[0];
        let shape = [&[rows.len()], &self.shape[1..]].concat();
        Weight { shape, bytes: &self.bytes[rows.start * n..rows.end * n], ..self.clone() }
    }

    /// Splits the weight into parts of about so many bytes of its file, each with its first row; into one where rows do
    /// not lie one after the other.
    pub fn parts(&self, n_bytes: usize) -> Vec<(usize, Self)> {
        let (n_rows, together) = (self.shape[0], self.interleaved.max(1));
        if self.shape.len() < 2 || self.order != Order::Rows || self.bytes.len() <= n_bytes {
            return vec![(0, self.clone())];
        }
        let step = (n_bytes / (self.bytes.len() / n_rows * together)).max(1) * together;
        (0..n_rows).step_by(step).map(|first| (first, self.rows(first..n_rows.min(first + step)))).collect()
    }

    /// Reads all numbers.
    ///
    /// # Errors
    /// [`Error::Device`] when quantized blocks cannot be read.
    pub fn read(&self) -> Result<Values<'a>, Error> {
        if self.interleaved == 0 {
            return self.decoded(self.in_rows(), self.shape.clone());
        }
        let row = |row| row_in_file(row, self.interleaved, self.n_rotated);
        let mut bytes = Vec::new();
        self.gather((0..self.shape[0]).into_par_iter().map(row), &mut bytes);
        self.decoded(Cow::Owned(bytes), self.shape.clone())
    }

    /// Reads all numbers as f32.
    ///
    /// # Errors
    /// As [`Weight::read`].
    pub fn numbers(&self) -> Result<Vec<f32>, Error> {
        let values = self.read()?;
        Ok(plain(values.dtype, &values.data).collect())
    }

    /// Returns the bytes row after row.
    fn in_rows(&self) -> Cow<'a, [u8]> {
        let sizes = [self.shape[0], self.shape[1..].iter().product()];
        match (self.order, self.stored) {
            (Order::Columns { n, first, step }, Stored::Plain(dtype)) => {
                of_columns(self.bytes, dtype.bitsize() / 8, [n, first, step], sizes).into()
            }
            (Order::Pairs { exponents, first, step }, Stored::Quantized(_)) => {
                of_pairs(self.bytes, exponents, [first, step], sizes).into()
            }
            _ => self.bytes.into(),
        }
    }

    /// Copies the bytes of `rows`, in that order, to `bytes`, which become as long: memory that is used again costs
    /// less than new memory.
    pub fn gather(&self, rows: impl IndexedParallelIterator<Item = usize>, bytes: &mut Vec<u8>) {
        let n = self.bytes.len() / self.shape[0];
        match bytes.capacity() {
            0 => *bytes = vec![0; rows.len() * n], // the threads bring its pages
            _ => bytes.resize(rows.len() * n, 0),
        }
        let places = bytes.par_chunks_mut(n.max(1)).with_min_len(AT_A_TIME).zip(rows);
        places.for_each(|(to, row)| to.copy_from_slice(&self.bytes[row * n..][..n]));
    }

    /// Returns the weight whose rows have these bytes, as [`Weight::gather`] copies them.
    pub fn of_rows<'b>(&self, bytes: &'b [u8]) -> Weight<'b> {
        let n_rows = bytes.len() / (self.bytes.len() / self.shape[0]);
        let shape = [&[n_rows], &self.shape[1..]].concat();
        let Weight { stored, factor, offset, .. } = *self;
        Weight { factor, offset, ..Weight::new(shape, bytes, stored) }
    }

    fn decoded(&self, bytes: Cow<'a, [u8]>, shape: Vec<usize>) -> Result<Values<'a>, Error> {
        let (dtype, data) = match self.stored {
            Stored::Plain(dtype) if (self.factor, self.offset) == (1.0, 0.0) => (dtype, bytes),
            Stored::Plain(dtype) => (Dtype::F32, self.mapped(plain(dtype, &bytes)).into()),
            Stored::Quantized(format) => (Dtype::F32, self.dequantised(format, &bytes)?.into()),
        };
        Ok(Values { dtype, shape, data })
    }

    /// Decodes blocks; returns the bytes of f32.
    fn dequantised(&self, format: Format, blocks: &[u8]) -> Result<Vec<u8>, Error> {
        let n_blocks = (1 << 18) / format.block_size();
        let mut numbers = vec![0; blocks.len() / format.block_bytes() * format.block_size() * 4];
        let parts = blocks.par_chunks(n_blocks * format.block_bytes());
        let places = numbers.par_chunks_mut(n_blocks * format.block_size() * 4);
        let read = |(blocks, place): (&[u8], &mut [u8])| {
            let numbers = dequantise::numbers(format, blocks)?;
            place
                .as_chunks_mut()
                .0
                .iter_mut()
                .zip(numbers)
                .for_each(|(to, x)| *to = self.changed(x).to_le_bytes());
            Ok(())
        };
        parts.zip(places).try_for_each(read).map_err(|e: candle_core::Error| {
            Error::device("cpu", format!("{format} cannot be read: {e}"), "choose another file of this model")
        })?;
        Ok(numbers)
    }

    /// Applies `factor` and `offset`.
    fn changed(&self, x: f32) -> f32 {
        self.factor * x + self.offset
    }

    /// Applies `factor` and `offset`; returns the bytes of f32.
    fn mapped(&self, numbers: impl Iterator<Item = f32>) -> Vec<u8> {
        numbers.flat_map(|x| self.changed(x).to_le_bytes()).collect()
    }
}

/// Returns the numbers of f32, f16 or bf16 `bytes` as f32.
fn plain(dtype: Dtype, bytes: &[u8]) -> Box<dyn Iterator<Item = f32> + '_> {
    match dtype {
        Dtype::F16 => Box::new(bytes.as_chunks().0.iter().map(|b| f16::from_le_bytes(*b).to_f32())),
        Dtype::BF16 => Box::new(bytes.as_chunks().0.iter().map(|b| bf16::from_le_bytes(*b).to_f32())),
        _ => Box::new(bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_of_whole_heads_and_make_up_the_weight() {
        let bytes: Vec<u8> = (0..64u32 * 16).flat_map(|i| (i as f32).to_le_bytes()).collect();
        let plain = Weight::new(vec![64, 16], &bytes, Stored::Plain(Dtype::F32));
        let turned = plain.clone().deinterleaved(16, 16);
        for (weight, rows) in [(&plain, 15), (&turned, 16)] {
            let parts = weight.parts(1000);
            assert!(parts.iter().enumerate().all(|(i, (first, _))| *first == rows * i), "{rows}");
            let numbers: Vec<f32> = parts.iter().flat_map(|(_, part)| part.numbers().unwrap()).collect();
            assert_eq!(numbers, weight.numbers().unwrap());
        }
        assert_eq!(plain.parts(4096).len(), 1);
        let columns = plain.clone().ordered(vec![16, 64], Order::Columns { n: 64, first: 0, step: 1 });
        assert_eq!(columns.parts(1000).len(), 1);
    }
}
