//! Everything a trace says about its run, apart from the masks.

use serde::{Deserialize, Serialize};

use crate::{
    config::StreamConfig,
    trace::{Blocks, Span},
};

/// The run: model, settings, result, cost.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    pub model: ModelInfo,
    /// With `top_k` as it was used.
    pub config: StreamConfig,
    pub n_tokens: usize,
    /// Tokens whose attention was recorded key by key.
    pub focus: Span,
    pub next_token: NextToken,
    /// 1 − computed pairs / causal pairs, in tokens, over all layers and heads.
    pub pruned: f64,
    /// Keys, or nodes that stand for keys, that the search read for a query block and head, on average; none on a GPU, which
    /// does not count them.
    #[serde(default)]
    pub keys_read_per_query_block: Option<f64>,
    pub seconds: Seconds,
    /// Most memory that the engine's process held.
    pub peak_memory_bytes: u64,
    pub planned_memory_bytes: u64,
    /// "cpu", or the GPU's name.
    pub device: String,
    /// How this trace compares with dense attention, if that was measured.
    pub fidelity: Option<Fidelity>,
    /// The version of streamtrace that made the trace.
    pub version: String,
}

/// The model a trace was made with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelInfo {
    /// The folder's name.
    pub name: String,
    /// "llama", "qwen2", "qwen3" or "mistral".
    pub architecture: String,
    pub n_layers: usize,
    pub n_heads: usize,
    pub n_kv_heads: usize,
    pub head_dim: usize,
    pub hidden_size: usize,
    pub vocab_size: usize,
    pub n_parameters: u64,
    /// Sliding window of each layer, in tokens. `[n_layers]`
    pub windows: Vec<Option<usize>>,
}

/// The model's most likely next token.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NextToken {
    pub id: u32,
    pub text: String,
    /// Natural logarithm of its probability.
    pub logprob: f64,
}

/// How likely a model finds a given answer after a prompt, each token after the ones before it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AnswerScore {
    pub tokens: Vec<AnswerToken>,
    /// Of the run on prompt and answer; 0 for a dense one.
    pub pruned: f64,
    /// As in [`Summary`]; none for a dense run, which searches nothing.
    pub keys_read_per_query_block: Option<f64>,
    pub top_k: usize,
    pub n_tokens: usize,
    pub seconds: Seconds,
}

/// One token of an answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AnswerToken {
    pub id: u32,
    pub text: String,
    /// Natural logarithm of its probability.
    pub logprob: f64,
    /// Whether no token is more likely.
    pub is_argmax: bool,
}

impl AnswerScore {
    /// Whether the model would write the whole answer, greedily.
    pub fn retained(&self) -> bool {
        self.tokens.iter().all(|token| token.is_argmax)
    }

    /// Natural logarithm of the whole answer's probability.
    pub fn logprob(&self) -> f64 {
        self.tokens.iter().map(|token| token.logprob).sum()
    }
}

/// Where the time went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Seconds {
    pub load: f64,
    pub search: f64,
    pub attention: f64,
    pub total: f64,
}

/// A sparse run against dense attention on the same prompt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fidelity {
    /// Share of the dense attention mass that falls on kept keys, mean over rows. `[n_layers][n_heads]`
    pub recall_by_head: Vec<Vec<f64>>,
    /// Mean of `recall_by_head`.
    pub recall: f64,
    pub same_next_token: bool,
    /// KL(dense ‖ sparse) of the next token's distribution, in nats.
    pub kl: f64,
    /// Rows that recall was averaged over; fewer than the prompt's tokens when they were sampled.
    pub n_rows: usize,
}

impl Summary {
    /// Blocks of a layer; a layer that does not exist has no window.
    pub fn blocks(&self, layer: usize) -> Blocks {
        Blocks {
            n_tokens: self.n_tokens,
            block_size_q: self.config.block_size_q,
            block_size_k: self.config.block_size_k,
            window: self.model.windows.get(layer).copied().flatten(),
        }
    }
}
