//! The handle that a user holds: [`Tracer`].

mod delivery;
mod remote;
mod tracer;

pub use tracer::Tracer;
