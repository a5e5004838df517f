//! Experts on the GPU, wherever their weights are.

use std::path::Path;

use safetensors::Dtype;
use serde_json::json;
use streamtrace::{DeviceChoice, Error, LoadOptions, Tracer};

use crate::{both, common, relative};

/// Returns a random model with experts and sinks on the GPU, within some memory.
fn with_experts(folder: &Path, memory: Option<u64>) -> Tracer {
    let (model, device) = (folder.into(), DeviceChoice::Cuda);
    Tracer::load_with(LoadOptions { model, device, memory, ..LoadOptions::default() }).unwrap()
}

/// The same prompt with all experts on the card, with those of a layer while the one before runs, and with each when
/// rows have chosen it; the plan is what is used.
#[test]
fn experts_give_the_same_wherever_they_are() {
    let Some((_, _alone)) = both() else { return };
    let config = common::config(
        json!({ "model_type": "gpt_oss", "head_dim": 64, "hidden_size": 256, "vocab_size": 104,
        "intermediate_size": 512, "num_local_experts": 32, "num_experts_per_tok": 4, "sliding_window": 128,
        "num_hidden_layers": 3, "quantization_config": { "quant_method": "mxfp4" } }),
    );
    let folder = common::folder(&config, &common::random_weights(&config, Dtype::BF16), 1);
    let prompt = common::prompt(4_000);
    let roomy = with_experts(folder.path(), None).trace(&prompt).unwrap();
    let (mut limit, mut n_layouts) = (roomy.summary().planned_memory_bytes, 1);
    loop {
        let trace = match with_experts(folder.path(), Some(limit - 1)).trace(&prompt) {
            Ok(trace) => trace,
            Err(Error::Memory { .. }) => break,
            Err(other) => panic!("{other}"),
        };
        let summary = trace.summary();
        let (used, planned) = (summary.peak_memory_bytes, summary.planned_memory_bytes);
        assert!(used as f64 <= 1.05 * planned as f64, "{used} used, {planned} planned, layout {n_layouts}");
        let error = relative(&roomy.logits().unwrap(), &trace.logits().unwrap());
        assert!(error < 0.1, "{error} in layout {n_layouts}");
        (limit, n_layouts) = (planned, n_layouts + 1);
    }
    assert!(n_layouts >= 6, "{n_layouts}");
}
