//! Packs the strongest cells of a sparse matrix: integers in LEB128 (seven bits per byte), masses in one byte
//! on a logarithmic scale.

/// The number of decades below 1 that the level of a mass covers.
const DECADES: f32 = 5.0;

/// One kept cell.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Cell {
    pub row: u32,
    pub column: u32,
    pub mass: f32,
}

/// Sorts cells by row and column; of several with the same row and column, the one with the largest mass
/// stays.
pub(super) fn merged(mut cells: Vec<Cell>) -> Vec<Cell> {
    cells.sort_unstable_by(|a, b| (a.row, a.column).cmp(&(b.row, b.column)).then(b.mass.total_cmp(&a.mass)));
    cells.dedup_by_key(|cell| (cell.row, cell.column));
    cells
}

/// Returns at most `n` cells with the most mass, in their order, and the largest mass left out; 0 if none is
/// left out.
pub(super) fn strongest(cells: Vec<Cell>, n: usize) -> (Vec<Cell>, f32) {
    if cells.len() <= n {
        return (cells, 0.0);
    }
    let mut masses: Vec<f32> = cells.iter().map(|cell| cell.mass).collect();
    let (_, &mut floor, _) = masses.select_nth_unstable_by(n, |a, b| b.total_cmp(a));
    (cells.into_iter().filter(|cell| cell.mass > floor).collect(), floor)
}

/// Appends the number of cells of each row, the steps from column to column, and the levels of the masses.
pub(super) fn pack(out: &mut Vec<u8>, cells: &[Cell], n_rows: usize) {
    let mut counts = vec![0; n_rows];
    cells.iter().for_each(|cell| counts[cell.row as usize] += 1);
    counts.into_iter().for_each(|count| integer(out, count));
    for row in cells.chunk_by(|a, b| a.row == b.row) {
        let mut last = 0;
        for cell in row {
            integer(out, cell.column - last);
            last = cell.column;
        }
    }
    out.extend(cells.iter().map(|cell| level(cell.mass)));
}

/// Appends an integer in LEB128: seven bits per byte, the lowest first; the eighth bit says that more follow.
pub(super) fn integer(out: &mut Vec<u8>, mut value: u32) {
    while value > 127 {
        out.push(value as u8 | 128);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Maps a mass to a level: 255 for a mass of 1, 0 for 1e-5 and less.
fn level(mass: f32) -> u8 {
    // NaN becomes 0.
    (255.0 * (1.0 + mass.log10() / DECADES)).round() as u8
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
        pack(&mut out, &[cell(0, 3, 1.0), cell(0, 300, 0.1), cell(2, 0, 1e-9)], 3);
        assert_eq!(out, [2, 0, 1, 3, 0b1010_1001, 0b10, 0, 255, 204, 0]);
    }

    #[test]
    fn the_strongest_stay_in_order() {
        let cells = vec![cell(0, 1, 0.5), cell(0, 9, 0.1), cell(1, 0, 0.3), cell(1, 2, 0.2)];
        assert_eq!(strongest(cells.clone(), 2), (vec![cells[0], cells[2]], 0.2));
        assert_eq!(strongest(cells.clone(), 4), (cells, 0.0));
    }

    #[test]
    fn of_cells_in_one_place_the_strongest_stays() {
        let cells = vec![cell(1, 0, 0.3), cell(0, 1, 0.5), cell(1, 0, 0.7), cell(0, 1, 0.1)];
        assert_eq!(merged(cells), [cell(0, 1, 0.5), cell(1, 0, 0.7)]);
    }

    #[test]
    fn masses_that_are_no_numbers_are_weak() {
        assert_eq!([f32::NAN, -1.0, 0.0, 2.0].map(level), [0, 0, 0, 255]);
    }
}
