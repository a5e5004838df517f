use crate::tracer;
use streamtrace::{
    Search, StreamConfig, Tracer,
    trace::{CompareConfig, PositionFidelity},
};
fn compared(tracer: &Tracer, text: &str) -> (usize, usize, f64, PositionFidelity) {
    let trace = tracer.trace(text).unwrap();
    let compared = tracer.compare_with(&trace, &CompareConfig::default()).unwrap();
    let s = compared.summary();
    let fidelity = s.fidelity.clone().unwrap();
    (s.n_tokens, s.config.top_k, fidelity.recall, fidelity.positions.unwrap())
}
#[test]
fn probe() {
    let Some(tracer) = tracer() else { return };
    let text = include_str!("../../docs/fidelity.md");
    for (n, pruned) in [(2400, 0.8), (2400, 0.7)] {
        for search in [StreamConfig::default().search, Search::Window, Search::Random { seed: 0 }] {
            let t = std::time::Instant::now();
            let tr = tracer.with(StreamConfig { pruned: Some(pruned), search, ..StreamConfig::default() });
            eprintln!(
                "PROBE {n} {pruned} {search:?} {:?} {:?}",
                compared(&tr, &text[..text.floor_char_boundary(n)]),
                t.elapsed()
            );
        }
    }
}
