//! Query blocks between the two halves of the exhaustive search.

use std::ops::Range;

use super::{array::Array, params::ExhaustiveParams};

/// Query blocks whose key blocks have scores, of which the best are yet to be kept.
pub struct Scored {
    pub found: Range<usize>,
    pub scores: Array<u32>,
    /// Of the kernels that made the scores.
    pub params: ExhaustiveParams,
}
