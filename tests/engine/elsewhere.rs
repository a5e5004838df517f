//! Engines behind a command: traces in pieces, traces of some layers, and connections that drop.

use std::path::Path;

use streamtrace::{
    Error, LoadOptions, Search, StreamConfig, Trace, Tracer,
    protocol::{
        Payload, Reply,
        frame::{self, Message},
    },
};
use tempfile::TempDir;

use crate::{
    common,
    fixture::{BINARY, model, options},
};

/// Returns a command that serves the small model.
fn serving() -> String {
    format!("{BINARY} serve --device cpu --model {}", model().display())
}

fn config() -> StreamConfig {
    StreamConfig { top_k: 12, ..StreamConfig::default() }
}

fn whole() -> Trace {
    common::load(model()).unwrap().with(config()).trace(&common::prompt(300)).unwrap()
}

#[track_caller]
fn assert_layers(trace: &Trace, layers: &[usize]) {
    let whole = whole();
    assert_eq!(trace.layers(), layers);
    assert_eq!((trace.text(), trace.logits(), trace.n_layers()), (whole.text(), whole.logits(), 6));
    for &layer in layers {
        for head in 0..whole.n_heads() {
            assert_eq!(trace.head(layer, head), whole.head(layer, head), "{layer} {head}");
            assert_eq!(trace.attention_row(layer, head, 299), whole.attention_row(layer, head, 299));
        }
        assert_eq!(trace.residual(layer), whole.residual(layer));
    }
}

#[test]
fn a_trace_from_elsewhere_is_the_same_and_smaller_on_its_way() {
    let folder = TempDir::new().unwrap();
    let said = folder.path().join("said");
    let tracer = Tracer::connect(&format!("{} | tee {}", serving(), said.display())).unwrap().with(config());
    assert_eq!((tracer.device(), tracer.model().n_layers), ("cpu", 6));
    let trace = tracer.trace(&common::prompt(300)).unwrap();
    assert_layers(&trace, &[0, 1, 2, 3, 4, 5]);
    trace.save(folder.path().join("a.trace")).unwrap();
    let [travelled, saved] =
        [&said, &folder.path().join("a.trace")].map(|path| std::fs::metadata(path).unwrap().len());
    assert!(travelled < saved * 9 / 10, "{travelled} bytes of {saved}");
    // The result is a trace like any other.
    assert_eq!(
        tracer.compare(&trace).unwrap().summary().fidelity.as_ref().unwrap().same_next_token,
        Some(true)
    );
}

#[test]
fn only_the_layers_that_were_asked_for_travel() {
    let folder = TempDir::new().unwrap();
    let said = folder.path().join("said");
    let size = || std::fs::metadata(&said).unwrap().len();
    let tracer = Tracer::connect(&format!("{} | tee {}", serving(), said.display())).unwrap().with(config());
    tracer.trace(&common::prompt(300)).unwrap();
    let all = size();
    let some = tracer.with_layers(&[4, 1, 4]).unwrap().trace(&common::prompt(300)).unwrap();
    assert_layers(&some, &[1, 4]);
    assert!(size() - all < all / 2, "{} bytes of {all}", size() - all);
    assert!(some.head(0, 0).unwrap_err().to_string().contains("this trace holds layers [1, 4]"));
    assert!(some.overview().is_ok() && some.explore().is_ok() && some.edges().all(|edge| edge.is_ok()));
    some.save(folder.path().join("some.trace")).unwrap();
    assert_layers(&Trace::open(folder.path().join("some.trace")).unwrap(), &[1, 4]);

    assert!(matches!(tracer.with_layers(&[6]), Err(Error::Missing { .. })));
    assert!(matches!(tracer.with_layers(&[]), Err(Error::Setting { .. })));
    let here = common::load(model()).unwrap().with_layers(&[0]).err().unwrap().to_string();
    assert!(here.contains("Tracer::connect"), "{here}");
}

/// Returns the same engine behind a connection that drops after `n_bytes`: nothing else holds its end open.
fn cut(folder: &TempDir, n_bytes: usize) -> String {
    let pipe = folder.path().join("pipe").display().to_string();
    format!(
        "rm -f {pipe}; mkfifo {pipe}; exec 3<&0; {} <&3 > {pipe} & exec dd bs=1 count={n_bytes} status=none < {pipe}",
        serving()
    )
}

/// Returns the number of bytes that an engine sends until a trace has arrived.
fn bytes_of_a_trace() -> usize {
    let folder = TempDir::new().unwrap();
    let said = folder.path().join("said");
    let tracer = Tracer::connect(&format!("{} | tee {}", serving(), said.display())).unwrap().with(config());
    tracer.trace(&common::prompt(300)).unwrap();
    std::fs::metadata(&said).unwrap().len() as usize
}

#[test]
fn what_arrived_before_the_connection_broke_off_is_kept() {
    let (folder, all) = (TempDir::new().unwrap(), bytes_of_a_trace());
    let mut kept = Vec::new();
    for n_bytes in [all / 2, all * 3 / 4, all * 9 / 10] {
        let tracer = Tracer::connect(&cut(&folder, n_bytes)).unwrap().with(config());
        let error = tracer.trace(&common::prompt(300)).err().unwrap().to_string();
        let arrived = tracer.arrived().unwrap();
        kept.push(arrived.layers().len());
        assert_layers(&arrived, &(0..arrived.layers().len()).collect::<Vec<_>>());
        for part in [
            "broke off",
            &format!("{} of 6 layers of the trace arrived", arrived.layers().len()),
            "Tracer::arrived has them",
        ] {
            assert!(error.contains(part), "{part} in {error}");
        }
        assert!(tracer.arrived().is_none(), "once");
        // A new engine answers the next call.
        assert_eq!(tracer.count_tokens("w1 w2"), Ok(2));
    }
    assert!(kept.is_sorted() && kept[0] < kept[2], "{kept:?}");
}

#[test]
fn a_connection_that_breaks_off_before_a_layer_is_an_error() {
    let folder = TempDir::new().unwrap();
    for n_bytes in [0, 10, 100] {
        let error = Tracer::connect(&cut(&folder, n_bytes)).err().unwrap();
        assert!(matches!(error, Error::Engine { .. }), "{error}");
    }
    let tracer = Tracer::connect(&cut(&folder, 2000)).unwrap().with(config());
    assert!(matches!(tracer.trace(&common::prompt(300)), Err(Error::Engine { .. })));
    assert!(tracer.arrived().is_none());
}

#[test]
fn traces_from_before_a_broken_connection_stay() {
    let (folder, all) = (TempDir::new().unwrap(), bytes_of_a_trace());
    let tracer = Tracer::connect(&cut(&folder, all + all / 2)).unwrap().with(config());
    let first = tracer.trace(&common::prompt(300)).unwrap();
    assert!(tracer.trace(&common::prompt(300)).is_err());
    assert_layers(&first, &[0, 1, 2, 3, 4, 5]);
    assert!(!tracer.arrived().unwrap().layers().is_empty());
}

#[test]
fn a_model_is_a_folder_of_the_other_machine() {
    let (folder, name) = (model().parent().unwrap(), model().file_name().unwrap());
    let command = format!("cd '{}' && {BINARY} serve", folder.display());
    let tracer = Tracer::connect_with(&command, LoadOptions { model: name.into(), ..options() }).unwrap();
    assert_eq!(tracer.count_tokens("w1"), Ok(1));
    let nowhere = LoadOptions { model: "no/such/model".into(), ..options() };
    let error = Tracer::connect_with(&command, nowhere).err().unwrap().to_string();
    assert!(
        error.contains("no/such/model")
            && !error.contains(&std::env::current_dir().unwrap().display().to_string()),
        "{error}"
    );
}

#[test]
fn commands_that_cannot_serve_say_why() {
    let file = |folder: &Path, bytes: &[u8]| {
        std::fs::write(folder.join("said"), bytes).unwrap();
        format!("cat {}; cat > /dev/null", folder.join("said").display())
    };
    let folder = TempDir::new().unwrap();
    let mut other = Vec::new();
    frame::write(&mut other, &Message::Reply(Reply::Count(1)), &Payload::None).unwrap();
    other[4] = frame::VERSION as u8 + 1;
    let instead = format!("protocol version {} instead of {}", frame::VERSION + 1, frame::VERSION);
    let mut piece = Vec::new();
    frame::write(&mut piece, &Message::Piece, &Payload::Bytes(b"nothing packed".to_vec())).unwrap();
    for (command, says) in [
        (format!("{BINARY} serve"), &["no model is loaded", "streamtrace serve --model"][..]),
        (format!("{BINARY} serve --model /nowhere"), &["/nowhere"]),
        (file(folder.path(), &other), &[&instead, "the same version of streamtrace"]),
        (
            "echo 'ssh: Could not resolve hostname gpu' >&2; exit 255".into(),
            &["exit status: 255", "Could not resolve hostname"],
        ),
        ("echo Welcome to gpu".into(), &["something else than an engine answered", "Welcome to gpu"]),
    ] {
        let error = Tracer::connect(&command).err().unwrap().to_string();
        assert!(says.iter().all(|part| error.contains(part)), "{command}: {error}");
    }
    let error = Tracer::connect(&file(folder.path(), &piece)).err().unwrap().to_string();
    assert!(error.contains("a piece of a trace"), "{error}");
}

#[test]
fn settings_travel_too() {
    let tracer = Tracer::connect(&serving()).unwrap();
    let config = StreamConfig { search: Search::Window, ..config() };
    assert_eq!(
        tracer.with(config).trace(&common::prompt(300)).unwrap().summary().config.search,
        Search::Window
    );
}
