//! Opens a saved trace without a model, an engine or a GPU. For each layer, prints the head that looks
//! hardest at one place of the prompt, that place and its text.
//!
//!     cargo run --example open prompt.trace

use streamtrace::prelude::*;

fn main() -> Result<(), Error> {
    let file = std::env::args().nth(1).unwrap_or("prompt.trace".into());
    let trace = Trace::open(file)?;
    println!("{trace}");
    for &layer in trace.layers() {
        let strongest = |head| Ok::<_, Error>((head, strongest(&trace, layer, head)?));
        let heads = (0..trace.n_heads()).map(strongest).collect::<Result<Vec<_>, Error>>()?;
        let Some((head, (block, mass))) = heads.into_iter().max_by(|a, b| a.1.1.total_cmp(&b.1.1)) else {
            continue;
        };
        let text = trace.span_text(trace.blocks(layer)?.keys(block))?;
        println!("layer {layer}: head {head} gives {:.0} % of its last attention to {text:?}", 100.0 * mass);
    }
    Ok(())
}

/// Returns the key block that gets most attention from a head's last query block, and its share. Leaves out
/// the first block: it gets the attention that is not needed elsewhere.
fn strongest(trace: &Trace, layer: usize, head: usize) -> Result<(usize, f32), Error> {
    let last = trace.blocks(layer)?.n_query_blocks() - 1;
    let head = trace.head(layer, head)?;
    Ok(head.row(last).filter(|(block, _)| *block > 0).max_by(|a, b| a.1.total_cmp(&b.1)).unwrap_or_default())
}
