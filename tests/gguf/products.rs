//! Products with blocks as they lie in a file are those of the numbers that they stand for.

use candle_core::quantized::GgmlDType;
use safetensors::Dtype;
use serde_json::json;
use streamtrace::{
    GenerateConfig,
    engine::{
        cpu::{Cpu, Tensor},
        device::Device,
        model::{gguf::Gguf, weight::Weight},
    },
};
use tempfile::TempDir;

use crate::{PROMPT, common, quantized, writer::Writer};

const FORMATS: [GgmlDType; 10] = [
    GgmlDType::Q4_0,
    GgmlDType::Q4_1,
    GgmlDType::Q5_0,
    GgmlDType::Q5_1,
    GgmlDType::Q8_0,
    GgmlDType::Q2K,
    GgmlDType::Q3K,
    GgmlDType::Q4K,
    GgmlDType::Q5K,
    GgmlDType::Q6K,
];

/// Columns of the weights that are tested.
const WIDTH: usize = 512;

/// Writes a model in a format. Its query rows are interleaved.
fn written(dtype: GgmlDType) -> (TempDir, Gguf) {
    let sizes =
        json!({ "hidden_size": WIDTH, "num_hidden_layers": 1, "head_dim": 16, "intermediate_size": 96 });
    let config = common::config(sizes);
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("model.gguf");
    Writer::of("llama", &config, &common::random_weights(&config, Dtype::F32), dtype).write(&path);
    let gguf = Gguf::open(&path).unwrap();
    (folder, gguf)
}

/// The names of weights whose rows lie in order and interleaved.
const NAMES: [&str; 2] = ["model.layers.0.mlp.gate_proj.weight", "model.layers.0.self_attn.q_proj.weight"];

fn weight<'a>(gguf: &'a Gguf, name: &str) -> Weight<'a> {
    gguf.get(name).unwrap().unwrap()
}

/// The numbers of a weight as candle reads them. `[n_rows, WIDTH]`
fn by_candle(weight: &Weight) -> Vec<f32> {
    let values = weight.read().unwrap();
    values.view().data().as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

#[test]
fn numbers_are_those_that_candle_reads() {
    for dtype in FORMATS {
        let (_folder, gguf) = written(dtype);
        for name in NAMES {
            let weight = weight(&gguf, name);
            let numbers = Cpu.to_host(&Cpu.weight(&weight).unwrap()).unwrap();
            assert!(numbers.iter().any(|x| *x != 0.0));
            assert_eq!(numbers, by_candle(&weight), "{name} in {dtype:?}");
        }
    }
}

/// Each number of a row is off by half a step of its 32 neighbours at most.
#[test]
fn products_are_those_of_the_numbers() {
    let mut random = fastrand::Rng::with_seed(3);
    for dtype in FORMATS {
        let (_folder, gguf) = written(dtype);
        for (name, n_rows) in NAMES.into_iter().flat_map(|name| [1, 4, 7].map(|n_rows| (name, n_rows))) {
            let weight = weight(&gguf, name);
            let x: Vec<f32> = (0..n_rows * WIDTH).map(|_| random.f32() - 0.3).collect();
            let rows = Tensor::of_rows(x.clone(), WIDTH).unwrap();
            let blocks = Cpu.weight_in_file(&weight).unwrap();
            assert!(matches!(blocks, Tensor::Blocks(_)));
            let product = Cpu.to_host(&Cpu.linear(&rows, &blocks, None).unwrap()).unwrap();
            let numbers = by_candle(&weight);
            for (i, found) in product.into_iter().enumerate() {
                let n_out = weight.shape()[0];
                let (x, w) = (&x[i / n_out * WIDTH..][..WIDTH], &numbers[i % n_out * WIDTH..][..WIDTH]);
                let exact: f64 = x.iter().zip(w).map(|(x, w)| f64::from(*x) * f64::from(*w)).sum();
                let error = (f64::from(found) - exact).abs();
                assert!(error <= most_error(x, w), "{name} in {dtype:?}, product {i}: {found} for {exact}");
            }
        }
    }
}

/// The most that a product may be off, with a little for sums in f32.
fn most_error(x: &[f32], w: &[f32]) -> f64 {
    let groups = x.chunks(32).zip(w.chunks(32));
    let of_group = |(x, w): (&[f32], &[f32])| {
        let half_a_step = x.iter().fold(0.0, |most: f32, x| most.max(x.abs())) / 254.0;
        f64::from(half_a_step) * w.iter().map(|w| f64::from(w.abs())).sum::<f64>()
    };
    groups.map(of_group).sum::<f64>() * 1.001 + 1e-4
}

#[test]
fn a_number_that_is_none_is_found() {
    let (_folder, gguf) = written(GgmlDType::Q4_1);
    let blocks = Cpu.weight_in_file(&weight(&gguf, NAMES[0])).unwrap();
    for lost in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut x = vec![0.5; WIDTH];
        x[77] = lost;
        let rows = Tensor::of_rows(x, WIDTH).unwrap();
        let product = Cpu.to_host(&Cpu.linear(&rows, &blocks, None).unwrap()).unwrap();
        assert!(product.iter().all(|x| x.is_nan()), "{lost}");
    }
}

/// What the model writes on its blocks is what it finds most likely in numbers, with about the same
/// probabilities.
#[test]
fn writing_on_blocks_is_writing_on_numbers() {
    let how = GenerateConfig { max_tokens: 24, ..Default::default() };
    for dtype in [GgmlDType::Q8_0, GgmlDType::Q5_0, GgmlDType::Q4_1] {
        let (_folder, path) = quantized(dtype);
        let tracer = common::load(&path).unwrap();
        for dense in [false, true] {
            let generated = tracer.generate_with(PROMPT, &GenerateConfig { dense, ..how.clone() }).unwrap();
            let score = tracer.score(PROMPT, &generated.text).unwrap();
            // What is written need not be cut into the same tokens when it is read.
            let both = generated.tokens.iter().zip(&score.tokens);
            let same: Vec<_> = both.take_while(|(written, scored)| written.id == scored.id).collect();
            assert!(same.len() > 6, "{}", generated.text);
            for (written, scored) in same {
                let (a, b) = (written.logprob, scored.logprob);
                assert!(
                    (a - b).abs() < 0.1 + 0.05 * b.abs(),
                    "{dtype:?} {dense} {:?}: {a}, {b}",
                    written.text
                );
            }
        }
    }
}
