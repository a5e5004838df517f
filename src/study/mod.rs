//! Many prompts: read from a file of lines, and told as rows of tables that every tool for data reads.

pub mod lines;
#[cfg(feature = "parquet")]
mod parquet;
pub mod rows;
#[cfg(feature = "parquet")]
mod summed;
#[cfg(feature = "parquet")]
pub mod tables;

pub use lines::{Prompt, Prompts, Shard};
pub use rows::{AnchorRow, HeadRow, PromptRow, Rows, SpanRow};
#[cfg(feature = "parquet")]
pub use summed::{OfHead, Spread, Study};
#[cfg(feature = "parquet")]
pub use tables::Tables;
