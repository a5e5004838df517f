//! A prompt that grows token by token: weights, keys and values of all layers stay on the device.
//!
//! The queries of a block share their key blocks, so a new token can change what the others of its block
//! keep. A step therefore runs the last query block again through all layers, over the keys and values of the
//! blocks before it: what it gives is what the whole prompt would give.

use super::{Angles, Decoder, Pass, visitor::search_and_attend};
use crate::{
    engine::{
        device::{Device, LayerAttention},
        model::{LayerWeights, Model},
    },
    error::Error,
    protocol::Layout,
    trace::{Span, StreamConfig},
};

/// A model on a device, reading and writing.
pub struct Session<'a, D: Device> {
    model: &'a Model,
    device: &'a D,
    setting: Setting,
    tokens: Vec<u32>,
    layers: Vec<(LayerWeights<D::Tensor>, D::Layer)>,
    angles: Angles<D::Angles>,
    final_norm: D::Tensor,
    /// Parts of the output layer.
    output: Vec<D::Tensor>,
}

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
    /// Brings all weights to the device and makes room for keys and values.
    ///
    /// # Errors
    /// [`Error::Device`], [`Error::Setting`] for sizes that the device does not have.
    pub fn new(model: &'a Model, device: &'a D, setting: Setting) -> Result<Self, Error> {
        let decoder = setting.decoder(model, device, &[]);
        let layer =
            |layer| Ok((decoder.weights(layer)?, device.layer(decoder.shape(layer, setting.capacity))?));
        Ok(Session {
            model,
            device,
            tokens: Vec::new(),
            layers: (0..model.config.n_layers).map(layer).collect::<Result<_, Error>>()?,
            angles: decoder.angles(setting.capacity)?,
            final_norm: decoder.final_norm()?,
            output: decoder.output()?.collect::<Result<_, _>>()?,
            setting,
        })
    }

    /// Reads more tokens and calls `on_layer` after each layer; returns the logits that follow.
    /// `[vocab_size]`
    ///
    /// # Errors
    /// [`Error::NotFinite`] naming the layer, [`Error::Device`]; [`Error::Prompt`] for more tokens than there
    /// is room for.
    pub fn read(&mut self, tokens: &[u32], mut on_layer: impl FnMut(usize)) -> Result<Vec<f32>, Error> {
        let n_before = self.tokens.len();
        let capacity = self.setting.capacity;
        if tokens.is_empty() || n_before + tokens.len() > capacity {
            let (expected, found) =
                (format!("1 to {} more tokens", capacity - n_before), tokens.len().to_string());
            return Err(Error::prompt(expected, found, "make room for as many tokens as are to come"));
        }
        self.tokens.extend_from_slice(tokens);
        let Session { model, device, setting, tokens, layers, .. } = self;
        let decoder = setting.decoder(model, *device, tokens);
        let first_row = n_before / setting.config.block_size_q * setting.config.block_size_q;
        let mut hidden = decoder.embed(first_row)?;
        for (layer, (weights, attention)) in layers.iter_mut().enumerate() {
            attention.resize(first_row, tokens.len());
            let angles = decoder.angles_of(layer, &self.angles);
            let mut pass = Pass { layer, weights, angles, attention, hidden: &mut hidden, first_row };
            decoder.layer(&mut pass, |queries| {
                if setting.dense {
                    return queries.attention.attend_dense(queries.rows, queries.first, None);
                }
                search_and_attend(queries)
            })?;
            on_layer(layer);
        }
        let last = tokens.len() - 1..tokens.len();
        let output = self.output.iter().map(Ok);
        let logits = decoder.logits(&hidden, first_row, last, &self.final_norm, output)?;
        Ok(logits.into_iter().flatten().collect())
    }
}

impl Setting {
    fn decoder<'t, D: Device>(&self, model: &'t Model, device: &'t D, tokens: &'t [u32]) -> Decoder<'t, D> {
        let config = self.config.clone();
        let focus = Span::from(0..0);
        Decoder { model, device, tokens, config, focus, sentences: [].into(), layout: self.layout }
    }
}
