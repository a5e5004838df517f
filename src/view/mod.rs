//! Views of findings: figures, reports, an interactive page, and tables in a notebook.

mod describe;
mod explore;
pub mod notebook;
pub mod plot;
mod report;

pub use explore::{Explore, Shown};
pub use report::Report;
