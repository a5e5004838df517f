// A trace of five tokens, for the examples in the documentation.

use streamtrace::trace::*;

/// Saves two layers of one head, in which a block of four queries gives three quarters of its attention to
/// the first two keys.
pub fn save(path: &str) {
    let text = "The harp is green.";
    let offsets = [(0, 3), (3, 4), (4, 8), (8, 11), (11, 18)];
    let config = streamtrace::StreamConfig { block_size_q: 4, block_size_k: 2, top_k: 2, ..Default::default() };
    let blocks = Blocks { n_tokens: 5, block_size_q: 4, block_size_k: 2, window: None };
    let layer = LayerRecord {
        mask: BlockMask { blocks, budgets: Budgets::uniform(1, 2), kept: vec![0, 1, 0, 2] },
        mass: vec![0.75, 0.25, 0.5, 0.5],
        received: vec![1.0; 5],
        focus: vec![0.25; 4],
        written: vec![1.0; 3],
        residual: vec![1.0; 2],
        vertical: vec![0.0],
        proximity: Vec::new(),
        recall: vec![0.9],
        on_sink: Vec::new(),
            experts: Vec::new(),
    };
    let mut writer = TraceWriter::new(&[0, 1, 2, 3, 4], &offsets, text).unwrap();
    (0..2).for_each(|n| writer.layer(n, &layer).unwrap());
    let model = ModelInfo {
        name: "tiny".into(),
        architecture: "qwen3".into(),
        n_layers: 2,
        n_heads: 1,
        n_kv_heads: 1,
        head_dim: 4,
        hidden_size: 4,
        vocab_size: 1,
        n_parameters: 1,
        windows: vec![None; 2],
        context_length: None,
        fingerprint: None,
    };
    let summary = Summary {
        model,
        config,
        n_tokens: 5,
        focus: Span { start: 4, end: 5 },
        next_token: NextToken { id: 0, text: ".".into(), logprob: 0.0 },
        pruned: 0.2,
        recall: Some(Recall { mean: 0.9, least_head: 0.9, rows: 4 }),
        on_sinks: None,
        experts: None,
        keys_read_per_query_block: None,
        seconds: Seconds::default(),
        peak_memory_bytes: 0,
        planned_memory_bytes: 0,
        device: "cpu".into(),
        fidelity: None,
        version: "0.1.0".into(),
    };
    writer.finish(summary, &[0.0]).unwrap().save(path).unwrap();
}
