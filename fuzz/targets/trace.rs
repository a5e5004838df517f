//! A trace file: everything that is read, computed and drawn from it.
#![no_main]

use libfuzzer_sys::{fuzz_mutator, fuzz_target};
use streamtrace::{Error, Report, Trace, analysis::AnchorConfig};
use streamtrace_fuzz::{file, limited, mutate_safetensors};

/// Memory of a figure, however small its trace.
const FIGURE: usize = 256 << 20;

fuzz_target!(|bytes: &[u8]| {
    let path = file("a.trace", bytes);
    let Ok(trace) = limited(bytes.len(), 0, || Trace::open(&path)) else { return };
    let _ = limited(bytes.len(), 0, || read(&trace));
    let _ = limited(bytes.len(), FIGURE, || draw(&trace));
});

fn read(trace: &Trace) -> Result<(), Error> {
    let (_, _, _, _) = (trace.to_string(), trace.tokens(), trace.logits(), trace.sentences());
    let (n_tokens, focus) = (trace.n_tokens(), trace.summary().focus);
    let _ =
        (trace.find("a"), trace.find_last("no such text"), trace.span_text(0..n_tokens), trace.span_text(n_tokens - 1..n_tokens));
    for layer in 0..trace.n_layers().min(4) {
        let _ =
            (trace.mask(layer).map(|mask| mask.kept_pairs()), trace.masses(layer), trace.proximity(layer), trace.residual(layer));
        for head in 0..trace.n_heads().min(4) {
            let _ = (trace.head(layer, head), trace.vertical(layer, head), trace.written(layer, head));
            let _ = (trace.attention_row(layer, head, focus.start), trace.attention_row(layer, head, n_tokens - 1));
        }
    }
    Ok(())
}

fn draw(trace: &Trace) -> Result<(), Error> {
    let layer = trace.layers().first().copied().unwrap_or(0);
    let map = trace.attention_map(layer, 0).map(|map| map.figure());
    let zoomed = trace.attention_map(layer, 0).and_then(|map| map.queries(trace.output())).map(|map| map.figure());
    let recall = trace.recall_map().map(|map| map.figure());
    let routes = trace.routes(0..1, trace.output()).map(|routes| (routes.figure(), routes.to_string()));
    let anchors = trace.thought_anchors().map(|anchors| (anchors.figure(), anchors.html()));
    let _ = trace.thought_anchors_with(&AnchorConfig { control_depth: true, ..AnchorConfig::default() });
    let (_, _, _, _, _) = (map, zoomed, recall, routes, anchors);
    trace.edges().take(1000).for_each(drop);
    let _ = trace.sentence_edges().map(|edges| edges.take(1000).for_each(drop));
    let _ = trace.overview();
    Report::new("hostile").trace(trace).explore(&trace.explore()?).html();
    Ok(())
}

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| { mutate_safetensors(data, size, max_size, seed) });
