//! The settings of a search: block sizes, budget, estimate.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::error::Error;

/// How *Stream* searches. Sizes of blocks are in tokens, everything else is counted in key blocks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StreamConfig {
    /// Tokens in a query block; they share one set of kept key blocks. 0, here and for key blocks: by the
    /// prompt, as [`StreamConfig::with_blocks`] says.
    pub block_size_q: usize,
    /// Tokens in a key block, the unit that is kept or pruned.
    pub block_size_k: usize,
    /// Key blocks kept for each head and query block, sinks and local blocks included; the mean of a layer's
    /// heads where `budget` lets them differ.
    pub top_k: usize,
    /// If set, `top_k` is chosen for each prompt: the largest that prunes at least this share of its causal
    /// pairs.
    pub pruned: Option<f64>,
    /// How a layer's budget is shared out among its heads.
    pub budget: Budget,
    /// If set, each head keeps as many key blocks as bring its recall on the sampled queries to this share;
    /// what that prunes is a result.
    pub recall: Option<f64>,
    /// Queries, in whole blocks spread over the prompt, at most an eighth of it, for which each layer reads
    /// every key: they tell its recall, and choose budgets by head. O(T) time for each.
    pub sample: usize,
    /// Key blocks at the start of the prompt that are always kept.
    pub sink_blocks: usize,
    /// Key blocks before a query block's end that are always kept; never fewer than hold its own tokens.
    pub local_blocks: usize,
    /// How key blocks are found.
    pub search: Search,
    /// Whether attention reads all keys while blocks are found and recorded as ever: the run is the model's own,
    /// and masses are true shares of its softmax. O(T²) time, O(T) memory.
    pub exact: bool,
    /// Ranges that the hierarchical search keeps in a round, more if its budget needs them; 0 for as many as
    /// it keeps blocks.
    pub beam: usize,
    /// Parts that the hierarchical search cuts a kept range into: 2, 4 or 8.
    pub split: usize,
    /// Whether more blocks than are kept survive the last round, twice the beam or 5/4 of the budget, to be
    /// ranked by their real keys.
    pub rescore: bool,
    /// The last queries, in whole blocks, for which the hierarchical search reads every key: they decide
    /// which token comes next. O(T) time for each.
    pub exact_queries: usize,
    /// Tokens whose attention is recorded key by key; the last 32 if not set.
    pub focus: Option<Range<usize>>,
    /// Whether to record the L1 proximity of each kept block's output to the later residual stream, for
    /// routes by that measure: more time and a larger trace.
    pub proximity: bool,
    /// Whether to record which experts each token took, of a model that has experts.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub experts: bool,
}

/// How the key blocks of a layer are shared out among its heads, at the same number of kept pairs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "engine", derive(clap::ValueEnum))]
#[serde(rename_all = "snake_case")]
pub enum Budget {
    /// Where the next block of a head leaves least of the attention unread, on the sampled queries.
    #[default]
    ByHead,
    /// As many for each head: Stream as it was published.
    Uniform,
}

/// Which search finds the kept key blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Search {
    /// Reads every key: exact top-k blocks by their largest share of a query's attention, the reference.
    /// O(T²) time, O(T) memory.
    Exhaustive,
    /// Stream: ranges of keys are split and pruned by an estimate. O(T log T) time.
    Hierarchical(Estimate),
    /// Sinks and the last blocks: a baseline.
    Window,
    /// Random blocks beside sinks and local ones, drawn anew for each layer, head and query block: a
    /// baseline.
    Random { seed: u64 },
}

/// How the hierarchical search estimates the largest query·key in a range of keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "engine", derive(clap::ValueEnum))]
#[serde(rename_all = "snake_case")]
pub enum Estimate {
    /// The range's first key speaks for it (HiP 1.x).
    First,
    /// The range's middle key speaks for it (InfiniteHiP).
    Middle,
    /// Mean plus spread: q·μ + √(Σ q_d² σ_d²) · √(2 ln m) for m keys of mean μ and variance σ².
    MeanSpread,
    /// Two clusters of the range's keys, mean plus spread of each; ranges are ranked by their share of a
    /// query's attention.
    TwoMeans,
}

impl Search {
    /// Returns its name in tables and figures.
    pub fn name(self) -> &'static str {
        match self {
            Search::Exhaustive => "exhaustive",
            Search::Hierarchical(Estimate::First) => "first key",
            Search::Hierarchical(Estimate::Middle) => "middle key",
            Search::Hierarchical(Estimate::MeanSpread) => "mean + spread",
            Search::Hierarchical(Estimate::TwoMeans) => "two means",
            Search::Window => "window",
            Search::Random { .. } => "random",
        }
    }

    /// Returns whether it reads no key.
    pub fn is_baseline(self) -> bool {
        matches!(self, Search::Window | Search::Random { .. })
    }
}

impl Default for StreamConfig {
    fn default() -> Self {
        StreamConfig {
            block_size_q: 0,
            block_size_k: 0,
            top_k: 96,
            pruned: None,
            budget: Budget::ByHead,
            recall: None,
            sample: 512,
            sink_blocks: 1,
            local_blocks: 6,
            search: Search::Hierarchical(Estimate::TwoMeans),
            exact: false,
            beam: 64,
            split: 4,
            rescore: true,
            exact_queries: 128,
            focus: None,
            proximity: false,
            experts: false,
        }
    }
}

impl StreamConfig {
    /// Tokens that are recorded key by key when no focus is set.
    pub const DEFAULT_FOCUS: usize = 32;

    /// A beam far wider than any that loses something.
    const MAX_BEAM: usize = 1 << 16;

    /// Returns these settings with the published search: as many ranges as blocks are kept, halved round by
    /// round, ranked by the estimate alone for every query block.
    pub fn published(self, estimate: Estimate) -> Self {
        StreamConfig {
            search: Search::Hierarchical(estimate),
            beam: 0,
            split: 2,
            rescore: false,
            exact_queries: 0,
            budget: Budget::Uniform,
            ..self
        }
    }

    /// Longest prompt that is cut into small blocks.
    const SHORT: usize = 12_288;

    /// Returns the settings with block sizes for a prompt: those that are set; else 16 queries and 4 keys for
    /// up to 12,288 tokens of which a share is pruned, 32 and 8 for others.
    ///
    /// Small blocks keep a short prompt's few pairs where they count; over a long one they would be too many.
    /// Where blocks are small, the default search reads every key for all queries: it would read half of them
    /// anyway.
    pub fn with_blocks(self, n_tokens: usize) -> Self {
        let is_short = n_tokens <= Self::SHORT && (self.pruned.is_some() || self.recall.is_some());
        let is_default = self.search == Search::Hierarchical(Estimate::TwoMeans) && self.exact_queries > 0;
        match (self.block_size_q, self.block_size_k) {
            (0, 0) if is_short => StreamConfig {
                block_size_q: 16,
                block_size_k: 4,
                exact_queries: if is_default { n_tokens } else { self.exact_queries },
                ..self
            },
            (0, 0) => StreamConfig { block_size_q: 32, block_size_k: 8, ..self },
            _ => self,
        }
    }

    /// Checks that the settings fit each other, for any prompt.
    ///
    /// # Errors
    /// [`Error::Setting`] for sizes that are 0 or do not divide, and for a `top_k` smaller than what is
    /// always kept.
    pub fn validate(&self) -> Result<(), Error> {
        self.validate_blocks()?;
        if self.beam > Self::MAX_BEAM {
            let expected = format!("at most {}", Self::MAX_BEAM);
            return Err(Error::setting("beam", expected, self.beam, "64 is common, 0 the published search"));
        }
        if ![2, 4, 8].contains(&self.split) {
            let fix = "4 is common, 2 the published search";
            return Err(Error::setting("split", "2, 4 or 8", self.split, fix));
        }
        self.validate_recall()?;
        match self.pruned {
            Some(share) if !(0.0..1.0).contains(&share) => {
                Err(Error::setting("pruned", "a share of at least 0 and below 1", share, "0.95 is common"))
            }
            None if self.top_k < self.always_kept() => {
                let always = self.always_kept();
                let expected = format!("at least {always}, the sink and local blocks that are always kept");
                let fix = "raise top_k, or lower sink_blocks and local_blocks";
                Err(Error::setting("top_k", expected, self.top_k, fix))
            }
            _ => Ok(()),
        }
    }

    fn validate_blocks(&self) -> Result<(), Error> {
        let (bq, bk) = (self.block_size_q, self.block_size_k);
        let found = format!("{bq} and {bk}");
        if (bq, bk) != (0, 0) && (bq == 0 || bk == 0 || (bq % bk != 0 && bk % bq != 0)) {
            let expected = "sizes above 0 of which one divides the other, or 0 and 0 to leave them out";
            let fix = "choose powers of two, such as 32 and 8";
            return Err(Error::setting("block sizes", expected, found, fix));
        }
        if bq > 256 || bk > 256 {
            return Err(Error::setting("block sizes", "at most 256 tokens", found, "choose smaller blocks"));
        }
        Ok(())
    }

    fn validate_recall(&self) -> Result<(), Error> {
        let Some(recall) = self.recall else { return Ok(()) };
        if !(recall > 0.0 && recall < 1.0) {
            let fix = "0.95 is common; prune nothing to keep all";
            return Err(Error::setting("recall", "a share above 0 and below 1", recall, fix));
        }
        if self.pruned.is_some() {
            let fix = "leave out one of them: what a recall prunes is a result";
            let found = format!("{:?}", self.pruned);
            return Err(Error::setting("recall", "no share to prune beside it", found, fix));
        }
        if self.sample == 0 || self.budget == Budget::Uniform {
            let found = format!("a sample of {} and a budget that is {:?}", self.sample, self.budget);
            let fix = "sample 512 queries, and let budgets differ by head";
            return Err(Error::setting("recall", "a sample and budgets by head", found, fix));
        }
        Ok(())
    }

    /// Returns the first query block of a prompt for which the hierarchical search reads every key; the
    /// number after the last block if no block is read so.
    pub fn first_exact_block(&self, n_tokens: usize) -> usize {
        match self.exact_queries {
            0 => n_tokens.div_ceil(self.block_size_q),
            n => n_tokens.saturating_sub(n) / self.block_size_q,
        }
    }

    /// Counts the local blocks in effect: at least those that hold a query block's own tokens.
    pub fn effective_local_blocks(&self) -> usize {
        self.local_blocks.max(self.block_size_q.div_ceil(self.block_size_k.max(1)))
    }

    /// Counts the key blocks that every query block keeps if it can see them.
    pub fn always_kept(&self) -> usize {
        self.sink_blocks.saturating_add(self.effective_local_blocks())
    }
}
