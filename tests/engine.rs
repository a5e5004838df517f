//! The engine as a process: it answers like the engine in the same process, and its exit is only an error.
#![cfg(feature = "engine")]

#[path = "engine/answers.rs"]
mod answers;
mod common;
#[path = "engine/elsewhere.rs"]
mod elsewhere;
#[path = "engine/ends.rs"]
mod ends;
#[path = "engine/faults.rs"]
mod faults;
#[path = "engine/fidelity.rs"]
mod fidelity;
#[path = "engine/fixture.rs"]
mod fixture;
#[path = "engine/soak.rs"]
mod soak;
#[path = "engine/strangers.rs"]
mod strangers;
#[path = "engine/writing.rs"]
mod writing;
