//! The handle that a user holds: [`Tracer`].

mod remote;
mod tracer;

pub use tracer::Tracer;
