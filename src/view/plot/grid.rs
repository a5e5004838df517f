//! Attention aggregated by maximum or by sum, in a grid of cells over a span of queries and a span of keys.

use std::ops::Range;

use super::{
    bitmap::{Bitmap, Shade},
    theme::LogScale,
};
use crate::trace::{Blocks, HeadTrace, Span};

/// A span of tokens cut into cells of equal size, of one token each if the tokens are few.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Cells {
    pub span: Span,
    pub n_cells: usize,
}

impl Cells {
    /// Cuts a span that is not empty into at most `max` cells.
    pub fn new(span: Span, max: usize) -> Self {
        Cells { span, n_cells: span.len().min(max) }
    }

    /// The tokens of a cell.
    pub fn tokens(&self, cell: usize) -> Range<usize> {
        let edge = |cell: usize| self.span.start + cell * self.span.len() / self.n_cells;
        edge(cell)..edge(cell + 1)
    }

    /// The cells that hold at least one of the tokens.
    pub fn holding(&self, tokens: &Range<usize>) -> Range<usize> {
        let start = tokens.start.max(self.span.start);
        let end = tokens.end.min(self.span.end);
        if start >= end {
            return 0..0;
        }
        // The last cell whose first token, start + ⌊cell · len / n_cells⌋, is not after the token.
        let cell = |token: usize| ((token - self.span.start + 1) * self.n_cells - 1) / self.span.len();
        cell(start)..cell(end - 1) + 1
    }

    /// The number of tokens in the largest cell.
    pub fn tokens_per_cell(&self) -> usize {
        self.span.len().div_ceil(self.n_cells)
    }
}

/// The state of a cell.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Cell {
    /// No query of the cell sees a key of the cell.
    Outside,
    /// A query sees a key, but no block of the cell was kept.
    Pruned,
    /// The mass of the cell's kept blocks.
    Kept(f32),
}

/// The kept mass of each cell: the largest, or the sum. Rows are queries, columns are keys.
pub(super) struct Grid {
    pub queries: Cells,
    pub keys: Cells,
    blocks: Blocks,
    /// `[queries.n_cells, keys.n_cells]`; negative where nothing was kept.
    largest: Vec<f32>,
}

impl Grid {
    /// Makes a grid of a head's blocks, each covering its tokens with its attention mass.
    pub fn from_blocks(head: &HeadTrace, queries: Cells, keys: Cells) -> Self {
        let mut grid = Grid::empty(head.blocks, queries, keys);
        let size = head.blocks.block_size_q;
        for query_block in queries.span.start / size..queries.span.end.div_ceil(size) {
            let rows = queries.holding(&head.blocks.queries(query_block));
            for (key_block, mass) in head.row(query_block) {
                grid.raise(rows.clone(), keys.holding(&head.blocks.keys(key_block)), mass);
            }
        }
        grid
    }

    /// Makes a grid of the attention that the queries of a cell give to its keys, in the mean: the sum of what
    /// they give to the kept blocks there.
    pub fn sums(head: &HeadTrace, queries: Cells, keys: Cells) -> Self {
        let mut grid = Grid::empty(head.blocks, queries, keys);
        let common =
            |a: &Range<usize>, b: &Range<usize>| a.end.min(b.end).saturating_sub(a.start.max(b.start)) as f32;
        let size = head.blocks.block_size_q;
        for query_block in queries.span.start / size..queries.span.end.div_ceil(size) {
            let of_block = head.blocks.queries(query_block);
            for (key_block, mass) in head.row(query_block) {
                let on_block = head.blocks.keys(key_block);
                for row in queries.holding(&of_block) {
                    let cell = queries.tokens(row);
                    let rows = common(&cell, &of_block) / cell.len() as f32;
                    for column in keys.holding(&on_block) {
                        let columns = common(&keys.tokens(column), &on_block) / on_block.len() as f32;
                        let sum = &mut grid.largest[row * keys.n_cells + column];
                        // A mass of NaN still marks its cell as kept.
                        *sum = sum.max(0.0) + (mass * rows * columns).max(0.0);
                    }
                }
            }
        }
        grid
    }

    /// Makes a grid of single tokens: the kept keys of each query of the span, with their probabilities.
    pub fn from_rows(rows: &[Vec<(usize, f32)>], blocks: Blocks, queries: Cells, keys: Cells) -> Self {
        let mut grid = Grid::empty(blocks, queries, keys);
        for (query, row) in queries.span.range().zip(rows) {
            let cells = queries.holding(&(query..query + 1));
            for &(key, probability) in row {
                grid.raise(cells.clone(), keys.holding(&(key..key + 1)), probability);
            }
        }
        grid
    }

    fn empty(blocks: Blocks, queries: Cells, keys: Cells) -> Self {
        Grid { queries, keys, blocks, largest: vec![-1.0; queries.n_cells * keys.n_cells] }
    }

    /// Raises cells that are below `mass` to it.
    fn raise(&mut self, rows: Range<usize>, columns: Range<usize>, mass: f32) {
        for row in rows {
            let start = row * self.keys.n_cells;
            for cell in &mut self.largest[start + columns.start..start + columns.end] {
                // A mass of NaN still marks its cell as kept.
                *cell = cell.max(mass).max(0.0);
            }
        }
    }

    pub fn cell(&self, row: usize, column: usize) -> Cell {
        let queries = self.queries.tokens(row);
        let keys = self.keys.tokens(column);
        let seen = keys.start < queries.end && keys.end > self.blocks.visible_keys(queries.start).start;
        match self.largest[row * self.keys.n_cells + column] {
            _ if !seen => Cell::Outside,
            mass if mass < 0.0 => Cell::Pruned,
            mass => Cell::Kept(mass),
        }
    }

    /// The largest mass of all cells, 0 if nothing was kept.
    pub fn max(&self) -> f32 {
        self.strongest().map_or(0.0, |(_, _, mass)| mass)
    }

    /// Row, column and mass of the strongest cell, the first of equals; `None` if nothing was kept.
    pub fn strongest(&self) -> Option<(usize, usize, f32)> {
        self.strongest_of(|_, _| true)
    }

    /// The same among the cells at some rows and columns.
    pub fn strongest_of(&self, among: impl Fn(usize, usize) -> bool) -> Option<(usize, usize, f32)> {
        let place = |at: usize| (at / self.keys.n_cells, at % self.keys.n_cells);
        let mut best = None;
        for (at, &mass) in self.largest.iter().enumerate().filter(|(_, mass)| **mass >= 0.0) {
            let (row, column) = place(at);
            if best.is_none_or(|(_, _, most)| mass > most) && among(row, column) {
                best = Some((row, column, mass));
            }
        }
        best
    }

    /// Paints one pixel per cell, with the grid's corner at `(left, top)`.
    pub fn paint(&self, scale: LogScale, picture: &mut Bitmap, (left, top): (usize, usize)) {
        for row in 0..self.queries.n_cells {
            for column in 0..self.keys.n_cells {
                let shade = match self.cell(row, column) {
                    Cell::Outside => Shade::Outside,
                    Cell::Pruned => Shade::Pruned,
                    Cell::Kept(mass) => Shade::Kept(scale.level(mass)),
                };
                picture.set(left + column, top + row, shade);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::trace::BlockMask;

    proptest! {
        #[test]
        fn cells_cover_the_span_once(start in 0usize..50, len in 1usize..2000, max in 1usize..600) {
            let cells = Cells::new(Span { start, end: start + len }, max);
            let mut next = start;
            for cell in 0..cells.n_cells {
                let tokens = cells.tokens(cell);
                prop_assert!(tokens.start == next && tokens.end > next);
                prop_assert!(tokens.len() <= cells.tokens_per_cell());
                prop_assert_eq!(cells.holding(&tokens), cell..cell + 1);
                next = tokens.end;
            }
            prop_assert_eq!(next, start + len);
        }

        #[test]
        fn cells_hold_exactly_the_tokens_they_share(
            len in 1usize..900,
            max in 1usize..40,
            start in 0usize..1000,
            n in 0usize..100,
        ) {
            let cells = Cells::new(Span { start: 5, end: 5 + len }, max);
            let tokens = start..start + n;
            let expected: Vec<usize> = (0..cells.n_cells)
                .filter(|&cell| n > 0 && overlap(cells.tokens(cell), &tokens))
                .collect();
            prop_assert_eq!(cells.holding(&tokens).collect::<Vec<_>>(), expected);
        }
    }

    fn overlap(a: Range<usize>, b: &Range<usize>) -> bool {
        a.start < b.end && b.start < a.end
    }

    /// A head in which every query keeps its own block, and one query block also a block far back.
    fn needle(n_tokens: usize, query_block: usize, key_block: u32, mass: f32) -> HeadTrace {
        let blocks = Blocks { n_tokens, block_size_q: 32, block_size_k: 8, window: None };
        let n = blocks.n_query_blocks();
        let mut kept = vec![BlockMask::NONE; 2 * n];
        let mut masses = vec![0.0; 2 * n];
        for row in 0..n {
            kept[2 * row] = (blocks.visible(row).end - 1) as u32;
            masses[2 * row] = 1e-4;
        }
        kept[2 * query_block] = key_block;
        masses[2 * query_block] = mass;
        HeadTrace::new(blocks, 2, kept, masses, vec![0.0; n_tokens])
    }

    #[test]
    fn a_lone_block_among_a_million_tokens_survives() {
        let head = needle(1 << 20, 20_000, 1234, 0.9);
        let whole = Cells::new(Span { start: 0, end: 1 << 20 }, 512);
        let grid = Grid::from_blocks(&head, whole, whole);
        let strong: Vec<(usize, usize)> = (0..512)
            .flat_map(|r| (0..512).map(move |c| (r, c)))
            .filter(|&(r, c)| grid.cell(r, c) == Cell::Kept(0.9))
            .collect();
        assert_eq!(strong, [(20_000 * 32 / 2048, 1234 * 8 / 2048)]);
        assert_eq!(grid.max(), 0.9);
    }

    #[test]
    fn three_states_are_told_apart() {
        let head = needle(64, 1, 0, 0.5);
        let cells = Cells::new(Span { start: 0, end: 64 }, 512);
        let grid = Grid::from_blocks(&head, cells, cells);
        assert_eq!(grid.cell(40, 3), Cell::Kept(0.5));
        assert_eq!(grid.cell(40, 20), Cell::Pruned);
        assert_eq!(grid.cell(40, 41), Cell::Outside);
        assert_eq!(grid.cell(40, 40), Cell::Pruned);
        assert_eq!(grid.cell(31, 31), Cell::Kept(1e-4));
    }

    #[test]
    fn sums_of_a_row_are_what_its_queries_keep() {
        let head = needle(2048, 40, 3, 0.5);
        for n_cells in [2048, 100, 64, 7] {
            let cells = Cells::new(Span { start: 0, end: 2048 }, n_cells);
            let grid = Grid::sums(&head, cells, cells);
            let mass = |cell: &f32| if *cell > 0.0 { *cell } else { 0.0 };
            let tokens: Vec<f32> = (0..n_cells).map(|row| cells.tokens(row).len() as f32).collect();
            let rows = grid.largest.chunks(n_cells).zip(tokens);
            let all: f32 = rows.map(|(row, n)| row.iter().map(mass).sum::<f32>() * n).sum();
            assert!((all - 32.0 * (0.5 + 63.0 * 1e-4)).abs() < 1e-3, "{n_cells}: {all}");
        }
    }

    #[test]
    fn a_window_hides_old_keys() {
        let mut head = needle(64, 1, 6, 0.5);
        head.blocks.window = Some(8);
        let cells = Cells::new(Span { start: 0, end: 64 }, 512);
        let grid = Grid::from_blocks(&head, cells, cells);
        assert_eq!(grid.cell(50, 42), Cell::Outside);
        assert_eq!(grid.cell(50, 43), Cell::Pruned);
        assert_eq!(grid.cell(50, 48), Cell::Kept(0.5));
    }
}
