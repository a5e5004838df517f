//! The way of a prompt's last rows through all layers, kept by the device for each token that is written: those of the last
//! query block, or of dense attention the last row alone.
//!
//! A block has as many rows as it can get: those that are to come hold the last token, and no row sees a later one. The
//! rows go through the layers as if they were the last that there is room for; where they are the device looks up. So each
//! token is the same work with other numbers.

use std::slice;

use super::session::{Session, attended};
use crate::{
    engine::{
        decoder::{Angles, Pass, loader::not_there},
        device::{Device, LayerAttention, Repeat},
    },
    error::Error,
};

/// A prompt's last rows.
pub struct LastBlock<D: Device> {
    /// From the second token on.
    work: Option<<D::Repeater as Repeat>::Work>,
    /// Which the rows are, if all but the last token's are those of the prompt as it is.
    first_row: Option<usize>,
    /// Embeddings of the rows. `[n_rows, hidden_size]`
    input: D::Tensor,
    hidden: D::Residual,
    /// Of the rows, wherever they are.
    angles: Angles<D::Angles>,
    /// In parts of the vocabulary, once the rows have gone through the layers. `[n_rows, n_ids]`
    logits: Vec<D::Tensor>,
}

impl<D: Device> LastBlock<D> {
    /// Takes all rows anew for the next token.
    pub fn forget_rows(&mut self) {
        self.first_row = None;
    }
}

impl<D: Device> Session<'_, D> {
    /// Starts to take the last token, with the rows that are run again, through the layers; returns nothing where the device keeps no
    /// work.
    pub(super) fn repeat(&mut self) -> Result<Option<D::Mark>, Error> {
        let row = self.tokens.len() - 1;
        let first_row = self.first_of(row);
        let Session { model, device, setting, tokens, weights, layers, repeater, last_block, .. } = self;
        let Some(repeater) = repeater.as_ref().filter(|_| setting.repeats(model)) else { return Ok(None) };
        let (room, n_rows) = (setting.room(), if setting.dense { 1 } else { setting.config.block_size_q });
        let decoder = setting.decoder(model, *device, weights, tokens);
        let padded = || {
            let mut rows = tokens[first_row..].to_vec();
            rows.resize(n_rows, tokens[row]);
            decoder.embedded(&rows)
        };
        let block = match last_block {
            Some(block) => {
                match block.first_row == Some(first_row) {
                    true => {
                        let row_of_block = row - first_row;
                        repeater.write_rows(
                            &block.input,
                            row_of_block,
                            &decoder.embedded(&tokens[row..])?,
                        )?;
                    }
                    false => repeater.write_rows(&block.input, 0, &padded()?)?,
                }
                block
            }
            None => {
                let mut angles = decoder.angles(setting.capacity)?;
                angles.all().for_each(|angles| repeater.turn(angles));
                let (input, hidden) = (padded()?, device.residual(false)?);
                last_block.insert(LastBlock {
                    work: None,
                    first_row: None,
                    input,
                    hidden,
                    angles,
                    logits: Vec::new(),
                })
            }
        };
        block.first_row = Some(first_row);
        repeater.set_place(row + 1, first_row)?;
        let LastBlock { work, input, hidden, angles, logits, .. } = block;
        // As many as there is room for, as if these rows were the last.
        let whole = if work.is_none() { vec![tokens[row]; room] } else { Vec::new() };
        let decoder = setting.decoder(model, *device, weights, &whole);
        let mut through = |hidden: &mut D::Residual| {
            device.put(hidden, 0, device.rows(input, slice::from_ref(&(0..n_rows)))?)?;
            for (layer, attention) in layers.iter_mut().enumerate() {
                let weights = weights.layer(layer).ok_or_else(|| not_there(layer))?;
                let first_row = room - n_rows;
                attention.resize(first_row, room);
                attention.follow(Some(repeater));
                let (angles, experts) = (decoder.angles_of(layer, angles), Vec::new());
                let mut pass = Pass { layer, weights, angles, attention, hidden, first_row, experts };
                decoder.layer(&mut pass, false, |queries| attended(queries, setting.dense))?;
            }
            decoder.logits_of_chunk(hidden, weights)
        };
        let end = match &work {
            Some(work) => repeater.repeat(work)?,
            // What kernels need is loaded when the rows go through for the first time.
            None if logits.is_empty() => {
                *logits = through(hidden)?;
                device.mark(hidden)?
            }
            None => {
                logits.clear();
                let kept;
                (kept, *logits) = repeater.keep(hidden, through)?;
                repeater.repeat(work.insert(kept))?
            }
        };
        Ok(Some(end))
    }

    /// Returns the first row that is run again for a row.
    fn first_of(&self, row: usize) -> usize {
        if self.setting.dense { row } else { self.block_of(row) }
    }

    /// Waits for the end of work that was started; returns the logits that follow, or nothing if a number before them is
    /// not finite.
    pub(super) fn repeated(&self, end: D::Mark) -> Result<Option<Vec<f32>>, Error> {
        let (Some(repeater), Some(block)) = (&self.repeater, &self.last_block) else { return Ok(None) };
        let row = self.tokens.len() - 1;
        let logits = repeater.row_to_host(&block.logits, row - self.first_of(row))?;
        if !self.device.is_finite(end)? {
            return Ok(None);
        }
        self.decoder().finished(logits).map(Some)
    }
}
