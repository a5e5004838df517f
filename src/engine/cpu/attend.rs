//! Attention of one head and one query block on the CPU: over the kept key blocks, with what it records, and
//! dense for comparison.
//!
//! Scores of one key lie side by side for 32 queries, so the softmax of 32 queries is computed in step.

use super::{
    exponentials::{add, add_within, exponential, exponentials, raise, times, times_and_sum},
    lanes::{LANES, Lanes, add_weighted, lend, products, soft_cap, vectorized},
    queries::{Queries, QueryPanel, hide, hide_invisible},
};
use crate::{
    protocol::Hidden,
    trace::{Blocks, MIN_DISTANCE, Span},
};

/// Keys that the dense attention works on at a time.
const TILE: usize = 128;

/// Numbers of values that are read again and again: half of the first cache.
const CACHED: usize = 1 << 12;

/// One key-value head. `keys` and `values` are `[n_tokens, head_dim]`.
#[derive(Clone, Copy)]
pub struct KeysValues<'a> {
    pub keys: &'a [f32],
    pub values: &'a [f32],
    pub head_dim: usize,
    /// `cap · tanh(x / cap)` of each attention logit.
    pub soft_cap: Option<f32>,
    /// A logit that takes mass beside the keys and has no value.
    pub sink: Option<f32>,
}

impl<'a> KeysValues<'a> {
    pub fn key(&self, token: usize) -> &'a [f32] {
        &self.keys[token * self.head_dim..][..self.head_dim]
    }

    pub fn value(&self, token: usize) -> &'a [f32] {
        &self.values[token * self.head_dim..][..self.head_dim]
    }

    /// Products of a panel's queries with keys, under the soft cap. `[n_keys][LANES]`
    fn products(&self, panel: &QueryPanel, key: impl Fn(usize) -> usize, scores: &mut [Lanes]) {
        products(&panel.values, |i| self.key(key(i)), scores);
        if let Some(cap) = self.soft_cap {
            let cap = cap * (self.head_dim as f32).sqrt();
            vectorized(
                #[inline(always)]
                || scores.iter_mut().for_each(|lanes| soft_cap(lanes, cap)),
            );
        }
    }

    /// The sink's logit as a power of two; −∞ without a sink.
    pub fn sink(&self) -> f32 {
        self.sink.map_or(f32::NEG_INFINITY, |logit| logit * std::f32::consts::LOG2_E)
    }

    /// Makes a query·key a power of two: 1/√head_dim, and log₂e for the softmax in base 2.
    pub fn scale(&self) -> f32 {
        std::f32::consts::LOG2_E / (self.head_dim as f32).sqrt()
    }
}

/// The result of the sparse attention of one query block.
pub struct SparseBlock {
    /// `[n_queries, head_dim]`
    pub output: Vec<f32>,
    /// Mean over the block's queries of the mass on each kept block. `[n_kept]`
    pub mass: Vec<f32>,
    /// Mean over the block's queries of the mass on the sink.
    pub on_sink: f32,
    /// Mass that each kept key received from the block's queries, in the order of the kept blocks. `[n_keys]`
    pub received: Vec<f32>,
    /// Probabilities of the queries in the focus span, `(query, [n_keys])`.
    pub focus: Vec<(usize, Vec<f32>)>,
    /// For each kept key the sum of p / (tokens of the query's sentence) over queries at least
    /// [`MIN_DISTANCE`] sentences later, if sentences are recorded. `[n_keys]`
    pub anchors: Vec<f32>,
}

impl SparseBlock {
    /// Returns what was recorded of the blocks `kept`, of those that it was recorded of.
    pub fn of(self, blocks: &Blocks, recorded: &[u32], kept: &[u32]) -> Self {
        if recorded.len() == kept.len() {
            return self;
        }
        let mut places = Vec::new();
        let mut at = 0;
        let mut mass = Vec::with_capacity(kept.len());
        for (&block, &on_block) in recorded.iter().zip(&self.mass) {
            let n = blocks.keys(block as usize).len();
            if kept.binary_search(&block).is_ok() {
                places.extend(at..at + n);
                mass.push(on_block);
            }
            at += n;
        }
        let of_kept = |values: &[f32]| places.iter().map(|&place| values[place]).collect::<Vec<f32>>();
        let focus = self.focus.iter().map(|(query, values)| (*query, of_kept(values))).collect();
        SparseBlock { mass, received: of_kept(&self.received), focus, ..self }
    }
}

/// Settings of what is recorded beyond the mass on each key.
#[derive(Clone, Copy, Default)]
pub struct Recorded<'a> {
    /// Tokens whose probabilities are recorded key by key.
    pub focus: Span,
    /// Of each token of the prompt its sentence and 1 / tokens of that sentence; empty if anchors are not
    /// recorded.
    pub sentences: &'a [(u32, f32)],
}

/// Softmax and value sum over the kept key blocks of one query block, causally masked.
pub fn sparse(
    queries: &Queries,
    kv: KeysValues,
    blocks: &Blocks,
    query_block: usize,
    kept: &[u32],
    recorded: Recorded,
) -> SparseBlock {
    let n_queries = blocks.queries(query_block).len();
    let tokens: Vec<usize> = kept.iter().flat_map(|&b| blocks.keys(b as usize)).collect();
    let mut block = SparseBlock {
        output: Vec::with_capacity(n_queries * kv.head_dim),
        mass: Vec::with_capacity(kept.len()),
        on_sink: 0.0,
        received: vec![0.0; tokens.len()],
        focus: Vec::new(),
        anchors: vec![0.0; if recorded.sentences.is_empty() { 0 } else { tokens.len() }],
    };
    lend(tokens.len(), |weights| {
        for panel in &queries.panels {
            scores(panel, kv, blocks, query_block, kept, &tokens, weights);
            block.on_sink += softmax(weights, kv, panel.n, &mut block.received) / n_queries as f32;
            append_rows(&mut block.output, panel, &weighted_values(kv, &tokens, weights));
            if !recorded.sentences.is_empty() {
                add_anchors(panel, recorded.sentences, &tokens, weights, &mut block.anchors);
            }
            let in_focus = (0..panel.n).filter(|lane| recorded.focus.range().contains(&(panel.first + lane)));
            block
                .focus
                .extend(in_focus.map(|lane| (panel.first + lane, weights.iter().map(|w| w[lane]).collect())));
        }
    });
    let mut received = block.received.iter();
    for &kept in kept {
        let on_block: f32 = received.by_ref().take(blocks.keys(kept as usize).len()).sum();
        block.mass.push(on_block / n_queries as f32);
    }
    block
}

/// Adds to each key's anchor mass what it gets from the panel's queries that are far enough after it.
fn add_anchors(
    panel: &QueryPanel,
    sentences: &[(u32, f32)],
    tokens: &[usize],
    weights: &[Lanes],
    anchors: &mut [f32],
) {
    let sentence = |lane: usize| sentences[panel.first + lane.min(panel.n - 1)];
    // Sentences are fewer than 2²⁴: f32 holds their numbers, and is compared in step with the rest.
    let furthest: Lanes = std::array::from_fn(|lane| sentence(lane).0 as f32 - MIN_DISTANCE as f32);
    let share: Lanes = std::array::from_fn(|lane| sentence(lane).1);
    let sentence = |i: usize| sentences[tokens[i]].0 as f32;
    add_within(anchors, weights, &share, &furthest, sentence);
}

/// Products of a panel's queries with the kept keys, −∞ where a query does not see a key. `[n_keys][LANES]`
fn scores(
    panel: &QueryPanel,
    kv: KeysValues,
    blocks: &Blocks,
    query_block: usize,
    kept: &[u32],
    tokens: &[usize],
    scores: &mut [Lanes],
) {
    kv.products(panel, |i| tokens[i], scores);
    let mut i = 0;
    for &block in kept {
        let keys = blocks.keys(block as usize);
        if !blocks.is_full(query_block, block as usize) {
            for (key, scores) in keys.clone().zip(&mut scores[i..]) {
                hide_invisible(scores, panel, key, blocks);
            }
        }
        i += keys.len();
    }
}

/// The outputs `[n_queries, head_dim]` of [`sparse`] without the pairs that are hidden.
pub fn sparse_without(
    queries: &Queries,
    kv: KeysValues,
    blocks: &Blocks,
    query_block: usize,
    kept: &[u32],
    hidden: &Hidden,
) -> Vec<f32> {
    let tokens: Vec<usize> = kept.iter().flat_map(|&b| blocks.keys(b as usize)).collect();
    let mut output = Vec::new();
    let mut received = vec![0.0; tokens.len()];
    lend(tokens.len(), |weights| {
        for panel in &queries.panels {
            scores(panel, kv, blocks, query_block, kept, &tokens, weights);
            if !hidden.is_empty() {
                for (scores, &key) in weights.iter_mut().zip(&tokens) {
                    hide(scores, panel, |query| hidden.hides(query, key));
                }
            }
            softmax(weights, kv, panel.n, &mut received);
            append_rows(&mut output, panel, &weighted_values(kv, &tokens, weights));
        }
    });
    output
}

/// Sums values by their weights. `[head_dim][LANES]`
fn weighted_values(kv: KeysValues, tokens: &[usize], weights: &[Lanes]) -> Vec<Lanes> {
    let mut sums = vec![[0.0; LANES]; kv.head_dim];
    let tile = (CACHED / kv.head_dim).clamp(1, TILE);
    for (tokens, weights) in tokens.chunks(tile).zip(weights.chunks(tile)) {
        add_weighted(&mut sums, weights, |i| kv.value(tokens[i]));
    }
    sums
}

/// Softmax in base 2 of each lane's scores and the sink; lanes from `n` on become 0. Adds each key's sum over
/// lanes to `received`; returns that of the sink.
fn softmax(weights: &mut [Lanes], kv: KeysValues, n: usize, received: &mut [f32]) -> f32 {
    let (scale, sink) = (kv.scale(), kv.sink());
    let mut most = [f32::NEG_INFINITY; LANES];
    raise(&mut most, weights);
    let most = most.map(|most| (most * scale).max(sink));
    let on_sink = exponential([sink; LANES], &most);
    let mut sum = on_sink;
    exponentials(weights, scale, &most, &mut sum);
    let inverse: Lanes = std::array::from_fn(|lane| if lane < n { 1.0 / sum[lane] } else { 0.0 });
    times_and_sum(weights, &inverse, received);
    (0..n).map(|lane| on_sink[lane] * inverse[lane]).sum()
}

/// Appends the outputs of a panel's queries, `[n, head_dim]`.
fn append_rows(rows: &mut Vec<f32>, panel: &QueryPanel, sums: &[Lanes]) {
    for lane in 0..panel.n {
        rows.extend(sums.iter().map(|dim| dim[lane]));
    }
}

/// Softmax and value sum over all visible keys of one query block, streaming: the running maximum, sum and
/// output of each query are all that is held.
///
/// Returns the outputs `[n_queries, head_dim]`, and the sum over the queries of the share of their mass on keys
/// that is on the `kept` key blocks.
pub fn dense(
    queries: &Queries,
    kv: KeysValues,
    blocks: &Blocks,
    query_block: usize,
    kept: &[u32],
) -> (Vec<f32>, f64) {
    let visible = blocks.visible(query_block);
    let keys = blocks.keys(visible.start).start..blocks.keys(visible.end - 1).end;
    let mut output = Vec::with_capacity(blocks.queries(query_block).len() * kv.head_dim);
    let mut kept_mass = 0.0;
    let mut tile = vec![[0.0; LANES]; TILE];
    for panel in &queries.panels {
        let first = panel.first;
        let seen_by_all = blocks.visible_keys(first + panel.n - 1).start..first + 1;
        let mut running =
            RunningSoftmax { most: [f32::MIN; LANES], sum: [0.0; LANES], on_kept: [0.0; LANES] };
        let mut sums = vec![[0.0; LANES]; kv.head_dim];
        for start in keys.clone().step_by(TILE) {
            let n = TILE.min(keys.end - start);
            let scores = &mut tile[..n];
            kv.products(panel, |i| start + i, scores);
            for (key, scores) in
                (start..start + n).zip(scores.iter_mut()).filter(|(key, _)| !seen_by_all.contains(key))
            {
                hide_invisible(scores, panel, key, blocks);
            }
            let is_kept =
                |i: usize| kept.binary_search(&(((start + i) / blocks.block_size_k) as u32)).is_ok();
            running.add(scores, kv.scale(), &mut sums, is_kept);
            add_weighted(&mut sums, scores, |i| kv.value(start + i));
        }
        let all = running.with_sink(kv.sink());
        sums.iter_mut().for_each(|dim| (0..LANES).for_each(|lane| dim[lane] /= all[lane]));
        append_rows(&mut output, panel, &sums);
        kept_mass += (0..panel.n).map(|lane| (running.on_kept[lane] / running.sum[lane]) as f64).sum::<f64>();
    }
    (output, kept_mass)
}

/// A softmax in base 2 over keys that come in tiles.
struct RunningSoftmax {
    most: Lanes,
    sum: Lanes,
    /// The part of `sum` that falls on kept keys.
    on_kept: Lanes,
}

impl RunningSoftmax {
    /// The sums, with a sink's weight against the largest key.
    fn with_sink(&self, sink: f32) -> Lanes {
        std::array::from_fn(|lane| self.sum[lane] + (sink - self.most[lane]).exp2())
    }

    /// Turns a tile's scores times `scale` into weights against the largest so far, and shrinks what was
    /// summed before to match.
    fn add(&mut self, scores: &mut [Lanes], scale: f32, sums: &mut [Lanes], is_kept: impl Fn(usize) -> bool) {
        let before = self.most;
        let mut most = [f32::NEG_INFINITY; LANES];
        raise(&mut most, scores);
        raise(&mut self.most, &[most.map(|most| most * scale)]);
        let shrink = exponential(before, &self.most);
        times(sums, &shrink);
        for sum in [&mut self.sum, &mut self.on_kept] {
            times(std::slice::from_mut(sum), &shrink);
        }
        exponentials(scores, scale, &self.most, &mut self.sum);
        for (i, scores) in scores.iter().enumerate() {
            if is_kept(i) {
                add(&mut self.on_kept, std::slice::from_ref(scores));
            }
        }
    }
}
