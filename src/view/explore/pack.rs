//! Packs the strongest cells of a sparse matrix: integers in LEB128 (seven bits per byte), masses in the 16 bits
//! that the trace itself has.

use half::f16;

/// One kept cell.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Cell {
    pub row: u32,
    pub column: u32,
    pub mass: f32,
}

/// The cells of a matrix that a view holds.
#[derive(Debug, PartialEq)]
pub(super) struct Picked {
    pub cells: Vec<Cell>,
    /// The number of cells of each row that are left out.
    pub left: Vec<u32>,
    /// The largest mass left out; 0 if none is.
    pub floor: f32,
}

/// Sorts cells by row and column; of several with the same row and column, the one with the largest mass
/// stays.
pub(super) fn merged(mut cells: Vec<Cell>) -> Vec<Cell> {
    cells.sort_unstable_by(|a, b| (a.row, a.column).cmp(&(b.row, b.column)).then(b.mass.total_cmp(&a.mass)));
    cells.dedup_by_key(|cell| (cell.row, cell.column));
    cells
}

/// Picks at most `n` cells with the most mass, in their order.
pub(super) fn strongest(mut cells: Vec<Cell>, n: usize, n_rows: usize) -> Picked {
    let mut left = vec![0; n_rows];
    if cells.len() <= n {
        return Picked { cells, left, floor: 0.0 };
    }
    let mut masses: Vec<f32> = cells.iter().map(|cell| cell.mass).collect();
    let (_, &mut floor, _) = masses.select_nth_unstable_by(n, |a, b| b.total_cmp(a));
    cells.retain(|cell| {
        let stays = cell.mass > floor;
        left[cell.row as usize] += u32::from(!stays);
        stays
    });
    Picked { cells, left, floor }
}

/// Appends the numbers of cells of each row that are held and that are left out, the steps from column to
/// column, then the upper and the lower bytes of the masses, without their last `coarse` bits.
pub(super) fn pack(out: &mut Vec<u8>, picked: &Picked, coarse: u32) {
    let Picked { cells, left, .. } = picked;
    let mut counts = vec![0; left.len()];
    cells.iter().for_each(|cell| counts[cell.row as usize] += 1);
    counts.iter().chain(left).for_each(|&count| integer(out, count));
    for row in cells.chunk_by(|a, b| a.row == b.row) {
        let mut last = 0;
        for cell in row {
            integer(out, cell.column - last);
            last = cell.column;
        }
    }
    out.extend(cells.iter().map(|cell| (bits(cell.mass, coarse) >> 8) as u8));
    out.extend(cells.iter().map(|cell| bits(cell.mass, coarse) as u8));
}

/// Appends an integer in LEB128: seven bits per byte, the lowest first; the eighth bit says that more follow.
pub(super) fn integer(out: &mut Vec<u8>, mut value: u32) {
    while value > 127 {
        out.push(value as u8 | 128);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Returns a mass as the bits of a half, rounded to multiples of 2^`coarse`. They rise with the mass from 0 to
/// `0x3c00`, a mass of 1.
fn bits(mass: f32, coarse: u32) -> u16 {
    // NaN becomes 0.
    let mass = if mass > 0.0 { mass.min(1.0) } else { 0.0 };
    let bits = u32::from(f16::from_f32(mass).to_bits());
    ((bits + (1 << coarse >> 1)) >> coarse << coarse) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cell(row: u32, column: u32, mass: f32) -> Cell {
        Cell { row, column, mass }
    }

    #[test]
    fn packed_numbers_are_what_the_page_reads() {
        let mut out = Vec::new();
        let cells = vec![cell(0, 3, 1.0), cell(0, 300, 0.1), cell(2, 0, 1e-9)];
        pack(&mut out, &Picked { cells, left: vec![0, 7, 0], floor: 0.0 }, 0);
        let counts_and_columns = [2, 0, 1, 0, 7, 0, 3, 0b1010_1001, 0b10, 0];
        assert_eq!(out, [&counts_and_columns[..], &[0x3c, 0x2e, 0, 0x00, 0x66, 0]].concat());
    }

    #[test]
    fn the_strongest_stay_in_order() {
        let cells = vec![cell(0, 1, 0.5), cell(0, 9, 0.1), cell(1, 0, 0.3), cell(1, 2, 0.2)];
        let two = Picked { cells: vec![cells[0], cells[2]], left: vec![1, 1, 0], floor: 0.2 };
        assert_eq!(strongest(cells.clone(), 2, 3), two);
        assert_eq!(strongest(cells.clone(), 4, 2), Picked { cells, left: vec![0, 0], floor: 0.0 });
    }

    #[test]
    fn of_cells_in_one_place_the_strongest_stays() {
        let cells = vec![cell(1, 0, 0.3), cell(0, 1, 0.5), cell(1, 0, 0.7), cell(0, 1, 0.1)];
        assert_eq!(merged(cells), [cell(0, 1, 0.5), cell(1, 0, 0.7)]);
    }

    #[test]
    fn masses_keep_their_bits_and_what_is_no_mass_is_0_or_1() {
        for mass in [0.891f32, 0.000_123, 1.0, 6e-8] {
            assert_eq!(bits(mass, 0), f16::from_f32(mass).to_bits());
            let coarse = f16::from_bits(bits(mass, 4)).to_f32();
            assert!(mass < 1e-4 || (coarse / mass - 1.0).abs() < 0.008, "{coarse} for {mass}");
        }
        assert_eq!([f32::NAN, -1.0, 0.0, 2.0].map(|mass| bits(mass, 4)), [0, 0, 0, 0x3c00]);
    }
}
