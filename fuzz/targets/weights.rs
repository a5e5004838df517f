//! `model.safetensors.index.json` up to the first zero byte, then the shard `a.safetensors`; without an index,
//! `model.safetensors`.
#![no_main]

use libfuzzer_sys::{fuzz_mutator, fuzz_target};
use streamtrace::engine::model::weights::Weights;
use streamtrace_fuzz::{file, folder, limited, mutate_safetensors};

fuzz_target!(|bytes: &[u8]| {
    let index = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    let (index, shard) = (&bytes[..index], &bytes[bytes.len().min(index + 1)..]);
    let index_file = file("model.safetensors.index.json", index);
    file("a.safetensors", shard);
    file("model.safetensors", shard);
    if index.is_empty() {
        std::fs::remove_file(index_file).expect("it was written");
    }
    limited(bytes.len(), 0, || {
        let Ok(weights) = Weights::open(folder()) else { return };
        weights.n_parameters();
        for shape in [&[2, 3][..], &[6], &[0], &[usize::MAX, 0]] {
            if let Ok(weight) = weights.get("model.norm.weight", shape) {
                weight.read().expect("plain numbers").view();
            }
        }
    });
});

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    match data[..size].iter().position(|&byte| byte == 0) {
        Some(end) if !seed.is_multiple_of(3) => {
            end + 1 + mutate_safetensors(&mut data[end + 1..], size - end - 1, max_size - end - 1, seed)
        }
        _ => libfuzzer_sys::fuzzer_mutate(data, size, max_size),
    }
});
