//! Whole traces on this machine, pieces from another.

/// The way in which a trace comes from the engine.
#[derive(Clone)]
pub(super) enum Delivery {
    Whole,
    /// Layer by layer, packed; these layers or all.
    InPieces(Option<Vec<usize>>),
}
