//! How anything is put in words: numbers, tables, safe text, the shell of a page. Knows no model and no trace.

pub(crate) mod html;
pub mod numbers;
pub(crate) mod safe;
pub(crate) mod table;
