//! A [`Tracer`] whose engine is on another machine.

use std::sync::PoisonError;

use super::{Tracer, delivery::Delivery};
use crate::{
    error::Error,
    protocol::{LoadOptions, Request},
    start::engine_of,
    trace::Trace,
};

impl Tracer {
    /// Connects to a model on another machine: `command` is a line for the shell that starts an engine there
    /// and speaks with it over its standard input and output.
    ///
    /// The model stays there; traces come back packed, layer by layer. With `ssh`, keys must be in place: a
    /// password cannot be asked for.
    ///
    /// ```no_run
    /// # use streamtrace::prelude::*;
    /// let tracer = Tracer::connect("ssh gpu streamtrace serve --model models/Qwen3-8B")?;
    /// let trace = tracer.with_layers(&[20, 21])?.trace("A long prompt.")?;
    /// # Ok::<(), Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Engine`] when the command fails, is no engine or one of another version, or names no model;
    /// as [`Tracer::load`].
    pub fn connect(command: &str) -> Result<Self, Error> {
        Self::start(engine_of(command), Request::Model, Delivery::InPieces(None))
    }

    /// Connects as [`Tracer::connect`], with a model that is named here: a folder of the other machine.
    ///
    /// # Errors
    /// As [`Tracer::connect`], and [`Error::Device`].
    pub fn connect_with(command: &str, options: LoadOptions) -> Result<Self, Error> {
        Self::start(engine_of(command), Request::Load(options), Delivery::InPieces(None))
    }

    /// Returns the same tracer with traces of these layers alone, for a connection that is slow.
    ///
    /// # Errors
    /// [`Error::Setting`] when the model is on this machine or no layer is named, [`Error::Missing`] for one
    /// that it does not have.
    pub fn with_layers(&self, layers: &[usize]) -> Result<Self, Error> {
        let layers = self.model.chosen(layers)?;
        match self.delivery {
            Delivery::Whole => Err(Error::setting(
                "layers of a trace",
                "a tracer from Tracer::connect",
                format!("a model on this machine ({})", self.device),
                "trace all layers, for nothing travels; Trace::of_layers takes some of them",
            )),
            Delivery::InPieces(_) => {
                Ok(Tracer { delivery: Delivery::InPieces(Some(layers)), ..self.clone() })
            }
        }
    }

    /// Returns the part of the last trace that had arrived when its connection broke off: a trace of fewer
    /// layers; once.
    pub fn arrived(&self) -> Option<Trace> {
        self.engine.lock().unwrap_or_else(PoisonError::into_inner).arrived()
    }
}
