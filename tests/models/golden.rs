//! Families whose logits transformers computed: golden.py wrote them.

use std::path::Path;

use safetensors::Dtype;
use serde_json::Value;

use crate::{
    N_TOKENS, apart,
    common::{self, Weight},
};

/// The generator of golden.py: numbers from 0 to 1.
struct Numbers(u64);

impl Iterator for Numbers {
    type Item = f64;

    fn next(&mut self) -> Option<f64> {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        Some((self.0 >> 40) as f64 / f64::from(1 << 24))
    }
}

fn weight(name: String, shape: Vec<usize>, random: &mut Numbers) -> Weight {
    if let Some(weight) = common::in_blocks(&name, &shape, || random.next().expect("numbers without end")) {
        return weight;
    }
    let is_matrix = shape.len() > 1 && !name.contains("embed");
    let spread = if is_matrix { (3.0 / shape[shape.len() - 1] as f64).sqrt() } else { 0.7 };
    let centre = if name.contains("norm") { 1.0 } else { 0.0 };
    let values = random.take(shape.iter().product()).map(|x| (centre + spread * (2.0 * x - 1.0)) as f32);
    let bytes = values.flat_map(f32::to_le_bytes).collect();
    Weight { name, shape, dtype: Dtype::F32, bytes }
}

/// Returns each configuration, its weights, a prompt, and the logits after it.
pub fn all() -> Vec<(Value, Vec<Weight>, String, Vec<f32>)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/models/golden.json");
    let goldens: Vec<Value> = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let read = |golden: Value| {
        let config = golden["config"].clone();
        let mut random = Numbers(7);
        let words: Vec<String> =
            random.by_ref().take(N_TOKENS).map(|x| format!("w{}", (x * 96.0) as usize)).collect();
        let mut shapes = common::shapes(&config);
        shapes.sort();
        let weights = shapes.into_iter().map(|(name, shape)| weight(name, shape, &mut random)).collect();
        let logits = serde_json::from_value(golden["logits"].clone()).unwrap();
        (config, weights, words.join(" "), logits)
    };
    goldens.into_iter().map(read).collect()
}

#[test]
fn logits_are_those_of_transformers() {
    let goldens = all();
    assert_eq!(goldens.len(), 23);
    for (config, weights, prompt, expected) in goldens {
        for n_shards in [1, 2] {
            let folder = common::folder(&config, &weights, n_shards);
            let keep_all = streamtrace::StreamConfig { top_k: usize::MAX, ..Default::default() };
            let trace = common::load(folder.path()).unwrap().with(keep_all).trace(&prompt).unwrap();
            let difference = apart(&trace.logits().unwrap(), &expected);
            assert!(difference < 1e-4, "{difference}: {config}");
        }
    }
}

/// A family is told from another by its logits, not by loading alone.
#[test]
fn a_model_runs_as_the_family_that_is_asked_for() {
    let (mut config, weights, prompt, expected) = all().swap_remove(2);
    assert_eq!(config["model_type"], "olmo2");
    config["model_type"] = "my_own_olmo".into();
    let folder = common::folder(&config, &weights, 1);
    let refused = common::load(folder.path()).map(drop).unwrap_err().to_string();
    assert!(refused.contains("my_own_olmo") && refused.contains("--as"), "{refused}");
    let load = |family: &str| {
        let options = streamtrace::LoadOptions { family: Some(family.into()), ..common::cpu(folder.path()) };
        let keep_all = streamtrace::StreamConfig { top_k: usize::MAX, ..Default::default() };
        Ok::<_, streamtrace::Error>(streamtrace::Tracer::load_with(options)?.with(keep_all))
    };
    let tracer = load("olmo2").unwrap();
    assert_eq!(tracer.model().architecture, "olmo2");
    assert!(apart(&tracer.trace(&prompt).unwrap().logits().unwrap(), &expected) < 1e-4);
    let other = load("llama").map(drop).unwrap_err().to_string();
    assert!(other.contains("input_layernorm.weight"), "{other}");
    let unknown = load("gpt2").map(drop).unwrap_err().to_string();
    assert!(unknown.contains("as: expected a family: llama") && unknown.contains("gpt2"), "{unknown}");
}

/// docs/models.md has the table of families.
#[test]
fn the_table_of_families_is_that_of_the_code() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/models.md");
    let table = streamtrace::engine::model::family::Family::table();
    let docs = std::fs::read_to_string(docs).unwrap();
    assert!(docs.contains(&table), "docs/models.md lacks this table:\n{table}");
}

/// Every family of the table is compared with another implementation.
#[test]
fn every_family_of_the_table_is_tested() {
    let goldens = all();
    let tested = goldens.iter().map(|(config, ..)| config["model_type"].as_str().unwrap().to_string());
    let mut tested: Vec<String> = tested.collect();
    tested.extend(crate::families().map(|config| config["model_type"].as_str().unwrap().to_string()));
    // The text part of Gemma 3 with vision has a test of its own.
    tested.push("gemma3".into());
    for family in &streamtrace::engine::model::family::FAMILIES {
        assert!(tested.iter().any(|name| name == family.name), "{}", family.name);
    }
}
