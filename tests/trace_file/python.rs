//! Python can read a trace with one import.

use std::{env, fs, process::Command};

use serde_json::json;
use streamtrace::trace::Trace;

use crate::sample::{Sample, Size, small};

/// Compares every tensor of a trace with the values beside it.
const SCRIPT: &str = r#"
import json, sys
from safetensors import safe_open
import numpy as np
expected = json.load(open(sys.argv[2]))
with safe_open(sys.argv[1], framework="np") as trace:
    notes = trace.metadata()
    assert notes["format"] == "streamtrace" and notes["version"] == "3", notes
    assert json.loads(notes["summary"]) == expected["summary"]
    assert set(trace.keys()) == set(expected["tensors"]), trace.keys()
    for name, values in expected["tensors"].items():
        tensor = trace.get_tensor(name)
        assert str(tensor.dtype) == values["dtype"] and list(tensor.shape) == values["shape"], (name, tensor.dtype, tensor.shape)
        assert np.array_equal(tensor.ravel().astype(np.float64), np.array(values["values"], dtype=np.float64)), name
    assert bytes(trace.get_tensor("text")).decode() == expected["text"]
    first = trace.get_slice("layers.0.vertical")[0]
    assert first.shape == tuple(expected["tensors"]["layers.0.vertical"]["shape"][1:])
print("same")
"#;

fn expected(sample: &Sample, kept_type: &str) -> serde_json::Value {
    let (n_heads, n_tokens) = (sample.summary.model.n_heads, sample.tokens.len());
    let offsets: Vec<usize> = sample.offsets.iter().flat_map(|o| [o.0, o.1]).collect();
    let sentences = sample.trace.sentences().unwrap();
    let ends: Vec<usize> = sentences.iter().flat_map(|s| [s.start, s.end]).collect();
    let mut tensors = json!({
        "sentences": {"dtype": "uint32", "shape": [sentences.len(), 2], "values": ends},
        "tokens": {"dtype": "uint32", "shape": [n_tokens], "values": sample.tokens},
        "offsets": {"dtype": "uint32", "shape": [n_tokens, 2], "values": offsets},
        "text": {"dtype": "uint8", "shape": [sample.text.len()], "values": sample.text.as_bytes()},
        "logits": {"dtype": "float32", "shape": [sample.logits.len()], "values": sample.logits},
    });
    for (i, record) in sample.layers.iter().enumerate() {
        let mask = &record.mask;
        let (rows, focus) = ([mask.kept.len()], [record.focus.len()]);
        let none = if kept_type == "uint16" { u16::MAX as u32 } else { u32::MAX };
        let kept: Vec<u32> = mask.kept.iter().map(|&b| b.min(none)).collect();
        let n_key_blocks = mask.blocks.n_key_blocks();
        tensors[format!("layers.{i}.written")] =
            json!({"dtype": "float32", "shape": [n_heads, n_key_blocks], "values": record.written});
        tensors[format!("layers.{i}.residual")] =
            json!({"dtype": "float32", "shape": [mask.blocks.n_query_blocks()], "values": record.residual});
        tensors[format!("layers.{i}.proximity")] =
            json!({"dtype": "float16", "shape": rows, "values": record.proximity});
        tensors[format!("layers.{i}.vertical")] =
            json!({"dtype": "float32", "shape": [n_heads, sentences.len()], "values": record.vertical});
        tensors[format!("layers.{i}.received")] =
            json!({"dtype": "float32", "shape": [n_heads, n_tokens], "values": record.received});
        tensors[format!("layers.{i}.mass")] =
            json!({"dtype": "float16", "shape": rows, "values": record.mass});
        tensors[format!("layers.{i}.focus")] =
            json!({"dtype": "float16", "shape": focus, "values": record.focus});
        tensors[format!("layers.{i}.top_k")] =
            json!({"dtype": "uint32", "shape": [n_heads], "values": mask.budgets.as_slice()});
        tensors[format!("layers.{i}.recall")] =
            json!({"dtype": "float32", "shape": [n_heads], "values": record.recall});
        tensors[format!("layers.{i}.experts")] =
            json!({"dtype": "uint16", "shape": [n_tokens, 2], "values": record.experts});
        tensors[format!("layers.{i}.on_sink")] = json!({"dtype": "float32", "shape": [n_heads, mask.blocks.n_query_blocks()], "values": record.on_sink});
        tensors[format!("layers.{i}.kept")] = json!({"dtype": kept_type, "shape": rows, "values": kept});
    }
    json!({"summary": sample.summary, "text": sample.text, "tensors": tensors})
}

/// Returns a Python with safetensors and numpy, or `None` to skip these tests.
fn python() -> Option<String> {
    if env::var("STREAMTRACE_SKIP_PYTHON").is_ok_and(|v| v == "1") {
        return None;
    }
    let python = env::var("STREAMTRACE_PYTHON").unwrap_or("python3".into());
    let found = Command::new(&python).args(["-c", "import safetensors, numpy"]).output();
    assert!(
        found.as_ref().is_ok_and(|o| o.status.success()),
        "{python} has no safetensors and numpy: run `{python} -m pip install safetensors numpy`, or set STREAMTRACE_PYTHON \
         to a Python that has them, or STREAMTRACE_SKIP_PYTHON=1 to leave these tests out"
    );
    Some(python)
}

fn assert_python_reads(size: Size, kept_type: &str) {
    let Some(python) = python() else { return };
    let (sample, folder) = (size.sample(), tempfile::tempdir().unwrap());
    let (trace, values) = (folder.path().join("a.trace"), folder.path().join("values.json"));
    sample.trace.save(&trace).unwrap();
    assert!(Trace::open(&trace).is_ok());
    fs::write(&values, expected(&sample, kept_type).to_string()).unwrap();
    let output = Command::new(python).args(["-c", SCRIPT]).args([&trace, &values]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "same");
}

#[test]
fn python_reads_every_tensor() {
    assert_python_reads(small().windows(&[None, Some(5)]), "uint16");
}

#[test]
fn python_reads_wide_block_indices() {
    let n_tokens = 65_600;
    let size = Size {
        n_tokens,
        block_size_q: 256,
        block_size_k: 1,
        top_k: 2,
        n_heads: 1,
        focus: 0..2,
        windows: vec![None],
    };
    assert_python_reads(size, "uint32");
}

/// Runs the Python blocks of `docs/python.md` in order.
fn page() -> String {
    let page = include_str!("../../docs/python.md");
    page.split("```python\n").skip(1).filter_map(|block| block.split("```").next()).collect()
}

#[test]
fn the_page_about_python_runs_as_it_stands() {
    let Some(python) = python() else { return };
    let (trace, folder) = (small().windows(&[None, Some(5)]).sample().trace, tempfile::tempdir().unwrap());
    trace.save(folder.path().join("prompt.trace")).unwrap();
    trace.edges().save(folder.path().join("edges.csv")).unwrap();
    let output = Command::new(python).args(["-c", &page()]).current_dir(&folder).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let said = String::from_utf8_lossy(&output.stdout);
    let head = trace.head(0, 0).unwrap();
    let (best, mass) = head.row(2).reduce(|best, next| if next.1 > best.1 { next } else { best }).unwrap();
    assert!(said.contains("2 layers of 3 heads, 23 tokens"), "{said}");
    assert!(said.contains(&format!("query block 2 looks most at key block {best}: {mass:.3}")), "{said}");
    assert!(said.contains("looks furthest back"), "{said}");
}
