//! Text for readers: numbers, tables, escaping, and the shell of an HTML page. Knows no model and no trace.

pub(crate) mod html;
pub(crate) mod letters;
pub mod numbers;
pub(crate) mod safe;
pub(crate) mod table;
pub mod text_file;
