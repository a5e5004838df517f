//! One prompt on two cards. Skipped where there are fewer.

use std::path::Path;

use streamtrace::{DeviceChoice, Gpus, LoadOptions, Search, StreamConfig, Trace, Tracer, engine::cuda::Cuda};

use crate::{both, needle, received_error, relative};

fn on(n: usize, config: &StreamConfig) -> Tracer {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/needle-6m");
    let options =
        LoadOptions { model, device: DeviceChoice::Cuda, gpus: Gpus::Count(n), ..LoadOptions::default() };
    Tracer::load_with(options).unwrap().with(config.clone())
}

/// Masks are the same bit by bit: rows see the same keys in the same order, in chunks of the same length.
#[test]
fn two_cards_find_what_one_finds() {
    let Some(([_, gpu], _alone)) = both() else { return };
    if Cuda::n_cards() < 2 {
        eprintln!("skipped: one card");
        return;
    }
    let prompt = needle(&gpu, 32_000, 3);
    let default = StreamConfig::default();
    for config in [
        StreamConfig { proximity: true, ..default.clone() },
        StreamConfig { pruned: Some(0.95), ..default.clone() },
        StreamConfig { search: Search::Exhaustive, top_k: 40, ..default.clone() },
        StreamConfig { search: Search::Random { seed: 1 }, top_k: 40, ..default.clone() },
        StreamConfig { exact: true, ..default.clone() },
        StreamConfig {
            block_size_q: 128,
            block_size_k: 64,
            top_k: 32,
            sink_blocks: 1,
            local_blocks: 2,
            ..default
        },
    ] {
        let [one, two] = [1, 2].map(|n| on(n, &config).trace(&prompt).unwrap());
        for &layer in one.layers() {
            assert!(one.mask(layer).unwrap() == two.mask(layer).unwrap(), "layer {layer} of {config:?}");
            assert!(received_error(&one, &two, layer) < 1e-4, "layer {layer} of {config:?}");
        }
        assert_eq!(relative(&one.logits().unwrap(), &two.logits().unwrap()), 0.0, "{config:?}");
        let [one, two] = [&one, &two].map(Trace::summary);
        assert_eq!((one.pruned, one.keys_read_per_query_block), (two.pruned, two.keys_read_per_query_block));
    }
}
