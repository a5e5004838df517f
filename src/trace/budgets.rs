//! How many key blocks the query blocks of each head keep, and where their rows lie.

use std::ops::Range;

/// Key blocks that each query block of a head keeps, head by head.
///
/// Rows of kept blocks, of their masses and of the focus tokens lie one after the other: all rows of the
/// first head, then those of the second, each as long as its head's budget.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Budgets {
    /// `[n_heads]`
    top_k: Vec<usize>,
    /// Sum of the budgets of the heads before. `[n_heads]`
    before: Vec<usize>,
}

impl Budgets {
    /// Makes budgets of the key blocks of each head.
    pub fn new(top_k: Vec<usize>) -> Self {
        let mut sum = 0;
        let before = top_k
            .iter()
            .map(|k| {
                sum += k;
                sum - k
            })
            .collect();
        Budgets { top_k, before }
    }

    /// Gives each of `n_heads` the same budget.
    pub fn uniform(n_heads: usize, top_k: usize) -> Self {
        Budgets::new(vec![top_k; n_heads])
    }

    pub fn n_heads(&self) -> usize {
        self.top_k.len()
    }

    /// Returns the budget of a head.
    pub fn top_k(&self, head: usize) -> usize {
        self.top_k[head]
    }

    /// Returns the budgets. `[n_heads]`
    pub fn as_slice(&self) -> &[usize] {
        &self.top_k
    }

    /// Returns the largest budget of a head.
    pub fn most(&self) -> usize {
        self.top_k.iter().copied().max().unwrap_or_default()
    }

    /// Returns the key blocks in one row of each head.
    pub fn sum(&self) -> usize {
        self.top_k.iter().sum()
    }

    /// Returns the range of row `row` of a head, where each head has `n_rows` rows.
    pub fn row(&self, head: usize, row: usize, n_rows: usize) -> Range<usize> {
        let start = self.before[head] * n_rows + row * self.top_k[head];
        start..start + self.top_k[head]
    }

    /// Returns the range of all `n_rows` rows of a head.
    pub fn rows(&self, head: usize, n_rows: usize) -> Range<usize> {
        let start = self.before[head] * n_rows;
        start..start + self.top_k[head] * n_rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_lie_one_after_the_other() {
        let budgets = Budgets::new(vec![2, 0, 3]);
        let n_rows = 4;
        let rows: Vec<_> = (0..3)
            .flat_map(|head| (0..n_rows).map(move |row| (head, row)))
            .map(|(h, r)| budgets.row(h, r, n_rows))
            .collect();
        assert!(rows.windows(2).all(|pair| pair[0].end == pair[1].start), "{rows:?}");
        assert_eq!((rows[0].start, rows[11].end), (0, budgets.sum() * n_rows));
        assert_eq!((budgets.rows(2, n_rows), budgets.most()), (8..20, 3));
    }
}
