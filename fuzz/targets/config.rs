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
        for layer in 0..config.n_layers.min(2) {
            config.rope_of(layer).rotary(config.head_dim, 1 << 20);
        }
    });
});
