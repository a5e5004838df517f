//! Helpers of the benchmarks: the model on the available device, and the options after `--`.

use std::{
    path::{Path, PathBuf},
    str::FromStr,
};

use streamtrace::{Error, LoadOptions, Tracer};

/// The model of `--model`, or the bundled one, on a GPU if there is one.
pub fn model() -> Result<Tracer, Error> {
    let bundled = || Path::new(env!("CARGO_MANIFEST_DIR")).join("models/needle-6m");
    let model = option("--model").map_or_else(bundled, PathBuf::from);
    let tracer = Tracer::load_with(LoadOptions { model, ..LoadOptions::default() })?;
    eprintln!("{}", tracer.device());
    Ok(tracer)
}

/// The argument that follows `name`.
pub fn option(name: &str) -> Option<String> {
    std::env::args().skip_while(|argument| argument != name).nth(1)
}

/// The argument that follows `name`, or a default.
pub fn option_or<T: FromStr>(name: &str, default: T) -> Result<T, T::Err> {
    option(name).map_or(Ok(default), |value| value.parse())
}
