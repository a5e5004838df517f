//! A path holds either a whole new trace or its previous content.

use std::{fs, path::Path};

use streamtrace::{
    error::Error,
    trace::{Budgets, Fidelity, RowsOf, Trace, TraceWriter},
};

use crate::{reading::assert_holds, sample::small};

fn names(folder: &Path) -> Vec<String> {
    fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn a_trace_is_replaced_while_it_is_open() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.trace");
    let (old, new) = (small().windows(&[None, Some(5)]).sample(), small().windows(&[None]).sample());
    old.trace.save(&path).unwrap();
    let open = Trace::open(&path).unwrap();
    new.trace.save(&path).unwrap();
    assert_holds(&open, &old);
    assert_holds(&Trace::open(&path).unwrap(), &new);
    open.save(&path).unwrap();
    assert_holds(&Trace::open(&path).unwrap(), &old);
    Trace::open(&path).unwrap().save(&path).unwrap();
    assert_holds(&Trace::open(&path).unwrap(), &old);
    assert_eq!(names(folder.path()), ["a.trace"]);
}

#[test]
fn saving_where_it_cannot_be_leaves_nothing() {
    let sample = small().windows(&[None]).sample();
    let folder = tempfile::tempdir().unwrap();
    let (missing, taken) = (folder.path().join("no/such/a.trace"), folder.path().join("taken"));
    fs::create_dir(&taken).unwrap();
    for path in [missing.as_path(), &taken, Path::new("/proc/a.trace")] {
        let error = sample.trace.save(path).unwrap_err();
        assert!(
            matches!(error, Error::File { .. })
                && error.to_string().starts_with(&format!("cannot write {}", path.display())),
            "{error}"
        );
    }
    assert_eq!(names(folder.path()), ["taken"]);
    assert!(names(&taken).is_empty());
}

#[test]
fn a_trace_that_could_not_be_read_is_not_written() {
    let sample = small().windows(&[None]).sample();
    let fidelity = Fidelity {
        recall_by_head: vec![],
        recall: f64::NAN,
        n_rows: 1,
        rows_of: RowsOf::Dense,
        same_next_token: None,
        kl: None,
        dense_next_token: None,
        positions: None,
        answer: None,
    };
    let folder = tempfile::tempdir().unwrap();
    sample.trace.with_fidelity(fidelity).save(folder.path().join("a.trace")).unwrap_err();
    assert!(names(folder.path()).is_empty());
}

#[test]
fn layers_that_do_not_fit_the_summary_are_refused() {
    let sample = small().windows(&[None, None]).sample();
    let writer = || TraceWriter::new(&sample.tokens, &sample.offsets, &sample.text).unwrap();
    let error = writer().finish(sample.summary.clone(), &sample.logits).err().unwrap().to_string();
    assert!(error.contains("no tensor layers.0.received"), "{error}");
    let mut short = writer();
    let mut record = sample.layers[0].clone();
    record.mass.pop();
    short.layer(0, &record).unwrap();
    assert!(matches!(short.finish(sample.summary.clone(), &sample.logits), Err(Error::Trace { .. })));
    let mut empty = writer();
    record.mask.budgets = Budgets::uniform(3, 0);
    empty.layer(0, &record).unwrap();
    assert!(empty.finish(sample.summary.clone(), &sample.logits).is_err());
}

#[cfg(unix)]
#[test]
fn others_may_read_a_trace_as_any_other_file() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let (trace, other) = (folder.path().join("a.trace"), folder.path().join("other"));
    small().windows(&[None]).sample().trace.save(&trace).unwrap();
    fs::write(&other, "").unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode();
    assert_eq!(mode(&trace), mode(&other));
}

#[test]
fn a_file_name_alone_is_saved_in_the_current_folder() {
    let name = format!("trace-file-test-{}.trace", std::process::id());
    let sample = small().windows(&[None]).sample();
    sample.trace.save(&name).unwrap();
    let found = Trace::open(&name);
    fs::remove_file(&name).unwrap();
    assert_holds(&found.unwrap(), &sample);
}

#[test]
fn a_packed_trace_is_smaller_and_opened_like_any_other() {
    let folder = tempfile::tempdir().unwrap();
    let [plain, packed, renamed] = ["a.trace", "a.trace.gz", "b.trace"].map(|name| folder.path().join(name));
    let sample = small().windows(&[None, Some(5)]).sample();
    sample.trace.save(&plain).unwrap();
    sample.trace.save(&packed).unwrap();
    let size = |path| fs::metadata(path).unwrap().len();
    assert!(size(&packed) < size(&plain), "{} bytes of {}", size(&packed), size(&plain));
    fs::copy(&packed, &renamed).unwrap();
    for path in [&packed, &renamed] {
        assert_holds(&Trace::open(path).unwrap(), &sample);
    }

    let bytes = fs::read(&packed).unwrap();
    let last_word = bytes.len() - 5; // of the checksum before the length
    for damaged in [bytes[..bytes.len() / 2].to_vec(), bytes[..3].to_vec(), flipped(&bytes, last_word)] {
        fs::write(&renamed, damaged).unwrap();
        let error = Trace::open(&renamed).err().unwrap();
        assert!(
            matches!(error, Error::Trace { .. }) && error.to_string().contains("packed by gzip"),
            "{error}"
        );
    }
}

fn flipped(bytes: &[u8], at: usize) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[at] ^= 1;
    bytes
}
