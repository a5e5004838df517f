//! `streamtrace doctor` on machines with nothing installed, and on one with everything.
#![cfg(all(feature = "engine", unix))]

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Output},
};

use serde_json::Value;
use tempfile::TempDir;

const BINARY: &str = env!("CARGO_BIN_EXE_streamtrace");

/// Runs `doctor` with this home and these programs, and nothing else of this machine's environment.
fn doctor(home: &Path, programs: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(BINARY);
    command
        .arg("doctor")
        .args(arguments)
        .current_dir(home)
        .env_clear()
        .env("HOME", home)
        .env("PATH", programs)
        .env("STREAMTRACE_ENGINE", BINARY);
    command.output().unwrap()
}

fn checks(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&output.stderr)))
}

/// Returns a program that prints the given text.
fn program(folder: &Path, name: &str, prints: &str) {
    let path = folder.join(name);
    fs::write(&path, format!("#!/bin/sh\nprintf '%s\\n' '{prints}'\n")).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn a_machine_with_nothing_is_told_what_to_do() {
    let empty = TempDir::new().unwrap();
    for programs in [empty.path(), Path::new("")] {
        let output = doctor(empty.path(), programs, &["--json"]);
        let said = checks(&output);
        assert_eq!((output.status.code(), &said["ready"]), (Some(1), &false.into()));
        let missing: Vec<&Value> =
            said["checks"].as_array().unwrap().iter().filter(|c| c["found"].is_null()).collect();
        let needed: Vec<&str> =
            missing.iter().filter(|c| c["needed"] == true).filter_map(|c| c["name"].as_str()).collect();
        assert_eq!(
            needed,
            ["Rust", "C linker", "rust-src", "Rust kernel", "Jupyter", "Jupyter's entry of the Rust kernel"]
        );
        assert!(missing.iter().all(|check| !check["fix"].as_str().unwrap().is_empty()), "{said}");
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(
            error.lines().count() == 1 && error.contains("no Rust, no C linker") && error.contains("./lab"),
            "{error}"
        );
    }
}

#[test]
fn a_machine_with_everything_is_ready() {
    let (home, programs) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let (home, programs) = (home.path(), programs.path());
    fs::create_dir_all(home.join("rust/lib/rustlib/src/rust/library")).unwrap();
    fs::create_dir_all(home.join(".cargo/bin")).unwrap();
    program(programs, "cargo", "cargo 1.95.0");
    program(programs, "rustc", &home.join("rust").display().to_string());
    program(programs, "cc", "");
    program(&home.join(".cargo/bin"), "evcxr_jupyter", "");
    let entry = |starts: &str| {
        let spec = format!(r#"{{"language": "Rust", "argv": ["{starts}"]}}"#);
        program(
            programs,
            "jupyter",
            &format!(r#"{{"kernelspecs": {{"r": {{"resource_dir": "/k/rust", "spec": {spec}}}}}}}"#),
        );
    };
    entry(&programs.join("cc").display().to_string());
    let output = doctor(home, programs, &["--json"]);
    assert_eq!(
        (output.status.code(), &checks(&output)["ready"]),
        (Some(0), &true.into()),
        "{}",
        checks(&output)
    );
    let text = doctor(home, programs, &[]);
    let lines = String::from_utf8(text.stdout).unwrap();
    for line in [
        "ok       Rust: cargo 1.95.0",
        "ok       Jupyter's entry of the Rust kernel: /k/rust",
        "evcxr_jupyter",
    ] {
        assert!(lines.contains(line), "{line} in {lines}");
    }
    assert!(text.stderr.is_empty() && !lines.contains("missing"), "{lines}");

    entry("/moved/.venv/bin/python");
    let said = checks(&doctor(home, programs, &["--json"]));
    let stale = said["checks"]
        .as_array()
        .unwrap()
        .iter()
        .find(|check| check["name"] == "Jupyter's entry of the Rust kernel")
        .unwrap();
    assert!(stale["found"].is_null() && stale["fix"].as_str().unwrap().contains("./lab"), "{said}");

    fs::remove_file(programs.join("cc")).unwrap();
    let text = doctor(home, programs, &[]);
    let lines = String::from_utf8(text.stdout).unwrap();
    assert!(lines.contains("missing  C linker: install gcc") && text.status.code() == Some(1), "{lines}");
}

#[test]
fn an_engine_that_is_not_there_is_missed() {
    let empty = TempDir::new().unwrap();
    let mut command = Command::new(BINARY);
    command
        .args(["doctor", "--json"])
        .env_clear()
        .env("HOME", empty.path())
        .env("STREAMTRACE_ENGINE", "/nowhere/streamtrace");
    let said = checks(&command.output().unwrap());
    let engine = said["checks"].as_array().unwrap().iter().find(|check| check["name"] == "engine").unwrap();
    assert!(
        engine["found"].is_null() && engine["fix"].as_str().unwrap().contains("/nowhere/streamtrace"),
        "{engine}"
    );
}
