//! The way of a prompt's last rows through all layers, kept by the device for each token that is written: those of the last
//! query block, or of dense attention the last row alone.
//!
//! A block has as many rows as it can get: those that are to come hold the last token, and no row sees a later one. The
//! rows go through the layers as if they were the last that there is room for; where they are the device looks up. So each
//! token is the same work with other numbers.

use std::slice;

use super::{Angles, Decoder, Pass, loader::not_there};
use crate::{
    engine::device::{Device, LayerAttention, Repeat},
    error::Error,
};

/// A prompt's last rows.
pub struct LastBlock<D: Device> {
    /// From the second token on.
    work: Option<<D::Repeater as Repeat<D>>::Work>,
    repeater: D::Repeater,
    dense: bool,
    /// Rows that there is room for, whole query blocks.
    room: usize,
    n_rows: usize,
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
    /// Makes room for the rows of a prompt that grows up to `capacity` tokens.
    pub fn new(
        decoder: &Decoder<D>,
        repeater: D::Repeater,
        dense: bool,
        capacity: usize,
    ) -> Result<Self, Error> {
        let block_size = decoder.config.block_size_q;
        let n_rows = if dense { 1 } else { block_size };
        let mut angles = decoder.angles(capacity)?;
        angles.all().for_each(|angles| repeater.turn(angles));
        Ok(LastBlock {
            work: None,
            dense,
            room: capacity.next_multiple_of(block_size),
            n_rows,
            first_row: None,
            input: decoder.embedded(&vec![decoder.tokens[0]; n_rows])?,
            hidden: decoder.device.residual(false)?,
            angles,
            logits: Vec::new(),
            repeater,
        })
    }

    /// Takes all rows anew for the next token.
    pub fn forget_rows(&mut self) {
        self.first_row = None;
    }

    /// Starts to take the last token, with the rows that are run again, through the layers; returns the end of that.
    pub fn start(&mut self, decoder: &Decoder<D>, layers: &mut [D::Layer]) -> Result<D::Mark, Error> {
        let row = decoder.tokens.len() - 1;
        let first_row = self.first_of(row);
        if self.first_row == Some(first_row) {
            let token = decoder.embedded(&decoder.tokens[row..])?;
            self.repeater.write_rows(&self.input, row - first_row, &token)?;
        } else {
            let mut rows = decoder.tokens[first_row..].to_vec();
            rows.resize(self.n_rows, decoder.tokens[row]);
            self.repeater.write_rows(&self.input, 0, &decoder.embedded(&rows)?)?;
            self.first_row = Some(first_row);
        }
        self.repeater.set_place(row + 1, first_row)?;
        match self.work.as_ref() {
            Some(work) => self.repeater.repeat(work),
            None => self.take_through(decoder, layers),
        }
    }

    /// Waits for the end of what was started; returns the logits that follow, or nothing if a number before them is not
    /// finite.
    pub fn logits(&self, decoder: &Decoder<D>, end: D::Mark) -> Result<Option<Vec<f32>>, Error> {
        let row = decoder.tokens.len() - 1;
        let logits = self.repeater.row_to_host(&self.logits, row - self.first_of(row))?;
        if !decoder.device.is_finite(end)? {
            return Ok(None);
        }
        decoder.finished(logits).map(Some)
    }

    /// Returns the first row that is run again for a row.
    fn first_of(&self, row: usize) -> usize {
        row - row % self.n_rows
    }

    /// Takes the rows through all layers, the second time as work that is kept.
    fn take_through(&mut self, decoder: &Decoder<D>, layers: &mut [D::Layer]) -> Result<D::Mark, Error> {
        let LastBlock { work, repeater, dense, room, n_rows, input, hidden, angles, logits, .. } = self;
        // As many as there is room for, as if these rows were the last.
        let whole = vec![decoder.tokens[0]; *room];
        let decoder = decoder.over(&whole);
        let weights = decoder.resident.as_ref().ok_or_else(|| not_there(0))?;
        let mut through = |hidden: &mut D::Residual| {
            let rows = decoder.device.rows(input, slice::from_ref(&(0..*n_rows)))?;
            decoder.device.put(hidden, 0, rows)?;
            for (layer, attention) in layers.iter_mut().enumerate() {
                let weights = weights.layer(layer).ok_or_else(|| not_there(layer))?;
                let first_row = *room - *n_rows;
                attention.resize(first_row, *room);
                attention.follow(Some(repeater));
                let (angles, experts) = (decoder.angles_of(layer, angles), Vec::new());
                let mut pass = Pass { layer, weights, angles, attention, hidden, first_row, experts };
                decoder.layer(&mut pass, false, |queries| queries.attended(*dense))?;
            }
            decoder.logits_of_chunk(hidden, weights)
        };
        // What kernels need is loaded when the rows go through for the first time.
        if logits.is_empty() {
            *logits = through(hidden)?;
            return decoder.device.mark(hidden);
        }
        logits.clear();
        let kept;
        (kept, *logits) = repeater.keep(hidden, through)?;
        repeater.repeat(work.insert(kept))
    }
}
