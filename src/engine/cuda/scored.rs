//! What the searches leave: the exhaustive one scores between its two halves, the hierarchical one log-sum-exps.

use std::ops::Range;

use super::{array::Array, params::ExhaustiveParams};

/// Query blocks whose key blocks have scores, of which the best are yet to be kept.
pub struct Scored {
    pub found: Range<usize>,
    pub scores: Array<u32>,
    /// Of the kernels that made the scores.
    pub params: ExhaustiveParams,
}

/// What the hierarchical search found of rows besides their blocks: log-sum-exps over these, 0 where it does not know.
/// `norms` is `[n_rows, n_heads]`
pub struct Found {
    pub tokens: Range<usize>,
    pub norms: Array<f32>,
}
