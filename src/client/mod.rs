//! The handle that a user holds: [`Tracer`].

mod answers;
mod causes;
mod delivery;
mod remote;
mod tasks;
mod tracer;

pub use tracer::Tracer;
