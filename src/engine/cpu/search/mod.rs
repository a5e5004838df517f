//! How the CPU finds the key blocks that a query block keeps, one head and query block at a time.

pub mod attention_share;
pub mod estimate;
pub mod exhaustive;
pub mod hierarchical;
