//! A language model on disk: its configuration, weights and tokenizer, and the decoder that runs it layer by
//! layer.

mod chat_methods;
pub mod chat_template;
pub mod config;
mod config_file;
mod context;
mod dequantise;
mod expert_tensors;
pub mod experts;
pub mod family;
mod feed_forward;
mod fingerprint;
pub mod format;
pub mod gguf;
pub mod hub;
mod in_parts;
mod json_file;
mod layer_weights;
mod layers;
mod linear;
mod pairs;
mod parts;
mod place;
mod pointer;
mod rearranged;
pub mod rope;
mod seen;
mod start_token;
mod tensors;
pub mod tokenizer;
pub mod weight;
pub mod weights;

use std::{path::Path, sync::Arc, time::Instant};

use serde_json::{Map, Value};

use crate::{
    error::Error,
    protocol::{Message, Progress},
    trace::{LoadSeconds, ModelInfo},
};
use chat_template::ChatTemplate;
use config::ModelConfig;
use family::Family;
pub use feed_forward::{Experts, FeedForward, Mlp, Shared};
use gguf::Gguf;
pub use layer_weights::LayerWeights;
pub use linear::Linear;
use tokenizer::Tokenizer;
use weight::Weight;
use weights::Weights;

/// An open model: a GGUF file, or a folder in Hugging Face's layout, which has `config.json`,
/// `tokenizer.json`, and `model.safetensors` or shards.
pub struct Model {
    pub name: String,
    pub config: ModelConfig,
    pub tokenizer: Tokenizer,
    /// Tokens that end a text.
    pub end_of_text: Vec<u32>,
    /// The chat template, or the reason that the model has none.
    pub chat: Result<ChatTemplate, Error>,
    /// What opening took; nothing for the device.
    pub seconds: LoadSeconds,
    /// Tokens of the longest prompt that the model was made for; `None` if its files do not say.
    context_length: Option<usize>,
    fingerprint: Option<String>,
    weights: Weights,
    /// The logits of each layer's sinks, if it has some. `[n_layers][n_heads]`
    sinks: Vec<Arc<[f32]>>,
    /// What is added to the scores of each layer's experts where they are chosen, if it has something. `[n_layers]
    /// [n_experts]`
    corrections: Vec<Vec<f32>>,
    /// The prefix of the names of the decoder's tensors.
    prefix: &'static str,
}

/// A `tokenizer.json` of more bytes may take a second to read, which is reported.
const LARGE: u64 = 4 << 20;

/// The prefix of a decoder with its output layer, beside a vision model before and since version 5 of
/// `transformers`, and of a decoder that was saved without its output layer.
const PREFIXES: [&str; 5] =
    ["model.", "language_model.model.", "model.language_model.", "language_model.", ""];

/// The names of the output layer.
const HEADS: [&str; 3] = ["lm_head.weight", "language_model.lm_head.weight", "model.lm_head.weight"];

/// Bytes of weights in blocks, and of others in f32.
#[derive(Default)]
struct BlockSizes {
    in_blocks: u64,
    others: u64,
}

impl BlockSizes {
    fn add(&mut self, weight: &Weight) {
        match weight.in_file() {
            Some(blocks) => self.in_blocks += blocks.bytes().len() as u64,
            None => self.others += 4 * weight.shape().iter().product::<usize>() as u64,
        }
    }
}

impl Model {
    /// Finds a model by its path or its name on the hub, downloads it if need be, and opens it; as one of `family`, if
    /// that is given, whatever its files say.
    ///
    /// # Errors
    /// As [`hub::find`] and [`Model::open`].
    pub fn load(model: &Path, family: Option<&str>, report: &mut dyn FnMut(Progress)) -> Result<Self, Error> {
        let start = Instant::now();
        let found = hub::find(model, report)?;
        let find = start.elapsed().as_secs_f64();
        if std::fs::metadata(found.path.join("tokenizer.json")).is_ok_and(|file| file.len() > LARGE) {
            report(Progress::Loading(format!("load: the vocabulary of {}", model.display())));
        }
        let model = Self::open_as(&found.path, family)?;
        let seconds = LoadSeconds { find, ..model.seconds };
        Ok(Model { name: found.name.unwrap_or(model.name), seconds, ..model })
    }

    /// Opens a folder or a GGUF file and checks that it has all the decoder needs; weights are mapped, not
    /// read.
    ///
    /// # Errors
    /// [`Error::File`] and [`Error::Model`], which name the file and its fault.
    pub fn open(path: &Path) -> Result<Self, Error> {
        Self::open_as(path, None)
    }

    fn open_as(path: &Path, family: Option<&str>) -> Result<Self, Error> {
        let family = family.map(known).transpose()?;
        let start = Instant::now();
        let mut model = if place::is_gguf(path) {
            Self::open_gguf(path, family)?
        } else {
            Self::open_folder(path, family)?
        };
        model.embedding()?;
        model.final_norm()?;
        let mut sizes = BlockSizes::default();
        sizes.add(&model.output()?);
        for layer in 0..model.config.n_layers {
            model.layer(layer)?.all().for_each(|weight| sizes.add(weight));
        }
        model.config.in_blocks = if sizes.in_blocks > 0 { sizes.in_blocks + sizes.others } else { 0 };
        let n_with_sinks = if model.config.sinks { model.config.n_layers } else { 0 };
        model.sinks = (0..n_with_sinks).map(|layer| model.read_sinks(layer)).collect::<Result<_, Error>>()?;
        let layers = 0..model.config.n_layers;
        model.corrections = layers.map(|layer| model.read_correction(layer)).collect::<Result<_, Error>>()?;
        model.fingerprint = model.fingerprint();
        model.seconds.files = start.elapsed().as_secs_f64() - model.seconds.tokenizer;
        Ok(model)
    }

    fn open_folder(folder: &Path, family: Option<&'static Family>) -> Result<Self, Error> {
        place::check_is_whole(folder)?;
        let file = folder.join("config.json");
        let mut json = json_file::read(&file)?;
        if let (Some(family), Some(fields)) = (family, json.as_object_mut()) {
            fields.insert("model_type".into(), family.name.into());
        }
        let mut config = ModelConfig::parse(json.clone()).map_err(|unsupported| unsupported.at(&file))?;
        let (tokenizer, seconds) =
            timed(|| Tokenizer::read(&folder.join("tokenizer.json"), config.vocab_size))?;
        let weights = Weights::open(folder)?;
        let name =
            folder.canonicalize().ok().and_then(|f| Some(f.file_name()?.to_string_lossy().into_owned()));
        let end_of_text = end_of_text(folder);
        let prefix = PREFIXES
            .into_iter()
            .find(|prefix| weights.contains(&format!("{prefix}norm.weight")))
            .unwrap_or(PREFIXES[0]);
        let chat = ChatTemplate::read(folder);
        // A configuration that leaves it open is that of the weights.
        config.tied_embeddings |= !says_tied(&json) && !HEADS.iter().any(|head| weights.contains(head));
        Ok(Model {
            name: name.unwrap_or_else(|| "model".into()),
            context_length: context::of_json(&json, &config),
            fingerprint: None,
            config,
            tokenizer,
            end_of_text,
            chat,
            seconds,
            weights,
            sinks: Vec::new(),
            corrections: Vec::new(),
            prefix,
        })
    }

    /// Takes the file's own tokenizer, or the `tokenizer.json` beside the file if its own is of an unknown
    /// kind.
    fn open_gguf(path: &Path, family: Option<&'static Family>) -> Result<Self, Error> {
        let mut gguf = Gguf::open(path)?;
        gguf.family = family.or(gguf.family);
        let config = gguf.config()?;
        let beside = path.with_file_name("tokenizer.json");
        let (tokenizer, seconds) = timed(|| match gguf.tokenizer(config.vocab_size) {
            Err(_) if beside.exists() => Tokenizer::read(&beside, config.vocab_size),
            own => own,
        })?;
        let own = gguf.name().filter(|_| place::is_blob(path));
        let name = own.unwrap_or_else(|| place::title(path));
        let end_of_text = gguf.end_of_text();
        let chat = gguf.chat();
        Ok(Model {
            name,
            context_length: gguf.context_length(&config),
            fingerprint: None,
            config,
            tokenizer,
            end_of_text,
            chat,
            seconds,
            weights: Weights::from_gguf(gguf, path),
            sinks: Vec::new(),
            corrections: Vec::new(),
            prefix: PREFIXES[0],
        })
    }

    /// Checks that no file of weights has been written since it was opened.
    ///
    /// # Errors
    /// [`Error::Model`], which names the file.
    pub fn check_files(&self) -> Result<(), Error> {
        self.weights.check_files()
    }

    /// Makes the prompt that asks for the next message; returns it with notes on what the user may not expect.
    ///
    /// # Errors
    /// [`Error::Model`] when the model has no template; as [`ChatTemplate::prompt`].
    pub fn chat_prompt(
        &self,
        messages: &[Message],
        arguments: &Map<String, Value>,
    ) -> Result<(String, Vec<String>), Error> {
        let template = self.chat.as_ref().map_err(Clone::clone)?;
        let prompt = template.prompt(messages, arguments)?;
        let unknown = arguments.keys().filter(|name| !template.source.contains(name.as_str()));
        let mut notes: Vec<String> = unknown
            .map(|name| format!("the model's chat template does not know {name}, so it has no effect"))
            .collect();
        for message in messages {
            if let Some(token) = self.tokenizer.special_in(&message.content) {
                let role = &message.role;
                notes.push(format!(
                    "a message ({role}) has the special token {token}: the model reads it as one, not as text"
                ));
            }
        }
        Ok((prompt, notes))
    }

    /// Describes the model for a trace.
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
            context_length: self.context_length,
            fingerprint: self.fingerprint.clone(),
        }
    }

    /// Returns the embedding, `[vocab_size, hidden_size]`.
    pub fn embedding(&self) -> Result<Weight<'_>, Error> {
        Ok(self.embedding_table()?.times(self.config.embedding_scale))
    }

    /// Returns the output layer, `[vocab_size, hidden_size]`: the embedding when they are tied.
    pub fn output(&self) -> Result<Weight<'_>, Error> {
        if self.config.tied_embeddings {
            return self.embedding_table();
        }
        let shape = [self.config.vocab_size, self.config.hidden_size];
        match HEADS.into_iter().find(|head| self.weights.contains(head)) {
            Some(head) => self.weights.get(head, &shape),
            None => Err(Error::model(
                self.weights.path().display(),
                format!("a tensor {} {shape:?}, as config.json says tie_word_embeddings: false", HEADS[0]),
                "none of that name",
                "the download is incomplete; or, if this model's output layer is its embedding, set \
                 tie_word_embeddings to true in config.json",
            )),
        }
    }

    fn embedding_table(&self) -> Result<Weight<'_>, Error> {
        self.get("embed_tokens.weight", &[self.config.vocab_size, self.config.hidden_size])
    }

    /// Returns the weights of the norm before the output layer, `[hidden_size]`.
    pub fn final_norm(&self) -> Result<Weight<'_>, Error> {
        self.norm("norm.weight", self.config.hidden_size)
    }

    /// Returns the logits of a layer's sinks, one of each head; none if the layer has none.
    pub fn sinks(&self, layer: usize) -> Arc<[f32]> {
        self.sinks.get(layer).cloned().unwrap_or_default()
    }

    /// Returns what is added to the scores of a layer's experts where they are chosen; nothing if there is nothing.
    /// `[n_experts]`
    pub fn correction(&self, layer: usize) -> &[f32] {
        self.corrections.get(layer).map_or(&[], |correction| correction)
    }

    fn read_sinks(&self, layer: usize) -> Result<Arc<[f32]>, Error> {
        let sinks = self.get(&format!("layers.{layer}.self_attn.sinks"), &[self.config.n_heads])?;
        Ok(sinks.numbers()?.into())
    }

    /// Counts the numbers of the weights of all layers that a token is multiplied with, and of the output layer.
    ///
    /// # Errors
    /// As [`Model::layer`].
    pub fn n_weights(&self) -> Result<[u64; 2], Error> {
        let count = |weight: &Weight| weight.shape().iter().product::<usize>() as u64;
        let mut in_layers = 0;
        for layer in 0..self.config.n_layers {
            let mut weights = self.layer(layer)?;
            in_layers += weights.all().map(|weight| count(weight)).sum::<u64>();
            if let (FeedForward::Experts(experts), Some(config)) = (&mut weights.mlp, &self.config.experts) {
                let n =
                    experts.experts.iter_mut().flat_map(Mlp::all).map(|weight| count(weight)).sum::<u64>();
                in_layers -= n - n * config.routing.top_k as u64 / config.n_experts as u64;
            }
        }
        Ok([in_layers, count(&self.output()?)])
    }

    fn norm(&self, name: &str, width: usize) -> Result<Weight<'_>, Error> {
        Ok(self.get(name, &[width])?.plus(self.config.norm_offset))
    }

    fn get(&self, name: &str, shape: &[usize]) -> Result<Weight<'_>, Error> {
        self.weights.get(&format!("{}{name}", self.prefix), shape)
    }
}

/// Returns the family of this name.
fn known(name: &str) -> Result<&'static Family, Error> {
    Family::of_name(name).ok_or_else(|| {
        Error::setting(
            "as",
            format!("a family: {}", Family::names()),
            name,
            "choose the one that the model is built like",
        )
    })
}

/// Whether a `config.json` says if the output layer is the embedding.
fn says_tied(json: &Value) -> bool {
    [json, &json["text_config"]].iter().any(|part| part["tie_word_embeddings"].is_boolean())
}

/// Opens a tokenizer and measures the time.
fn timed(open: impl FnOnce() -> Result<Tokenizer, Error>) -> Result<(Tokenizer, LoadSeconds), Error> {
    let start = Instant::now();
    let tokenizer = open()?;
    Ok((tokenizer, LoadSeconds { tokenizer: start.elapsed().as_secs_f64(), ..LoadSeconds::default() }))
}

/// Reads the tokens that end a text from `generation_config.json`, or from `config.json` if that has none;
/// returns an empty list if neither has them.
fn end_of_text(folder: &Path) -> Vec<u32> {
    let ids_in = |name: &str| -> Option<Vec<u32>> {
        let file: serde_json::Value = serde_json::from_slice(&std::fs::read(folder.join(name)).ok()?).ok()?;
        let ids = match &file["eos_token_id"] {
            serde_json::Value::Array(ids) => ids.clone(),
            id => vec![id.clone()],
        };
        ids.iter().map(|id| id.as_u64()?.try_into().ok()).collect()
    };
    ids_in("generation_config.json").or_else(|| ids_in("config.json")).unwrap_or_default()
}
