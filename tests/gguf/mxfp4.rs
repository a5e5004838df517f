//! gpt-oss as its files are: experts in MXFP4, which candle does not write.

use std::fs;

use safetensors::Dtype;
use serde_json::json;

use crate::{
    apart,
    common::{self, Weight},
    trace,
    writer::Writer,
};

/// llama.cpp's number of the format.
const MXFP4: u32 = 39;

/// One of gate, up and down of all experts of a layer, in llama.cpp's blocks: an exponent, then the first 16 numbers
/// in the lower and the last 16 in the upper halves of bytes.
struct Part {
    name: String,
    /// `[n_experts, n_out, n_in]`
    shape: [usize; 3],
    bytes: Vec<u8>,
}

impl Part {
    /// Takes every `step`th row of each expert from `first` on, of blocks `[n_experts, n_out, n_in / 32, 16]` of
    /// neighbours in a byte.
    fn of(name: String, blocks: &Weight, exponents: &Weight, first: usize, step: usize) -> Self {
        let [n_experts, n_rows, n_blocks] = [0, 1, 2].map(|i| blocks.shape[i]);
        let mut bytes = Vec::new();
        let rows = (0..n_experts * n_rows).filter(|row| row % n_rows % step == first);
        for block in rows.flat_map(|row| row * n_blocks..(row + 1) * n_blocks) {
            let pairs = &blocks.bytes[block * 16..][..16];
            let number = |i: usize| pairs[i / 2] >> (i % 2 * 4) & 15;
            bytes.push(exponents.bytes[block]);
            bytes.extend((0..16).map(|i| number(i) | number(i + 16) << 4));
        }
        Part { name, shape: [n_experts, n_rows / step, n_blocks * 32], bytes }
    }

    /// Says in a file's header that the part, which was written as f16, is in MXFP4.
    fn name_format(&self, file: &mut [u8]) {
        let name = [&(self.name.len() as u64).to_le_bytes(), self.name.as_bytes()].concat();
        let at = file.windows(name.len()).position(|bytes| bytes == name).unwrap() + name.len() + 4;
        let sizes = self.shape.iter().rev().flat_map(|&n| (n as u64).to_le_bytes());
        let entry: Vec<u8> = sizes.chain(MXFP4.to_le_bytes()).collect();
        file[at..at + entry.len()].copy_from_slice(&entry);
    }
}

fn parts(weights: &[Weight], n_layers: usize) -> Vec<Part> {
    let weight = |name: String| weights.iter().find(|weight| weight.name == name).unwrap();
    let part = |layer: usize, (name, of, first, step): (&str, &str, usize, usize)| {
        let of = format!("model.layers.{layer}.mlp.experts.{of}");
        let [blocks, exponents] = ["blocks", "scales"].map(|kind| weight(format!("{of}_{kind}")));
        Part::of(format!("blk.{layer}.ffn_{name}_exps.weight"), blocks, exponents, first, step)
    };
    let of_layer =
        [("gate", "gate_up_proj", 0, 2), ("up", "gate_up_proj", 1, 2), ("down", "down_proj", 0, 1)];
    (0..n_layers).flat_map(|layer| of_layer.map(|names| part(layer, names))).collect()
}

#[test]
fn experts_in_mxfp4_run_as_their_folder() {
    let config = common::config(json!({ "model_type": "gpt_oss", "num_local_experts": 4,
        "num_experts_per_tok": 2, "head_dim": 16, "intermediate_size": 64, "sliding_window": 40,
        "quantization_config": { "quant_method": "mxfp4" } }));
    let weights = common::random_weights(&config, Dtype::F32);
    let folder = common::folder(&config, &weights, 1);
    let parts = parts(&weights, config["num_hidden_layers"].as_u64().unwrap() as usize);
    let plain = weights.into_iter().filter(|weight| weight.dtype == Dtype::F32).collect::<Vec<_>>();
    let mut writer = Writer::of("gpt-oss", &config, &plain, candle_core::quantized::GgmlDType::F32);
    parts.iter().for_each(|part| writer.add_bytes(&part.name, &part.bytes));
    let path = folder.path().join("model.gguf");
    writer.write(&path);
    let mut file = fs::read(&path).unwrap();
    parts.iter().for_each(|part| part.name_format(&mut file));
    fs::write(&path, file).unwrap();
    let [a, b] =
        [&path, folder.path()].map(|path| trace(path, &common::prompt(157)).unwrap().logits().unwrap());
    assert!(apart(&a, &b) < 1e-5, "{}", apart(&a, &b));
}
