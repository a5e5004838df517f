//! `config.json`, and its rotary positions.
#![no_main]

use libfuzzer_sys::fuzz_target;
use streamtrace::engine::model::config::ModelConfig;
use streamtrace_fuzz::{file, limited};

fuzz_target!(|bytes: &[u8]| {
    let path = file("config.json", bytes);
    // Two tables of angles of the largest head.
    limited(bytes.len(), 64 << 20, || {
        let Ok(config) = ModelConfig::read(&path) else { return };
        assert_eq!(config.windows.len(), config.n_layers);
        for rope in [Some(&config.rope), config.window_rope.as_ref()].into_iter().flatten() {
            rope.rotary(config.head_dim, 1 << 20);
        }
    });
});
