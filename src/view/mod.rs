//! Findings as something to see: figures, reports, a page to explore, and tables in a notebook.

mod describe;
mod explore;
pub mod notebook;
pub mod plot;
mod report;

pub use explore::Explore;
pub use report::Report;
