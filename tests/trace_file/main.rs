//! The trace file: what is written is read back, from Rust and from Python; what is damaged is refused.

mod damage;
mod python;
mod reading;
mod sample;
mod saving;
