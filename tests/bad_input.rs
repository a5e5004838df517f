//! For any bad input, one sentence says what was expected, what was found and what to do; nothing panics, and
//! no partly written file remains.
#![cfg(feature = "engine")]

mod common;
#[path = "bad_input/disk.rs"]
mod disk;
#[path = "bad_input/found.rs"]
mod found;
#[path = "bad_input/messages.rs"]
mod messages;
#[path = "bad_input/model.rs"]
mod model;
#[path = "common/mount.rs"]
mod mount;
#[path = "bad_input/numbers.rs"]
mod numbers;
#[path = "bad_input/places.rs"]
mod places;
#[path = "bad_input/settings.rs"]
mod settings;
#[path = "bad_input/traces.rs"]
mod traces;
#[path = "bad_input/unusual.rs"]
mod unusual;

use std::path::Path;

use streamtrace::Error;

/// Checks that the sentence of an error has all of these words.
#[track_caller]
fn assert_says<T>(what: &str, result: Result<T, Error>, words: &[&str]) {
    let Err(error) = result else { panic!("{what}: no error") };
    let error = error.to_string();
    let missing: Vec<_> = words.iter().filter(|word| !error.contains(**word)).collect();
    assert!(missing.is_empty(), "{what}: {missing:?} not in: {error}");
}

/// Returns the sorted names in a folder.
fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}
