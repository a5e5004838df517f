//! A prompt that grows token by token: weights, keys and values of all layers stay on the device.
//!
//! The queries of a block share their key blocks, so a new token can change what the others of its block
//! keep. A step therefore runs the last query block again through all layers, over the keys and values of the
//! blocks before it: what it gives is what the whole prompt would give. A device may keep this work, to do it
//! again; or it may run the new row alone, and the block only from the first layer on in which it keeps something else.

use std::sync::Arc;

use super::{Angles, Decoder, Pass, last_block::LastBlock, loader::not_there, resident::AllWeights};
use crate::{
    engine::{
        device::{Device, LayerAttention},
        model::Model,
        peers::Parts,
    },
    error::Error,
    protocol::{Layout, Weights},
    trace::{Search, Span, StreamConfig},
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
    /// Once a token was started, where the device keeps work.
    last_block: Option<LastBlock<D>>,
    /// The end of the work on a token that was started.
    running: Option<D::Mark>,
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
        let layer = |layer| device.layer(decoder.shape(layer, setting.room()));
        Ok(Session {
            model,
            device,
            tokens: Vec::new(),
            layers: (0..model.config.n_layers).map(layer).collect::<Result<_, Error>>()?,
            last_block: None,
            running: None,
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
        let first_row = self.block_of(self.tokens.len());
        self.take(tokens)?;
        self.read_on(first_row, on_layer)
    }

    /// Starts to read one more token, if the device keeps the work; [`Session::finish`] must be called next, or never.
    ///
    /// # Errors
    /// As [`Session::read`].
    pub fn start(&mut self, token: u32) -> Result<(), Error> {
        self.take(&[token])?;
        let (dense, capacity) = (self.setting.dense, self.setting.capacity);
        if self.last_block.is_none()
            && self.setting.repeats(self.model)
            && let Some(repeater) = self.device.repeater()?
        {
            self.last_block = Some(LastBlock::new(&self.decoder(), repeater, dense, capacity)?);
        }
        let Session { model, device, setting, tokens, weights, layers, last_block, .. } = self;
        let decoder = setting.decoder(model, *device, weights, tokens);
        self.running = last_block.as_mut().map(|block| block.start(&decoder, layers)).transpose()?;
        Ok(())
    }

    /// Returns the logits that follow the token that was started. `[vocab_size]`
    ///
    /// # Errors
    /// As [`Session::read`].
    pub fn finish(&mut self) -> Result<Vec<f32>, Error> {
        if let Some(end) = self.running.take()
            && let Some(block) = &self.last_block
            && let Some(logits) = block.logits(&self.decoder(), end)?
        {
            return Ok(logits);
        }
        if D::STEPS {
            return self.step();
        }
        self.read_on(self.block_of(self.tokens.len() - 1), |_| {})
    }

    fn take(&mut self, tokens: &[u32]) -> Result<(), Error> {
        let room = self.setting.capacity - self.tokens.len();
        if tokens.is_empty() || tokens.len() > room {
            let (expected, found) = (format!("1 to {room} more tokens"), tokens.len().to_string());
            return Err(Error::prompt(expected, found, "make room for as many tokens as are to come"));
        }
        self.tokens.extend_from_slice(tokens);
        Ok(())
    }

    /// Takes the rows from `first_row` on, the start of a query block, through all layers.
    fn read_on(&mut self, first_row: usize, on_layer: impl FnMut(usize)) -> Result<Vec<f32>, Error> {
        self.last_block.iter_mut().for_each(LastBlock::forget_rows);
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
        let Session { model, device, setting, tokens, layers, weights, inputs, angles, .. } = self;
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
            attention.follow(None);
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
            decoder.layer(&mut pass, !setting.dense, |queries| queries.attended(setting.dense))?;
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
        let Session { model, device, setting, tokens, layers, weights, inputs, angles, .. } = self;
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
    /// Rows that there is room for: whole query blocks.
    fn room(&self) -> usize {
        self.capacity.next_multiple_of(self.config.block_size_q)
    }

    /// Whether the tokens of a query block are the same work: nothing that changes comes from the host, and every key is
    /// read for them.
    fn repeats(&self, model: &Model) -> bool {
        let StreamConfig { search, exact_queries, .. } = self.config;
        let reads_all = search == Search::Exhaustive || !search.is_baseline() && exact_queries > 0;
        model.config.experts.is_none() && (self.dense || reads_all)
    }

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
