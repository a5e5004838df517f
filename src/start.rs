//! The engine that answers: the one in this program, with the feature `engine`, or a process of its own.

use crate::{
    error::Error,
    protocol::{
        Engine, Payload, Progress, Reply, Request,
        process::{Command, Process},
        unexpected,
    },
};

/// Returns the engine of this build.
#[cfg(feature = "engine")]
pub(crate) fn default_engine() -> Result<Box<dyn Engine>, Error> {
    Ok(Box::new(crate::engine::Local::default()))
}

/// Returns the engine of this build: the binary `streamtrace`.
#[cfg(not(feature = "engine"))]
pub(crate) fn default_engine() -> Result<Box<dyn Engine>, Error> {
    Ok(Box::new(Process::new(Command::find()?)))
}

/// Returns an engine that a line for the shell starts, on any machine.
pub(crate) fn engine_of(line: &str) -> Box<dyn Engine> {
    Box::new(Process::new(Command::line(line)))
}

/// Draws an SVG as a PNG, `scale` pixels to a unit.
///
/// # Errors
/// [`Error::Engine`] when the engine's binary is not there, [`Error::Setting`] for a picture that cannot be
/// drawn.
pub(crate) fn rasterize(svg: &str, scale: f32) -> Result<Vec<u8>, Error> {
    let request = Request::Rasterize { svg: svg.into(), scale };
    let mut report = |progress| {
        if let Progress::Note(note) = progress {
            eprintln!("{note}");
        }
    };
    match default_engine()?.call(request, Payload::None, &mut report)? {
        (Reply::Rasterized, Payload::Bytes(png)) => Ok(png),
        (reply, _) => Err(unexpected(&reply)),
    }
}
