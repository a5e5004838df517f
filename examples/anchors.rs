//! Which sentences of a chain of thought do later ones return to? Facts about people are scattered over
//! prose; the chain works out how many things they have. Draws the chart of its sentences.
//!
//!     cargo run --release --features engine --example anchors anchors.svg

use streamtrace::prelude::*;

fn main() -> Result<(), Error> {
    let picture = std::env::args().nth(1).unwrap_or("anchors.svg".into());
    let tracer = Tracer::load(concat!(env!("CARGO_MANIFEST_DIR"), "/models/needle-6m"))?;
    let tracer = tracer.with(StreamConfig { pruned: Some(0.97), ..Default::default() });
    let problem = WordProblem::generate(20, 27)?;
    let prompt = tracer.word_problem(&problem, 8_192)?;

    // Record the chain's attention key by key, so that only its sentences are compared.
    let trace = tracer.trace_focused(&prompt.text, prompt.thoughts())?;
    let sentences = trace.sentences_at(&problem.chain_pieces(&prompt))?;
    let anchors =
        trace.thought_anchors_with(&AnchorConfig { sentences: Some(sentences), ..Default::default() })?;
    println!("{anchors}");
    anchors.save(picture)
}
