//! Anchors and routes of a million-token trace of an 8B shape:
//! `cargo bench --features engine --bench million -- FOLDER`
//!
//! Writes a synthetic trace of 32 layers and 32 heads (more than 5 GB) into FOLDER, opens it, and measures
//! the time and memory of reading it. Its numbers are random; the time of reading does not depend on them.

use std::{error::Error, path::Path, time::Instant};

use streamtrace::{
    StreamConfig, Trace,
    trace::{
        BlockMask, Budgets, LayerRecord, ModelInfo, NextToken, Recall, Seconds, Span, Summary, TraceWriter,
        token_sentences,
    },
};

const N_TOKENS: usize = 1_000_000;
const N_LAYERS: usize = 32;
const N_HEADS: usize = 32;

fn main() -> Result<(), Box<dyn Error>> {
    let folder =
        std::env::args().skip(1).find(|argument| !argument.starts_with('-')).ok_or("name a folder")?;
    let path = Path::new(&folder).join("million.trace");
    write(&path)?;
    let trace = Trace::open(&path)?;
    let start = Instant::now();
    let anchors = trace.thought_anchors()?;
    println!("anchors of {} sentences: {:.1} s", anchors.sentences.len(), start.elapsed().as_secs_f64());
    let start = Instant::now();
    let routes = trace.routes(N_TOKENS / 3..N_TOKENS / 3 + 20, trace.output())?;
    println!("routes over {} edges: {:.1} s", routes.n_edges, start.elapsed().as_secs_f64());
    let status = std::fs::read_to_string("/proc/self/status")?;
    status
        .lines()
        .filter(|line| line.starts_with("RssAnon") || line.starts_with("VmHWM"))
        .for_each(|line| println!("{line}"));
    std::fs::remove_file(&path)?;
    Ok(())
}

fn summary() -> Summary {
    let config = StreamConfig { block_size_q: 128, block_size_k: 64, top_k: 32, ..StreamConfig::default() };
    Summary {
        model: ModelInfo {
            name: "made-up".into(),
            architecture: "llama".into(),
            n_layers: N_LAYERS,
            n_heads: N_HEADS,
            n_kv_heads: 8,
            head_dim: 128,
            hidden_size: 4096,
            vocab_size: 4,
            n_parameters: 8_000_000_000,
            windows: vec![None; N_LAYERS],
            context_length: None,
            fingerprint: None,
        },
        config,
        n_tokens: N_TOKENS,
        focus: Span { start: N_TOKENS - 32, end: N_TOKENS },
        next_token: NextToken { id: 0, text: String::new(), logprob: 0.0 },
        keys_read_per_query_block: None,
        pruned: 0.99,
        recall: Some(Recall { mean: 0.9, least_head: 0.5, rows: 512 }),
        on_sinks: None,
        experts: None,
        seconds: Seconds::default(),
        peak_memory_bytes: 0,
        planned_memory_bytes: 0,
        device: "none".into(),
        fidelity: None,
        version: "0.1.0".into(),
    }
}

/// Writes a trace that keeps sinks, last blocks and random ones, with random masses.
fn write(path: &Path) -> Result<(), Box<dyn Error>> {
    let (summary, mut random) = (summary(), fastrand::Rng::with_seed(1));
    let text =
        " word word word word word word word word word word word word word word word word word word word."
            .repeat(N_TOKENS / 20);
    let offsets: Vec<(usize, usize)> = (0..N_TOKENS).map(|i| (i * 96 / 20, (i + 1) * 96 / 20)).collect();
    let n_sentences = token_sentences(&text, &offsets).len();
    let mut writer = TraceWriter::new(&vec![0; N_TOKENS], &offsets, &text)?;
    for layer in 0..N_LAYERS {
        let mut mask =
            BlockMask::empty(summary.blocks(layer), Budgets::uniform(N_HEADS, summary.config.top_k));
        for row in 0..N_HEADS * mask.blocks.n_query_blocks() {
            let (head, query_block) =
                (row / mask.blocks.n_query_blocks(), row % mask.blocks.n_query_blocks());
            let visible = mask.blocks.visible(query_block).end as u32;
            let mut kept: Vec<u32> = (0..32)
                .map(|i| if i < 8 { visible - 1 - i.min(visible - 1) } else { random.u32(..visible) })
                .collect();
            kept.sort_unstable();
            kept.dedup();
            let row = mask.row(head, query_block);
            mask.kept[row][..kept.len()].copy_from_slice(&kept);
        }
        let mut numbers = |n: usize| (0..n).map(|_| random.f32() / 32.0).collect::<Vec<f32>>();
        let (n_blocks, n_query_blocks) = (mask.blocks.n_key_blocks(), mask.blocks.n_query_blocks());
        let record = LayerRecord {
            mass: numbers(mask.kept.len()),
            received: numbers(N_HEADS * N_TOKENS),
            focus: numbers(N_HEADS * 32 * 32 * 64),
            written: numbers(N_HEADS * n_blocks),
            residual: numbers(n_query_blocks),
            proximity: Vec::new(),
            recall: numbers(N_HEADS),
            on_sink: Vec::new(),
            experts: Vec::new(),
            vertical: numbers(N_HEADS * n_sentences),
            mask,
        };
        writer.layer(layer, &record)?;
    }
    writer.finish(summary, &[0.0; 4])?.save(path)?;
    Ok(())
}
