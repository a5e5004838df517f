//! Matrices that do not lie row after row in their file.

use rayon::prelude::*;

/// Bytes of an MXFP4 block of 32 numbers of 4 bits, and of one with its exponent.
pub const PAIRS: usize = 16;
const BLOCK: usize = PAIRS + 1;

/// How a matrix lies in its bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Order<'a> {
    /// Row after row.
    #[default]
    Rows,
    /// Plain numbers, column after column of `n`; the rows of the matrix are those from `first` on in steps of `step`.
    Columns { n: usize, first: usize, step: usize },
    /// MXFP4 blocks of neighbouring pairs, row after row, with their exponents elsewhere; the rows of the matrix are
    /// those from `first` on in steps of `step`.
    Pairs { exponents: &'a [u8], first: usize, step: usize },
}

/// Copies `n_rows` rows of numbers of `size` bytes that lie in [`Order::Columns`].
pub fn of_columns(
    bytes: &[u8],
    size: usize,
    [n, first, step]: [usize; 3],
    [n_rows, width]: [usize; 2],
) -> Vec<u8> {
    let mut rows = vec![0; n_rows * width * size];
    rows.par_chunks_mut(width * size).enumerate().for_each(|(row, to)| {
        for (column, to) in to.chunks_mut(size).enumerate() {
            to.copy_from_slice(&bytes[(column * n + first + row * step) * size..][..size]);
        }
    });
    rows
}

/// Copies `n_rows` rows of MXFP4 that lie in [`Order::Pairs`] to llama.cpp's blocks: the exponent, then the first
/// half of the numbers in the low bits and the other half in the high ones.
pub fn of_pairs(
    pairs: &[u8],
    exponents: &[u8],
    [first, step]: [usize; 2],
    [n_rows, width]: [usize; 2],
) -> Vec<u8> {
    let n_blocks = width / (2 * PAIRS);
    let mut rows = vec![0; n_rows * n_blocks * BLOCK];
    rows.par_chunks_mut(n_blocks * BLOCK).enumerate().for_each(|(row, to)| {
        let at = (first + row * step) * n_blocks;
        for (i, to) in to.chunks_mut(BLOCK).enumerate() {
            to[0] = exponents[at + i];
            let (low, high) = pairs[(at + i) * PAIRS..][..PAIRS].split_at(PAIRS / 2);
            for ((to, low), high) in to[1..].as_chunks_mut().0.iter_mut().zip(low).zip(high) {
                *to = [low & 15 | high << 4, low >> 4 | high & 0xF0];
            }
        }
    });
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_gathered_from_columns() {
        // Two columns of five numbers of two bytes; rows 1 and 3.
        let bytes: Vec<u8> = (0..10u16).flat_map(u16::to_le_bytes).collect();
        let rows = of_columns(&bytes, 2, [5, 1, 2], [2, 2]);
        let numbers: Vec<u16> = rows.as_chunks().0.iter().map(|b| u16::from_le_bytes(*b)).collect();
        assert_eq!(numbers, [1, 6, 3, 8]);
    }

    #[test]
    fn neighbouring_pairs_become_llama_cpps_blocks() {
        // Row 1 of two: numbers 0 to 15, twice, of which neighbours share a byte.
        let row: Vec<u8> = (0..16).map(|i: u8| ((2 * i) % 16) | (((2 * i + 1) % 16) << 4)).collect();
        let pairs = [vec![0; 16], row].concat();
        let block = of_pairs(&pairs, &[7, 120], [1, 2], [1, 32]);
        let expected: Vec<u8> = [120].into_iter().chain((0..16).map(|i: u8| i | i << 4)).collect();
        assert_eq!(block, expected);
    }
}
