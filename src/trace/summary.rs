//! Everything a trace says about its run, apart from the masks.

use std::{collections::BTreeSet, ops::Range};

use serde::{Deserialize, Serialize};

use super::{Blocks, Span, StreamConfig};
use crate::{error::Error, words::numbers::count};

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
    /// How much of the attention to all visible keys the run kept, by its own queries and keys; `None` if no
    /// query blocks were sampled.
    #[serde(default)]
    pub recall: Option<Recall>,
    /// Share of all attention that falls on learned sinks, logits beside the keys that have no value: neither on a
    /// key nor pruned. `None` in a model without them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_sinks: Option<f64>,
    /// The experts of the model, if those that each token took were recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub experts: Option<ExpertsInfo>,
    /// Keys, or nodes that stand for keys, that the search read for a query block and head, on average;
    /// `None` where it reads no key.
    #[serde(default)]
    pub keys_read_per_query_block: Option<f64>,
    pub seconds: Seconds,
    /// Most memory that the run held: of the engine's process, or of the GPU.
    pub peak_memory_bytes: u64,
    pub planned_memory_bytes: u64,
    /// "cpu", or the GPU's name.
    pub device: String,
    /// How this trace compares with dense attention, if that was measured.
    pub fidelity: Option<Fidelity>,
    /// The version of streamtrace that made the trace.
    pub version: String,
}

/// The experts of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExpertsInfo {
    /// Experts of a layer.
    pub n_experts: usize,
    /// Those that a token takes.
    pub per_token: usize,
}

/// The model a trace was made with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelInfo {
    /// The folder's, the file's or the hub's.
    pub name: String,
    /// As `model_type` in `config.json`: "llama", "qwen3", "gemma3_text", ….
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
    /// Tokens of the longest prompt that the model was made for; `None` if its files do not say, and in older
    /// traces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context_length: Option<usize>,
    /// A hash over some bytes of the weights as they are stored; `None` in older traces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<String>,
}

impl ModelInfo {
    /// Returns the length of context that a prompt of `n_tokens` exceeds; `None` if it does not.
    pub fn exceeded_by(&self, n_tokens: usize) -> Option<usize> {
        self.context_length.filter(|&length| n_tokens > length)
    }

    /// Says that a prompt is longer than the model was made for, or than the sliding window of some of its layers;
    /// `None` if it is not.
    pub fn length_note(&self, n_tokens: usize) -> Option<String> {
        let long = self.exceeded_by(n_tokens).map(|length| {
            let (prompt, length) = (count(n_tokens, "token"), count(length, "token"));
            format!(
                "the prompt has {prompt}, and the model was made for {length}: what it does past them says little about it"
            )
        });
        let notes: Vec<String> = long.into_iter().chain(self.windows_note(n_tokens)).collect();
        (!notes.is_empty()).then(|| notes.join("; "))
    }

    /// Says in how many layers a token of a prompt of `n_tokens` does not see all before it; `None` if it does in all.
    pub fn windows_note(&self, n_tokens: usize) -> Option<String> {
        let short: Vec<usize> = self.windows.iter().flatten().copied().filter(|&w| w < n_tokens).collect();
        let window = count(*short.iter().min()?, "token");
        Some(format!("{} of {} see only {window} back", short.len(), count(self.windows.len(), "layer")))
    }

    /// Returns in what another model differs so that a trace cannot be of both, as this model's and the other's
    /// setting; `None` if it fits. Names, formats and weights may differ.
    #[cfg(feature = "engine")]
    pub(crate) fn unlike(&self, other: &ModelInfo) -> Option<[String; 2]> {
        // llama.cpp calls a Mistral a Llama.
        let architecture = |model: &ModelInfo| model.architecture.replace("mistral", "llama");
        let settings = |model: &ModelInfo| {
            [
                format!("architecture {}", architecture(model)),
                format!("{} layers", model.n_layers),
                format!("{} heads", model.n_heads),
                format!("{} key-value heads", model.n_kv_heads),
                format!("heads of size {}", model.head_dim),
                format!("hidden size {}", model.hidden_size),
                format!("a vocabulary of {}", model.vocab_size),
                format!("sliding windows {:?}", model.windows),
            ]
        };
        let pairs = settings(self).into_iter().zip(settings(other));
        pairs.map(<[String; 2]>::from).find(|[own, other]| own != other)
    }

    /// Returns the layers that a user has chosen, ascending, each once.
    ///
    /// # Errors
    /// [`Error::Setting`] for none, [`Error::Missing`] for one that the model does not have.
    pub fn chosen(&self, layers: &[usize]) -> Result<Vec<usize>, Error> {
        let layers: BTreeSet<usize> = layers.iter().copied().collect();
        match layers.last() {
            None => Err(Error::setting(
                "layers of a trace",
                "at least one layer",
                "none",
                "name the layers to look at",
            )),
            Some(last) if *last >= self.n_layers => {
                Err(Error::missing("layer", last.to_string(), format!("choose 0 to {}", self.n_layers - 1)))
            }
            Some(_) => Ok(layers.into_iter().collect()),
        }
    }
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
    /// As in [`Summary`]; `None` for a dense run, which searches nothing.
    pub keys_read_per_query_block: Option<f64>,
    /// As in [`Summary`]; `None` for a dense run.
    #[serde(default)]
    pub recall: Option<Recall>,
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
    /// Id of the token that is most likely in its place.
    pub most_likely: u32,
    /// Whether no token is more likely.
    pub is_argmax: bool,
}

impl AnswerScore {
    /// Returns whether each token of the answer is the most likely one after those before it: in a dense run,
    /// the text that the model would write.
    ///
    /// In a sparse run the tokens of an answer stand in one query block and share its key blocks; a model
    /// that writes by itself has only the queries so far, and may do worse
    /// ([`Tracer::generate`](crate::Tracer::generate)).
    pub fn survives(&self) -> bool {
        self.tokens.iter().all(|token| token.is_argmax)
    }

    /// Returns the natural logarithm of the whole answer's probability.
    pub fn logprob(&self) -> f64 {
        self.tokens.iter().map(|token| token.logprob).sum()
    }
}

/// The share of the attention to all visible keys that falls on kept blocks, on sampled rows of a sparse run.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Recall {
    /// Over all layers and heads.
    pub mean: f64,
    /// Of the head that has least.
    pub least_head: f64,
    /// Queries that were sampled in each layer.
    pub rows: usize,
}

/// Where the time went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Seconds {
    pub load: f64,
    /// What `load` is made of. None in older traces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load_parts: Option<LoadSeconds>,
    pub search: f64,
    pub attention: f64,
    pub total: f64,
}

/// Where the time of loading a model went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LoadSeconds {
    /// Finding the model by its path or its name on the hub, with its download if there was one.
    pub find: f64,
    /// Reading the configuration, and mapping and checking the weights.
    pub files: f64,
    pub tokenizer: f64,
    /// Opening the device, with its libraries and kernels.
    pub device: f64,
}

impl LoadSeconds {
    pub fn total(&self) -> f64 {
        self.find + self.files + self.tokenizer + self.device
    }
}

/// A sparse run against dense attention on the same prompt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fidelity {
    /// Share of the dense attention mass that falls on kept keys, mean over rows. `[n_layers][n_heads]`
    pub recall_by_head: Vec<Vec<f64>>,
    /// Mean of `recall_by_head`.
    pub recall: f64,
    /// Rows that recall was averaged over; fewer than the prompt's tokens when they were sampled.
    pub n_rows: usize,
    /// Whose queries and keys recall was measured with.
    #[serde(default)]
    pub rows_of: RowsOf,
    /// None if dense attention was not run.
    pub same_next_token: Option<bool>,
    /// KL(dense ‖ sparse) of the next token's distribution, in nats. None if dense attention was not run.
    pub kl: Option<f64>,
    /// Most likely next token of dense attention. None if it was not run.
    #[serde(default)]
    pub dense_next_token: Option<NextToken>,
    /// The next token after many positions of the prompt. None if dense attention was not run over all rows.
    #[serde(default)]
    pub positions: Option<PositionFidelity>,
    /// How likely an answer is, if one was given.
    #[serde(default)]
    pub answer: Option<AnswerFidelity>,
}

/// The next token of a sparse run against that of dense attention, after positions spread evenly over the
/// prompt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PositionFidelity {
    pub n: usize,
    /// Share of the positions after which both find the same token the most likely.
    pub same_next_token: f64,
    /// Mean of KL(dense ‖ sparse), in nats.
    pub mean_kl: f64,
    /// The KL, in nats, that 99 % of the positions do not exceed.
    pub p99_kl: f64,
}

/// The run whose queries and keys the dense softmax was taken of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RowsOf {
    /// Those of a run with dense attention, O(T²): the tokens that the model would have looked at.
    #[default]
    Dense,
    /// Those of the sparse run itself, O(rows · T): the tokens that it would look at if it could, given
    /// those that it saw before.
    Sparse,
}

/// Natural logarithm of an answer's probability after the prompt, each token after the ones before it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AnswerFidelity {
    pub text: String,
    pub dense_logprob: f64,
    pub sparse_logprob: f64,
    /// Whether every token of the answer is the most likely one in the dense run; the same in the sparse run.
    #[serde(alias = "dense_retained")]
    pub dense_survives: bool,
    #[serde(alias = "sparse_retained")]
    pub sparse_survives: bool,
}

/// The measurements of a comparison.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CompareConfig {
    /// Measure recall on about `rows` rows, whole query blocks spread evenly over the prompt, inside a sparse
    /// run: O(rows · T). If not set, dense attention is run over all rows: O(T²), and the next token is
    /// compared too.
    pub rows: Option<usize>,
    /// Positions after which the next token is compared, spread evenly over the prompt; 256 if not set, 0
    /// leaves them out. They need dense attention over all rows, so not beside `rows`, and a sparse run more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub positions: Option<usize>,
    /// Tokens that the positions are spread over; the whole prompt if not set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub over: Option<Range<usize>>,
    /// Compare how likely this text is after the prompt. Dense attention is run for it.
    pub answer: Option<String>,
}

impl CompareConfig {
    /// Positions that are compared if no number is set.
    pub const DEFAULT_POSITIONS: usize = 256;

    /// Returns the number of positions after which the next token is compared, at most.
    pub fn n_positions(&self) -> usize {
        self.positions.unwrap_or(if self.rows.is_some() { 0 } else { Self::DEFAULT_POSITIONS })
    }

    /// Checks that the measurements fit each other.
    ///
    /// # Errors
    /// [`Error::Setting`] for no rows, and for positions beside rows.
    pub fn validate(&self) -> Result<(), Error> {
        let setting = |setting, expected, found: usize, fix| {
            Err(Error::setting(setting, expected, found.to_string(), fix))
        };
        match (self.rows, self.positions) {
            (Some(0), _) => setting("rows", "at least 1", 0, "leave it out to compare all rows"),
            (Some(_), Some(n)) if n > 0 => setting(
                "positions",
                "none beside rows, for which dense attention is not run",
                n,
                "leave out one of the two",
            ),
            _ => Ok(()),
        }
    }
}

impl Summary {
    /// As [`ModelInfo::length_note`], of this trace's prompt.
    pub fn length_note(&self) -> Option<String> {
        self.model.length_note(self.n_tokens)
    }

    /// Returns the blocks of a layer; a layer that does not exist has no window.
    pub fn blocks(&self, layer: usize) -> Blocks {
        Blocks {
            n_tokens: self.n_tokens,
            block_size_q: self.config.block_size_q,
            block_size_k: self.config.block_size_k,
            window: self.model.windows.get(layer).copied().flatten(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_older_traces_are_read() {
        let older = serde_json::json!({ "load": 0.5, "search": 1.0, "attention": 2.0, "total": 3.0 });
        let seconds: Seconds = serde_json::from_value(older.clone()).unwrap();
        assert_eq!((seconds.load, seconds.load_parts), (0.5, None));
        assert_eq!(serde_json::to_value(seconds).unwrap(), older);
    }

    #[test]
    fn compared_answers_of_older_traces_are_read() {
        let older = serde_json::json!({
            "text": "42", "dense_logprob": -0.1, "sparse_logprob": -2.0, "dense_retained": true, "sparse_retained": false
        });
        let answer: AnswerFidelity = serde_json::from_value(older).unwrap();
        assert_eq!((answer.dense_survives, answer.sparse_survives), (true, false));
        assert_eq!(serde_json::to_value(&answer).unwrap()["sparse_survives"], false);
    }
}
