//! Hides a number in 16,000 tokens, asks the bundled model for it, and draws where the model looked: the
//! picture in the README.
//!
//!     cargo run --release --features engine --example needle needle.svg

use streamtrace::prelude::*;

fn main() -> Result<(), Error> {
    let picture = std::env::args().nth(1).unwrap_or("needle.svg".into());
    let tracer = Tracer::load(concat!(env!("CARGO_MANIFEST_DIR"), "/models/needle-6m"))?;
    let tracer = tracer.with(StreamConfig { pruned: Some(0.95), ..Default::default() });
    let task = RulerConfig {
        task: Task::NiahSingle2,
        n_tokens: 16_384,
        seed: 1,
        depth: Some(0.5),
        ..Default::default()
    };
    let prompt = tracer.prompt(&task)?;

    // The prompt ends with the space before the answer: this last token reads the first digit of the needle's
    // number.
    let trace = tracer.trace(&format!("{} ", prompt.text))?;
    println!("{trace}");

    let needle = trace.find(&prompt.text[prompt.needles[0].clone()])?;
    let around = Span { start: needle.start - 4, end: needle.end + 4 };
    trace
        .attention_map(3, 0)?
        .queries(trace.summary().focus)?
        .keys(around)?
        .mark("needle", needle)?
        .save(picture)
}
