//! The handle that a user holds: [`Tracer`].

mod answers;
mod causes;
mod delivery;
mod progress;
mod remote;
mod tasks;
mod tracer;

pub use progress::part_of;
pub use tracer::Tracer;
