//! Values as tables, for notebooks and the command line.

mod analysis;
mod protocol;
mod tasks;
mod times;
mod trace;
