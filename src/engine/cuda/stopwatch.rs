//! Measures how long the card works on something, without waiting for it.

use std::time::Duration;

use cudarc::driver::{CudaEvent, sys::CUevent_flags};

use super::gpu::Gpu;
use crate::error::Error;

/// The most stretches that may wait to be read.
const UNREAD: usize = 256;

#[derive(Default)]
pub struct Stopwatch {
    spent: Duration,
    unread: Vec<(CudaEvent, CudaEvent)>,
}

impl Stopwatch {
    /// Notes where a stretch of the card's work starts.
    pub fn start(gpu: &Gpu) -> Result<CudaEvent, Error> {
        let event = gpu.stream.record_event(Some(CUevent_flags::CU_EVENT_DEFAULT));
        event.map_err(|e| gpu.failed("a time cannot be taken", e))
    }

    /// Notes where a stretch ends.
    pub fn stop(&mut self, gpu: &Gpu, start: CudaEvent) -> Result<(), Error> {
        if self.unread.len() == UNREAD {
            self.spent(gpu)?;
        }
        self.unread.push((start, Self::start(gpu)?));
        Ok(())
    }

    /// Returns the sum of all stretches; waits for the last.
    pub fn spent(&mut self, gpu: &Gpu) -> Result<Duration, Error> {
        for (start, end) in self.unread.drain(..) {
            let milliseconds = start.elapsed_ms(&end).map_err(|e| gpu.failed("a time cannot be taken", e))?;
            self.spent += Duration::from_secs_f64(f64::from(milliseconds) / 1e3);
        }
        Ok(self.spent)
    }
}
