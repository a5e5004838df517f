//! Attention over kept blocks and dense attention, against definitions in f64 that are too simple to be
//! wrong.
#![cfg(feature = "engine")]

#[path = "attention/grouped.rs"]
mod grouped;
#[path = "attention/layer.rs"]
mod layer;
#[path = "attention/naive.rs"]
mod naive;
#[path = "attention/one_head.rs"]
mod one_head;
#[path = "attention/shapes.rs"]
mod shapes;
