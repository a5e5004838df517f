//! How the search and attention kernels are launched: macros, grids and shared memory, as their header comments say.

use super::gpu::{Kernel, Launch};
use crate::{
    engine::{device::AttentionShape, search::Widths},
    error::Error,
    trace::{Estimate, Search},
};

/// One layer's shape as the kernels see it.
#[derive(Clone, Debug)]
pub struct Settings {
    pub head_dim: usize,
    pub block_q: usize,
    pub block_k: usize,
    pub n_heads: usize,
    pub top_k: usize,
    /// What the hierarchical search keeps in a round, where nothing is always kept.
    widths: Widths,
    split: usize,
    rescore: bool,
    always_kept: usize,
    /// Whether Hopper's kernels run.
    warpgroups: bool,
    /// Soft cap of the products of queries and keys, the bits of an f32; 0 for none.
    soft_cap: usize,
    /// Of the hierarchical search, as kernels/search_hierarchical.cu numbers them.
    estimate: usize,
}

/// Thread blocks that keep a card busy.
const BUSY: usize = 512;

/// Fewest key blocks of a segment that is worth a thread block.
const SEGMENT: usize = 512;

impl Settings {
    /// # Errors
    /// [`Error::Setting`] for blocks, [`Error::Device`] for heads that the kernels do not have.
    pub fn new(shape: &AttentionShape, is_hopper: bool) -> Result<Self, Error> {
        let (block_q, block_k) = (shape.blocks.block_size_q, shape.blocks.block_size_k);
        if ![16, 32, 64, 128].contains(&block_q) || ![8, 16, 32, 64].contains(&block_k) {
            return Err(Error::setting(
                "block sizes",
                "on a GPU, query blocks of 16, 32, 64 or 128 tokens and key blocks of 8, 16, 32 or 64",
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
            warpgroups: is_hopper && block_q >= 64 && matches!(shape.head_dim, 64 | 128),
            soft_cap: shape
                .soft_cap
                .map_or(0, |cap| (cap * (shape.head_dim as f32).sqrt()).to_bits() as usize),
            estimate: match shape.config.search {
                Search::Hierarchical(Estimate::First) => 0,
                Search::Hierarchical(Estimate::Middle) => 1,
                Search::Hierarchical(Estimate::MeanSpread) => 2,
                Search::Hierarchical(Estimate::TwoMeans)
                | Search::Exhaustive
                | Search::Window
                | Search::Random { .. } => 3,
            },
        })
    }

    /// Whether queries, keys and values go to the attention kernels as tensor maps.
    pub fn takes_maps(&self) -> bool {
        self.warpgroups
    }

    fn row_bytes(&self) -> usize {
        self.head_dim * 2 + 16
    }

    fn macros(&self) -> Vec<(&'static str, usize)> {
        vec![("HEAD_DIM", self.head_dim), ("BLOCK_Q", self.block_q), ("BLOCK_K", self.block_k)]
    }

    fn kernel(&self, file: &'static str, entry: &'static str, more: &[(&'static str, usize)]) -> Kernel {
        Kernel { file, entry, macros: [self.macros().as_slice(), more].concat() }
    }

    /// Warps of the kernels that work on tiles of keys or nodes.
    fn warps(&self, tile: usize) -> usize {
        let warps_q = self.block_q / 16;
        warps_q * (8 / warps_q).min(tile / 16)
    }

    fn grid(&self, n_blocks: usize) -> (usize, usize) {
        (n_blocks, self.n_heads)
    }

    fn narrow_tile(&self) -> usize {
        if self.head_dim > 128 { 32 } else { 64 }
    }

    /// Nodes that the hierarchical search may hold at a time.
    pub fn max_frontier(&self) -> usize {
        // Beside the best, a range that reaches past the candidates may stay at either end.
        let ranges = self.split * (self.widths.ranges + 2);
        ranges.max(self.widths.survivors + self.always_kept).next_multiple_of(64)
    }

    pub fn search_hierarchical(&self, n_blocks: usize) -> (Kernel, Launch) {
        let products = if self.estimate == 2 { 2 } else { 1 };
        let chosen = [("ESTIMATE", self.estimate), ("RESCORE", self.rescore as usize)];
        let (kernel, threads, scoring) = if self.warpgroups {
            // As many columns as leave room for two thread blocks on a multiprocessor, and for keys in the registers.
            let columns = match (self.rescore, products) {
                (true, _) => 64,
                (false, 2) => 88,
                (false, _) => 128,
            };
            let macros = [chosen[0], chosen[1], ("COLUMNS", columns)];
            let kernel = self.kernel("search_hierarchical_sm90", "search_hierarchical", &macros);
            (
                kernel,
                2 * self.block_q,
                1024 + products * self.head_dim * 2 * (self.block_q + columns) + 4 * columns,
            )
        } else {
            let (kernel, tile) =
                (self.kernel("search_hierarchical", "search_hierarchical", &chosen), self.narrow_tile());
            (kernel, 32 * self.warps(tile), 2 * tile * (products * self.row_bytes() + 4))
        };
        (
            kernel,
            Launch {
                grid: self.grid(n_blocks),
                block: (threads, 1),
                shared: scoring + 16 * self.max_frontier(),
            },
        )
    }

    /// `entry` is "exhaustive_norms" or "exhaustive_scores".
    pub fn exhaustive(&self, entry: &'static str, n_blocks: usize) -> (Kernel, Launch) {
        let tile = self.narrow_tile();
        let launch = Launch {
            grid: self.grid(n_blocks),
            block: (32 * self.warps(tile), 1),
            shared: 2 * tile * self.row_bytes(),
        };
        (self.kernel("search_exhaustive", entry, &[("ESTIMATE", 0)]), launch)
    }

    /// Segments of the keys, so that few query blocks keep a whole card busy.
    pub fn segments(&self, n_blocks: usize, n_key_blocks: usize) -> usize {
        BUSY.div_ceil(n_blocks * self.n_heads).min(n_key_blocks.div_ceil(SEGMENT))
    }

    pub fn exhaustive_select(&self, n_blocks: usize) -> (Kernel, Launch) {
        let launch = Launch { grid: self.grid(n_blocks), block: (256, 1), shared: 0 };
        (self.kernel("search_exhaustive", "exhaustive_select", &[("ESTIMATE", 0)]), launch)
    }

    /// `entry` is "attention_sparse", "attention_dense" or, for any card, "attention_without".
    pub fn attention(&self, entry: &'static str, n_blocks: usize) -> (Kernel, Launch) {
        let (file, threads, shared) = if self.warpgroups && entry != "attention_without" {
            let tile = if self.block_q == 64 { 64 } else { 128 };
            ("attention_sm90", 2 * self.block_q + 128, 1024 + self.head_dim * 2 * (self.block_q + 4 * tile))
        } else {
            let tile =
                if self.block_k == 64 || (self.block_q >= 64 && self.head_dim <= 128) { 64 } else { 32 };
            let queries = if self.head_dim > 128 { self.block_q * self.row_bytes() } else { 0 };
            ("attention", 2 * self.block_q, 4 * tile * self.row_bytes() + queries)
        };
        let kernel = self.kernel(file, entry, &[("SOFT_CAP", self.soft_cap)]);
        (kernel, Launch { grid: self.grid(n_blocks), block: (threads, 1), shared })
    }

    /// `anchors`: whether vertical scores are recorded.
    pub fn record(&self, n_blocks: usize, anchors: bool) -> (Kernel, Launch) {
        let (file, threads, shared) = if self.warpgroups {
            let pieces = 32 * (self.top_k * self.block_k).div_ceil(64);
            (
                "attention_record_sm90",
                160,
                1024 + 128 * self.head_dim * (self.block_q / 64 + 2) + 4 * self.top_k + pieces,
            )
        } else {
            ("attention_record", 32 * self.warps(64), 2 * 64 * self.row_bytes() + 4 * (2 * 64 + self.top_k))
        };
        (
            self.kernel(
                file,
                "attention_record",
                &[("ANCHORS", anchors as usize), ("SOFT_CAP", self.soft_cap)],
            ),
            Launch { grid: self.grid(n_blocks), block: (threads, 1), shared },
        )
    }
}
