//! Trace files are read back as written, from Rust and from Python; damaged files are refused.

mod damage;
mod python;
mod reading;
mod sample;
mod saving;
