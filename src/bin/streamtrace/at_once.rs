//! Prompts that share a device, for the commands that run many.

use std::{
    num::NonZeroUsize,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use clap::Args;
use streamtrace::{Error, Tracer};

use crate::args::ModelArgs;

#[derive(Args)]
pub struct AtOnceArgs {
    /// Prompts that share the device; each has the model for itself, and its part of the memory
    #[arg(long, value_name = "PROMPTS", default_value_t = NonZeroUsize::MIN)]
    at_once: NonZeroUsize,
}

impl AtOnceArgs {
    /// Loads the model as often as prompts share the device.
    pub fn tracers(&self, model: &ModelArgs) -> Result<Vec<Tracer>, Error> {
        if model.is_of_ranks() && self.at_once.get() > 1 {
            let expected = "1 prompt, which all ranks trace together";
            return Err(Error::setting("at-once", expected, self.at_once, "leave at-once out, or the ranks"));
        }
        model.tracers(self.at_once)
    }
}

/// Does `work` on items, each tracer on one at a time; returns the results in the order of the items. An error ends it.
pub fn on_each<T, R: Send>(
    tracers: &[Tracer],
    items: impl IntoIterator<Item = T, IntoIter: Send>,
    work: impl Fn(&Tracer, T) -> Result<R, Error> + Sync,
) -> Result<Vec<R>, Error> {
    let (items, failed) = (Mutex::new(items.into_iter().enumerate()), AtomicBool::new(false));
    let next = || items.lock().unwrap_or_else(PoisonError::into_inner).next();
    let one_by_one = |tracer: &Tracer| {
        let mut done = Vec::new();
        while !failed.load(Ordering::Relaxed)
            && let Some((i, item)) = next()
        {
            let result = work(tracer, item);
            failed.fetch_or(result.is_err(), Ordering::Relaxed);
            done.push((i, result?));
        }
        Ok(done)
    };
    let lost = |_| Err(Error::engine("a thread that ran prompts ended", "please report this"));
    let of_tracers: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = tracers.iter().map(|tracer| scope.spawn(|| one_by_one(tracer))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(lost)).collect()
    });
    let of_tracers = of_tracers.into_iter().collect::<Result<Vec<_>, Error>>()?;
    let mut done: Vec<_> = of_tracers.into_iter().flatten().collect();
    done.sort_by_key(|(i, _)| *i);
    Ok(done.into_iter().map(|(_, result)| result).collect())
}
