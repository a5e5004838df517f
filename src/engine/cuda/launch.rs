//! Chooses the search and attention kernels of a layer, their macros and their amount of work.

use std::ops::Range;

use super::{
    macros::Macro,
    module::{Kernel, Work},
    params::{Rows, Rule, Sizes},
};
use crate::{
    engine::{device::AttentionShape, search::Widths},
    error::Error,
    trace::{Estimate, Search, StreamConfig},
};

/// One layer's shape as the kernels see it.
#[derive(Clone, Debug)]
pub struct Settings {
    head_dim: usize,
    pub(super) block_q: usize,
    pub(super) block_k: usize,
    n_heads: usize,
    /// The largest budget of a head.
    top_k: usize,
    /// Ranges that a round of the hierarchical search keeps, where nothing is always kept.
    widths: Widths,
    split: usize,
    rescore: bool,
    always_kept: usize,
    is_hopper: bool,
    /// Whether Hopper's kernels of attention and its record run.
    warpgroups: bool,
    /// Soft cap of the products of queries and keys; 0 for none.
    soft_cap: f32,
    /// Estimate of the hierarchical search, as kernels/search.cu names it.
    estimate: &'static str,
}

/// Thread blocks that keep a card busy, and warps of attention that do: no more than MAX_PARTS of kernels/attention.cu.
const BUSY: usize = 512;
const BUSY_WARPS: usize = 1024;

/// Rows of a query block of kernels that have one.
const ONE_ROW_Q: usize = 16;

/// Most nodes that the hierarchical search holds on any card.
const MAX_FRONTIER: usize = 3904;

/// Blocks of kernels that read all keys, on Hopper.
const WIDE_Q: usize = 128;
const WIDE_K: usize = 64;

/// Fewest key blocks of a segment that is worth a thread block.
const SEGMENT: usize = 64;

/// Fewest parts of the keys that are worth a kernel that joins them, and fewest keys of one.
const PARTS: usize = 4;
const PART: usize = 64;

impl Settings {
    /// # Errors
    /// [`Error::Setting`] for blocks, [`Error::Device`] for heads that the kernels do not have.
    pub fn new(shape: &AttentionShape, is_hopper: bool) -> Result<Self, Error> {
        let block_q = shape.blocks.block_size_q;
        let block_k = shape.blocks.block_size_k;
        if ![16, 32, 64, 128].contains(&block_q) || ![4, 8, 16, 32, 64].contains(&block_k) {
            return Err(Error::setting(
                "block sizes",
                "on a GPU, query blocks of 16, 32, 64 or 128 tokens and key blocks of 4, 8, 16, 32 or 64",
                format!("{block_q} and {block_k}"),
                "choose such sizes, or the CPU",
            ));
        }
        if ![64, 96, 128, 256].contains(&shape.head_dim) {
            let what =
                format!("the kernels have heads of 64, 96, 128 or 256 dimensions, not {}", shape.head_dim);
            return Err(Error::device("cuda", what, "choose the CPU"));
        }
        Ok(Settings {
            head_dim: shape.head_dim,
            block_q,
            block_k,
            n_heads: shape.n_heads,
            top_k: shape.config.top_k,
            widths: Widths::new(&shape.config, shape.config.top_k),
            split: shape.config.split,
            rescore: shape.config.rescore,
            always_kept: shape.config.always_kept(),
            is_hopper: is_hopper && matches!(shape.head_dim, 64 | 128),
            warpgroups: is_hopper && block_q >= 64 && block_k >= 8 && matches!(shape.head_dim, 64 | 128),
            soft_cap: shape.soft_cap.map_or(0.0, |cap| cap * (shape.head_dim as f32).sqrt()),
            estimate: match shape.config.search {
                Search::Hierarchical(Estimate::First) => "FIRST",
                Search::Hierarchical(Estimate::Middle) => "MIDDLE",
                Search::Hierarchical(Estimate::MeanSpread) => "MEAN_SPREAD",
                Search::Hierarchical(Estimate::TwoMeans) | Search::Exhaustive => "TWO_MEANS",
                Search::Window | Search::Random { .. } => "TWO_MEANS",
            },
        })
    }

    /// Returns the settings of kernels that read all keys of some tokens of the prompt's `n_tokens`: without
    /// a mask, blocks are as large as the card takes them.
    pub fn reading_all(&self, tokens: Range<usize>, n_tokens: usize) -> Settings {
        let is_whole = tokens.len().is_multiple_of(WIDE_Q) || tokens.end == n_tokens;
        match self.is_hopper && is_whole && tokens.start.is_multiple_of(WIDE_Q) {
            true => Settings { block_q: WIDE_Q, block_k: WIDE_K, warpgroups: true, ..self.clone() },
            false => self.clone(),
        }
    }

    /// Returns the settings of kernels that read all keys of a row alone.
    pub fn of_one_row(&self) -> Settings {
        Settings { block_q: ONE_ROW_Q, warpgroups: false, ..self.clone() }
    }

    /// Returns rows of tokens as kernels take them, and the number of their query blocks.
    pub fn rows(&self, tokens: &Range<usize>) -> (Rows, usize) {
        let first_block = (tokens.start / self.block_q) as i32;
        (Rows { first_block, n_rows: tokens.len() as i32 }, tokens.len().div_ceil(self.block_q))
    }

    /// Returns whether the attention and record kernels take queries, keys and values as tensor maps.
    pub fn takes_maps(&self) -> bool {
        self.warpgroups
    }

    fn kernel(&self, file: &'static str, entry: &'static str, more: &[(&'static str, Macro)]) -> Kernel {
        let mut kernel = Kernel::new(file, entry)
            .with("HEAD_DIM", self.head_dim)
            .with("BLOCK_Q", self.block_q)
            .with("BLOCK_K", self.block_k);
        kernel.macros.extend(more);
        kernel
    }

    fn soft_cap(&self) -> (&'static str, Macro) {
        ("SOFT_CAP", Macro::Float(self.soft_cap.to_bits()))
    }

    /// Returns the most nodes that the hierarchical search may hold at a time.
    pub fn max_frontier(&self) -> usize {
        // Beside the best, a range that reaches past the candidates may stay at either end.
        let ranges = self.split * (self.widths.ranges + 2);
        ranges.max(self.widths.survivors + self.always_kept).next_multiple_of(64)
    }

    /// Returns whether the budgets are small enough for the hierarchical search; else every key is read.
    pub fn searches_hierarchically(&self) -> bool {
        self.max_frontier() <= MAX_FRONTIER
    }

    /// Returns whether the hierarchical search has log-sum-exps of attention's own products.
    pub fn finds_norms(&self) -> bool {
        self.rescore && self.soft_cap == 0.0 && !self.warpgroups
    }

    pub fn search_hierarchical(&self, n_blocks: usize) -> (Kernel, Work) {
        let rescore = Macro::Number(self.rescore as usize);
        let macros = [("ESTIMATE", Macro::Name(self.estimate)), ("RESCORE", rescore)];
        let work = Work { items: n_blocks, heads: self.n_heads, held: self.max_frontier() };
        (self.kernel("search_hierarchical", "search_hierarchical", &macros), work)
    }

    /// Returns a kernel of the exhaustive search; `entry` is "exhaustive_norms", "exhaustive_scores" (for
    /// segments of query blocks) or "exhaustive_select".
    pub fn exhaustive(&self, entry: &'static str, n_blocks: usize) -> (Kernel, Work) {
        let estimate = [("ESTIMATE", Macro::Name("FIRST"))];
        (self.kernel("search_exhaustive", entry, &estimate), Work::new(n_blocks, self.n_heads))
    }

    /// Returns a kernel of kernels/sample.cu with its work: segments for "sample_norms" and "sample_masses",
    /// query blocks for "sample_histogram" and "sample_recall".
    pub fn sample(&self, entry: &'static str, items: usize) -> (Kernel, Work) {
        let macros = [("ESTIMATE", Macro::Name("FIRST")), self.soft_cap()];
        (self.kernel("sample", entry, &macros), Work::new(items, self.n_heads))
    }

    /// Returns these settings for heads of which the largest budget is `top_k`.
    pub fn with_budget(self, config: &StreamConfig, top_k: usize) -> Self {
        Settings { top_k, widths: Widths::new(config, top_k), ..self }
    }

    /// Returns the number of segments of the keys, so that few query blocks keep a whole card busy.
    pub fn segments(&self, n_blocks: usize, n_key_blocks: usize) -> usize {
        BUSY.div_ceil(n_blocks * self.n_heads).min(n_key_blocks.div_ceil(SEGMENT))
    }

    /// Returns an attention kernel; `entry` is "attention_sparse", "attention_dense" or, for any card,
    /// "attention_sparse_parts", "attention_dense_parts" and what joins them, "attention_of_parts" (of rows, not
    /// blocks), and these without some pairs, "attention_without" and "attention_dense_without".
    pub fn attention(&self, entry: &'static str, n_blocks: usize) -> (Kernel, Work) {
        let on_hopper = self.warpgroups && !entry.ends_with("_without") && !entry.ends_with("_parts");
        let file = if on_hopper { "attention_sm90" } else { "attention" };
        (self.kernel(file, entry, &[self.soft_cap()]), Work::new(n_blocks, self.n_heads))
    }

    /// Returns the kernel of attention over kept blocks and its record; none of Hopper's has both.
    pub fn attention_recorded(&self, n_blocks: usize, anchors: bool) -> (Kernel, Work) {
        let of_anchors = Macro::Number(anchors as usize);
        let macros = [("ANCHORS", of_anchors), ("ALL_KEYS", Macro::Number(0)), self.soft_cap()];
        let kernel = self.kernel("attention_recorded", "attention_recorded", &macros);
        (kernel, Work { items: n_blocks, heads: self.n_heads, held: self.top_k })
    }

    /// Returns the record kernel; `anchors` says whether vertical scores are recorded, `all_keys` whether
    /// what all keys receive is, and nothing else.
    pub fn record(&self, n_blocks: usize, anchors: bool, all_keys: bool) -> (Kernel, Work) {
        let file = if self.warpgroups { "attention_record_sm90" } else { "attention_record" };
        let [of_anchors, of_all] = [anchors, all_keys].map(|yes| Macro::Number(yes as usize));
        let macros = [("ANCHORS", of_anchors), ("ALL_KEYS", of_all), self.soft_cap()];
        let held = if all_keys { 0 } else { self.top_k };
        (self.kernel(file, "attention_record", &macros), Work { items: n_blocks, heads: self.n_heads, held })
    }
}

/// Returns the number of parts in which one query block's attention reads its keys, of which it has up to `n_keys`;
/// 1 if its heads keep the card busy as they are.
pub fn parts(n_heads: usize, block_q: usize, n_keys: usize) -> usize {
    let n = (BUSY_WARPS / (n_heads * block_q.div_ceil(32))).min(n_keys.div_ceil(PART));
    if n < PARTS { 1 } else { n }
}

/// Returns the sizes of a layer over its prompt, as kernels take them.
pub fn sizes(shape: &AttentionShape) -> Sizes {
    Sizes {
        n_tokens: shape.blocks.n_tokens as i32,
        n_kv_heads: shape.n_kv_heads as i32,
        window: shape.blocks.window.unwrap_or(0) as i32,
    }
}

/// Returns the rule for blocks that are kept without a search.
pub fn rule(shape: &AttentionShape) -> Rule {
    Rule {
        sink_blocks: shape.config.sink_blocks as i32,
        local_blocks: shape.config.effective_local_blocks() as i32,
    }
}
