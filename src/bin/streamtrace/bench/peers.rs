//! llama.cpp and PyTorch on the same model, where Python has them.

use std::{
    io::Write,
    path::Path,
    process::{Command, Stdio},
};

use serde::Deserialize;

use super::whole::Row;

/// Asks for rows as JSON, one a line; prints none for what cannot be had.
const SCRIPT: &str = include_str!("peers.py");

#[derive(Deserialize)]
struct Line {
    name: String,
    n_tokens: usize,
    seconds: f64,
}

/// Times what is there, on the same device; nothing without Python.
pub fn rows(model: &Path, device: &str, n_tokens: usize) -> Vec<Row> {
    let place = if device == "cpu" { "cpu" } else { "cuda" };
    let python = Command::new("python3")
        .args(["-".as_ref(), model.as_os_str(), place.as_ref(), n_tokens.to_string().as_ref()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn();
    let Ok(mut python) = python else { return Vec::new() };
    let asked = python.stdin.take().map(|mut stdin| stdin.write_all(SCRIPT.as_bytes()));
    let Ok(output) = python.wait_with_output() else { return Vec::new() };
    if !matches!(asked, Some(Ok(()))) {
        return Vec::new();
    }
    let lines = String::from_utf8_lossy(&output.stdout);
    let lines = lines.lines().filter_map(|line| serde_json::from_str::<Line>(line).ok());
    lines.map(|Line { name, n_tokens, seconds }| Row { name, n_tokens, seconds, limit: None }).collect()
}
