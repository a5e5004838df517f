//! The key blocks that searches keep: hand-made cases, and random ones against the definition and against
//! each other.
#![cfg(feature = "engine")]

#[path = "search/budget.rs"]
mod budget;
#[path = "search/by_hand.rs"]
mod by_hand;
#[path = "search/case.rs"]
mod case;
#[path = "search/extremes.rs"]
mod extremes;
#[path = "search/random.rs"]
mod random;
