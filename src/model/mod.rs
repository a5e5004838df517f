//! A language model on disk: its configuration, weights and tokenizer, and the decoder that runs it layer by layer.

pub mod branches;
pub mod config;
pub mod decoder;
pub mod memory;
pub mod rope;
pub mod session;
pub mod tokenizer;
mod visitor;
pub mod weights;

use std::path::Path;

use safetensors::tensor::TensorView;

use crate::{error::Error, trace::ModelInfo};
use config::ModelConfig;
use tokenizer::Tokenizer;
use weights::Weights;

/// A model folder as Hugging Face lays it out: `config.json`, `tokenizer.json`, `model.safetensors` or shards with an index.
pub struct Model {
    pub name: String,
    pub config: ModelConfig,
    pub tokenizer: Tokenizer,
    /// Tokens that end a text.
    pub end_of_text: Vec<u32>,
    weights: Weights,
}

impl Model {
    /// Opens a folder and checks that everything the decoder needs is there; weights are mapped, not read.
    ///
    /// # Errors
    /// [`Error::File`] and [`Error::Model`], naming the file and what is wrong with it.
    pub fn open(folder: &Path) -> Result<Self, Error> {
        std::fs::read_dir(folder).map_err(Error::io("read the model folder", folder))?;
        let config = ModelConfig::read(&folder.join("config.json"))?;
        let tokenizer = Tokenizer::read(&folder.join("tokenizer.json"), config.vocab_size)?;
        let weights = Weights::open(folder)?;
        let name = folder.canonicalize().ok().and_then(|f| Some(f.file_name()?.to_string_lossy().into_owned()));
        let end_of_text = end_of_text(folder);
        let model = Model { name: name.unwrap_or_else(|| "model".into()), config, tokenizer, end_of_text, weights };
        model.embedding()?;
        model.output()?;
        model.final_norm()?;
        for layer in 0..model.config.n_layers {
            model.layer(layer)?;
        }
        Ok(model)
    }

    pub fn info(&self) -> ModelInfo {
        let config = &self.config;
        ModelInfo {
            name: self.name.clone(),
            architecture: config.architecture.clone(),
            n_layers: config.n_layers,
            n_heads: config.n_heads,
            n_kv_heads: config.n_kv_heads,
            head_dim: config.head_dim,
            hidden_size: config.hidden_size,
            vocab_size: config.vocab_size,
            n_parameters: self.weights.n_parameters(),
            windows: config.windows.clone(),
        }
    }

    /// `[vocab_size, hidden_size]`
    pub fn embedding(&self) -> Result<TensorView<'_>, Error> {
        self.weights.get("model.embed_tokens.weight", &[self.config.vocab_size, self.config.hidden_size])
    }

    /// The output layer, `[vocab_size, hidden_size]`: the embedding when they are tied.
    pub fn output(&self) -> Result<TensorView<'_>, Error> {
        match self.config.tied_embeddings {
            true => self.embedding(),
            false => self.weights.get("lm_head.weight", &[self.config.vocab_size, self.config.hidden_size]),
        }
    }

    /// `[hidden_size]`
    pub fn final_norm(&self) -> Result<TensorView<'_>, Error> {
        self.weights.get("model.norm.weight", &[self.config.hidden_size])
    }

    /// The weights of one layer, in the mapped file.
    pub fn layer(&self, layer: usize) -> Result<LayerWeights<TensorView<'_>>, Error> {
        let c = &self.config;
        let get = |name: &str, shape: &[usize]| self.weights.get(&format!("model.layers.{layer}.{name}"), shape);
        let linear = |name: &str, n_out: usize, n_in: usize, has_bias: bool| {
            let bias = has_bias.then(|| get(&format!("{name}.bias"), &[n_out])).transpose()?;
            Ok::<_, Error>(Linear { weight: get(&format!("{name}.weight"), &[n_out, n_in])?, bias })
        };
        let head_norm = |name: &str| c.qk_norm.then(|| get(name, &[c.head_dim])).transpose();
        let (d_q, d_kv) = (c.n_heads * c.head_dim, c.n_kv_heads * c.head_dim);
        Ok(LayerWeights {
            attention_norm: get("input_layernorm.weight", &[c.hidden_size])?,
            query: linear("self_attn.q_proj", d_q, c.hidden_size, c.qkv_bias)?,
            key: linear("self_attn.k_proj", d_kv, c.hidden_size, c.qkv_bias)?,
            value: linear("self_attn.v_proj", d_kv, c.hidden_size, c.qkv_bias)?,
            query_norm: head_norm("self_attn.q_norm.weight")?,
            key_norm: head_norm("self_attn.k_norm.weight")?,
            output: linear("self_attn.o_proj", c.hidden_size, d_q, c.output_bias)?,
            mlp_norm: get("post_attention_layernorm.weight", &[c.hidden_size])?,
            gate: linear("mlp.gate_proj", c.intermediate_size, c.hidden_size, c.mlp_bias)?,
            up: linear("mlp.up_proj", c.intermediate_size, c.hidden_size, c.mlp_bias)?,
            down: linear("mlp.down_proj", c.hidden_size, c.intermediate_size, c.mlp_bias)?,
        })
    }
}

/// Tokens that end a text, which `generation_config.json` knows better than `config.json`; none if neither says.
fn end_of_text(folder: &Path) -> Vec<u32> {
    let of = |name: &str| -> Option<Vec<u32>> {
        let file: serde_json::Value = serde_json::from_slice(&std::fs::read(folder.join(name)).ok()?).ok()?;
        let ids = match &file["eos_token_id"] {
            serde_json::Value::Array(ids) => ids.clone(),
            id => vec![id.clone()],
        };
        ids.iter().map(|id| id.as_u64()?.try_into().ok()).collect()
    };
    of("generation_config.json").or_else(|| of("config.json")).unwrap_or_default()
}

/// The weights of one decoder layer, in the file (`W` a view of it) or on a device.
pub struct LayerWeights<W> {
    pub attention_norm: W,
    pub query: Linear<W>,
    pub key: Linear<W>,
    pub value: Linear<W>,
    pub query_norm: Option<W>,
    pub key_norm: Option<W>,
    pub output: Linear<W>,
    pub mlp_norm: W,
    pub gate: Linear<W>,
    pub up: Linear<W>,
    pub down: Linear<W>,
}

/// `x · weightᵀ + bias`; `weight` is `[n_out, n_in]`.
pub struct Linear<W> {
    pub weight: W,
    pub bias: Option<W>,
}

impl<W> Linear<W> {
    fn try_map<V, E>(&self, of: &mut impl FnMut(&W) -> Result<V, E>) -> Result<Linear<V>, E> {
        Ok(Linear { weight: of(&self.weight)?, bias: self.bias.as_ref().map(of).transpose()? })
    }
}

impl<W> LayerWeights<W> {
    /// The same weights elsewhere: each mapped by `of`.
    pub fn try_map<V, E>(&self, mut of: impl FnMut(&W) -> Result<V, E>) -> Result<LayerWeights<V>, E> {
        Ok(LayerWeights {
            attention_norm: of(&self.attention_norm)?,
            query: self.query.try_map(&mut of)?,
            key: self.key.try_map(&mut of)?,
            value: self.value.try_map(&mut of)?,
            query_norm: self.query_norm.as_ref().map(&mut of).transpose()?,
            key_norm: self.key_norm.as_ref().map(&mut of).transpose()?,
            output: self.output.try_map(&mut of)?,
            mlp_norm: of(&self.mlp_norm)?,
            gate: self.gate.try_map(&mut of)?,
            up: self.up.try_map(&mut of)?,
            down: self.down.try_map(&mut of)?,
        })
    }
}
