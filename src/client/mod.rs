//! The handle that a user holds: [`Tracer`].

mod answers;
mod batch;
mod causes;
mod delivery;
mod progress;
mod remote;
mod tasks;
mod tracer;

pub use batch::Traced;
pub use progress::part_of;
pub use tracer::Tracer;
