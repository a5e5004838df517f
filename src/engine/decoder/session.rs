//! A prompt that grows token by token: weights, keys and values of all layers stay on the device.
//!
//! The queries of a block share their key blocks, so a new token can change what the others of its block
//! keep. A step therefore runs the last query block again through all layers, over the keys and values of the
//! blocks before it: what it gives is what the whole prompt would give. Where the device can, a step runs the
//! new row alone, and the block only from the first layer on in which it keeps something else.

use std::sync::Arc;

use super::{Angles, Decoder, Pass, loader::not_there, resident::AllWeights};
use crate::{
    engine::{
        device::{Device, LayerAttention},
        model::Model,
        peers::Parts,
    },
    error::Error,
    protocol::{Hidden, Layout, Weights},
    trace::{Span, StreamConfig},
};

/// A model on a device, reading and writing.
pub struct Session<'a, D: Device> {
    model: &'a Model,
    device: &'a D,
    setting: Setting,
    tokens: Vec<u32>,
    weights: Arc<AllWeights<D::Tensor>>,
    layers: Vec<D::Layer>,
    angles: Angles<D::Angles>,
    /// The rows of the last query block before each layer, for steps. `[n_layers][n_rows, hidden_size]`
    inputs: Vec<Vec<f32>>,
}

/// Rows that are multiplied with blocks as they are.
const FEW: usize = 64;

/// How a session runs.
#[derive(Clone)]
pub struct Setting {
    /// With `top_k` as it will be used.
    pub config: StreamConfig,
    /// Attend to everything instead of searching.
    pub dense: bool,
    /// Most tokens, read and written.
    pub capacity: usize,
    pub layout: Layout,
}

impl<'a, D: Device> Session<'a, D> {
    /// Makes room for keys and values.
    ///
    /// # Errors
    /// [`Error::Device`], [`Error::Setting`] for sizes that the device does not have.
    pub fn new(
        model: &'a Model,
        device: &'a D,
        weights: Arc<AllWeights<D::Tensor>>,
        setting: Setting,
    ) -> Result<Self, Error> {
        let decoder = setting.decoder(model, device, &weights, &[]);
        let layer = |layer| device.layer(decoder.shape(layer, setting.capacity));
        Ok(Session {
            model,
            device,
            tokens: Vec::new(),
            layers: (0..model.config.n_layers).map(layer).collect::<Result<_, Error>>()?,
            angles: decoder.angles(setting.capacity)?,
            inputs: vec![Vec::new(); model.config.n_layers],
            weights,
            setting,
        })
    }

    /// Reads more tokens and calls `on_layer` after each layer; returns the logits that follow.
    /// `[vocab_size]`
    ///
    /// # Errors
    /// [`Error::NotFinite`] naming the layer, [`Error::Device`]; [`Error::Prompt`] for more tokens than there
    /// is room for.
    pub fn read(&mut self, tokens: &[u32], on_layer: impl FnMut(usize)) -> Result<Vec<f32>, Error> {
        let n_before = self.tokens.len();
        let capacity = self.setting.capacity;
        if tokens.is_empty() || n_before + tokens.len() > capacity {
            let (expected, found) =
                (format!("1 to {} more tokens", capacity - n_before), tokens.len().to_string());
            return Err(Error::prompt(expected, found, "make room for as many tokens as are to come"));
        }
        self.tokens.extend_from_slice(tokens);
        if D::STEPS && tokens.len() == 1 && n_before > 0 {
            return self.step();
        }
        let first_row = self.block_of(n_before);
        let hidden = self.decoder().embed(first_row)?;
        self.read_from(0, hidden, first_row, on_layer)
    }

    /// Returns the first row of the query block of a row.
    fn block_of(&self, row: usize) -> usize {
        row / self.setting.config.block_size_q * self.setting.config.block_size_q
    }

    fn decoder(&self) -> Decoder<'_, D> {
        self.setting.decoder(self.model, self.device, &self.weights, &self.tokens)
    }

    /// Takes the rows from `first_row` on, the start of a query block, through the layers from `first_layer`
    /// on; returns the logits that follow.
    fn read_from(
        &mut self,
        first_layer: usize,
        mut hidden: D::Residual,
        first_row: usize,
        mut on_layer: impl FnMut(usize),
    ) -> Result<Vec<f32>, Error> {
        let n_tokens = self.tokens.len();
        let last_block: Vec<usize> = (self.block_of(n_tokens - 1)..n_tokens).collect();
        let Session { model, device, setting, tokens, layers, weights, inputs, angles } = self;
        let mut decoder = setting.decoder(model, *device, weights, tokens);
        // Blocks serve a few rows; many are worth turning a layer's blocks into numbers.
        if setting.layout.weights == Weights::Mapped && n_tokens - first_row > FEW {
            decoder.resident = None;
        }
        decoder.each_layer_from(first_layer, |layer, weights| {
            if D::STEPS {
                inputs[layer] = decoder.states(&hidden, first_row, &last_block)?;
            }
            let attention = &mut layers[layer];
            attention.resize(first_row, tokens.len());
            let angles = decoder.angles_of(layer, angles);
            let mut pass = Pass {
                layer,
                weights,
                angles,
                attention,
                hidden: &mut hidden,
                first_row,
                experts: Vec::new(),
            };
            decoder.layer(&mut pass, !setting.dense, |queries| {
                if setting.dense {
                    return queries.attention.attend_dense(queries.rows, queries.first, None);
                }
                queries.attention.search(queries.rows, queries.first)?;
                queries.attention.attend_without(queries.rows, queries.first, &Hidden::default())
            })?;
            on_layer(layer);
            device.mark(&mut hidden).map(Some)
        })?;
        let decoder = setting.decoder(model, *device, weights, tokens);
        last_logits(&decoder, &hidden, first_row)
    }

    /// Takes the last token alone through the layers, as long as the other rows of its query block stay what
    /// they are; from the first layer where they change, all run again.
    fn step(&mut self) -> Result<Vec<f32>, Error> {
        let row = self.tokens.len() - 1;
        let first_row = self.block_of(row);
        let Session { model, device, setting, tokens, layers, weights, inputs, angles } = self;
        let decoder = setting.decoder(model, *device, weights, tokens);
        let mut hidden = decoder.embed(row)?;
        for (layer, attention) in layers.iter_mut().enumerate() {
            let weights = weights.layer(layer).ok_or_else(|| not_there(layer))?;
            let input = &mut inputs[layer];
            if row == first_row {
                input.clear();
            }
            input.extend(device.to_host(&device.chunk(&hidden, 0)?)?);
            attention.resize(row, tokens.len());
            let angles = decoder.angles_of(layer, angles);
            let mut pass = Pass {
                layer,
                weights,
                angles,
                attention,
                hidden: &mut hidden,
                first_row: row,
                experts: Vec::new(),
            };
            if !decoder.step(&mut pass, setting.dense)? {
                let mut hidden = device.residual(setting.layout.hidden_on_host)?;
                device.put(&mut hidden, 0, decoder.on_device(input)?)?;
                return self.read_from(layer, hidden, first_row, |_| {});
            }
        }
        last_logits(&decoder, &hidden, row)
    }
}

/// Returns the logits that follow the last token, of hidden states from `first_row` on.
fn last_logits<D: Device>(
    decoder: &Decoder<D>,
    hidden: &D::Residual,
    first_row: usize,
) -> Result<Vec<f32>, Error> {
    let n_tokens = decoder.tokens.len();
    Ok(decoder.logits(hidden, first_row, n_tokens - 1..n_tokens)?.into_iter().flatten().collect())
}

impl Setting {
    fn decoder<'t, D: Device>(
        &self,
        model: &'t Model,
        device: &'t D,
        weights: &Arc<AllWeights<D::Tensor>>,
        tokens: &'t [u32],
    ) -> Decoder<'t, D> {
        let resident = Some(weights.clone());
        let config = self.config.clone();
        let focus = Span::from(0..0);
        Decoder {
            model,
            device,
            tokens,
            config,
            focus,
            sentences: [].into(),
            parts: Parts::default(),
            layout: self.layout,
            resident,
        }
    }
}
