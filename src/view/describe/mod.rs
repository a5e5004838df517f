//! Values as tables of names and numbers, for a notebook's cell and the command line.

mod analysis;
mod protocol;
mod tasks;
mod trace;
