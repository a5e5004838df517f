//! Frames to and from an engine: requests, and messages with their payloads.
#![no_main]

use libfuzzer_sys::fuzz_target;
use streamtrace::protocol::{Request, frame::{self, Message}};
use streamtrace_fuzz::limited;

fuzz_target!(|bytes: &[u8]| {
    limited(bytes.len(), 0, || {
        let (mut heard, mut said) = (bytes, bytes);
        while let Ok(Some(_)) = frame::read::<Request>(&mut heard) {}
        while let Ok(Some(_)) = frame::read::<Message>(&mut said) {}
    });
});
