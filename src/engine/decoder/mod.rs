//! The decoder, written once for all families and devices: the whole prompt through one layer after the
//! other.
//!
//! Only the hidden states, one layer's keys and values, and chunks of everything else exist at a time: no
//! key-value cache over layers, and nothing of size T × T. A [`Session`](session::Session) keeps them
//! instead, to go on writing.

pub mod branches;
mod embedding;
mod experts;
mod last_block;
mod loader;
mod logits;
mod parts;
pub mod resident;
pub mod session;
mod visitor;

use std::{ops::Range, slice, sync::Arc};

use super::{
    device::{AttentionShape, Coming, Device, LayerAttention},
    model::{
        LayerWeights, Model,
        rope::{RopeConfig, Rotary},
        weight::Weight,
    },
    peers::Parts,
    search::by_head::{self, Costs, Survey},
};
use crate::{
    error::Error,
    protocol::Layout,
    trace::{BlockMask, Blocks, Budget, Budgets, Span, StreamConfig},
};
use resident::{AllWeights, in_file};
use visitor::{Dense, QueryChunk, Sampled, Sparse, Visitor};
pub use visitor::{Pending, Reached};

/// A model on a device, about to read a prompt.
pub struct Decoder<'a, D: Device> {
    pub model: &'a Model,
    pub device: &'a D,
    pub tokens: &'a [u32],
    pub config: StreamConfig,
    pub focus: Span,
    /// Stretches of tokens whose vertical scores are recorded, with what attention writes; if empty, neither
    /// is recorded.
    pub sentences: Arc<[Span]>,
    /// The rows that this process takes; all but where ranks share them out.
    pub parts: Parts,
    /// As the device's plan chose it.
    pub layout: Layout,
    /// All weights, if the layout has them on the device together.
    pub resident: Option<Arc<AllWeights<D::Tensor>>>,
}

/// Rotary angles of every position, for each kind of layer.
pub struct Angles<A> {
    full: A,
    /// Of the layers with a sliding window, where they have their own.
    windowed: Option<A>,
    /// Of the layers that do not rotate, where there are some: angles of 0.
    none: Option<A>,
}

impl<A> Angles<A> {
    /// Iterates over the angles of all kinds.
    fn all(&mut self) -> impl Iterator<Item = &mut A> {
        [&mut self.full].into_iter().chain(&mut self.windowed).chain(&mut self.none)
    }
}

/// Rows of a prompt on their way through one layer.
struct Pass<'a, D: Device> {
    layer: usize,
    weights: &'a LayerWeights<D::Tensor>,
    /// Rotary angles of the layer's kind.
    angles: &'a D::Angles,
    /// With keys and values of the rows before.
    attention: &'a mut D::Layer,
    hidden: &'a mut D::Residual,
    /// The first row, the start of a query block.
    first_row: usize,
    /// The experts that rows took, if they are recorded. `[n_rows, top_k]`
    experts: Vec<u16>,
}

impl<D: Device> Decoder<'_, D> {
    /// Runs the model on kept key blocks alone; tells `on_layer` of each chunk that is through, and hands it each
    /// layer's record. Returns the hidden states after the last layer.
    ///
    /// # Errors
    /// [`Error::NotFinite`] naming the layer, [`Error::Device`], and what `on_layer` returns.
    pub fn sparse(
        &self,
        on_layer: impl FnMut(usize, Reached<Pending>) -> Result<(), Error>,
    ) -> Result<D::Residual, Error> {
        self.run(true, &mut Sparse { on_layer })
    }

    /// Runs the model densely; `mask` gives the blocks of a layer whose share of the dense attention mass is
    /// measured, if any, and `on_layer` gets it, summed over all queries, by head. Returns hidden
    /// states as [`Decoder::sparse`].
    ///
    /// # Errors
    /// As [`Decoder::sparse`].
    pub fn dense(
        &self,
        mask: impl FnMut(usize) -> Result<Option<BlockMask>, Error>,
        on_layer: impl FnMut(usize, Reached<Vec<f64>>),
    ) -> Result<D::Residual, Error> {
        self.run(false, &mut Dense::new(mask, on_layer))
    }

    /// Runs as [`Decoder::sparse`], and measures as [`Decoder::dense`], of the sparse run's own queries and
    /// keys, on a sample of query blocks alone. O(rows · T) more time.
    ///
    /// # Errors
    /// As [`Decoder::sparse`].
    pub fn sampled(
        &self,
        sample: &[usize],
        mut mask: impl FnMut(usize) -> Result<BlockMask, Error>,
        on_layer: impl FnMut(usize, Reached<Vec<f64>>),
    ) -> Result<(), Error> {
        let blocks = self.blocks(0);
        let dense = Dense::new(|layer| mask(layer).map(Some), on_layer);
        let visitor = &mut Sampled { blocks, chunk: self.layout.chunk_rows, sample, dense };
        self.run(true, visitor).map(drop)
    }

    /// Returns the same decoder of another prompt.
    fn over<'b>(&'b self, tokens: &'b [u32]) -> Decoder<'b, D> {
        let Decoder { model, device, focus, layout, .. } = *self;
        let (config, sentences) = (self.config.clone(), self.sentences.clone());
        let (parts, resident) = (self.parts.clone(), self.resident.clone());
        Decoder { model, device, tokens, config, focus, sentences, parts, layout, resident }
    }

    fn run(&self, searches: bool, visitor: &mut impl Visitor<D>) -> Result<D::Residual, Error> {
        let angles = self.angles(self.tokens.len())?;
        let mut hidden = self.embed(0)?;
        self.each_layer(|layer, weights| {
            let mut attention = self.device.layer(self.shape(layer, self.tokens.len()))?;
            let angles = self.angles_of(layer, &angles);
            let mut pass = Pass {
                layer,
                weights,
                angles,
                attention: &mut attention,
                hidden: &mut hidden,
                first_row: 0,
                experts: Vec::new(),
            };
            self.layer(&mut pass, searches, |queries| visitor.attend(self.device, queries))?;
            let experts = pass.experts;
            visitor.finish(layer, attention, experts)?;
            self.device.mark(&mut hidden).map(Some)
        })?;
        Ok(hidden)
    }

    /// Computes the rotary angles of `n_tokens` positions.
    fn angles(&self, n_tokens: usize) -> Result<Angles<D::Angles>, Error> {
        let config = &self.model.config;
        let angles =
            |rope: &RopeConfig| self.device.angles(n_tokens, &rope.rotary(config.head_dim, n_tokens));
        Ok(Angles {
            full: angles(&config.rope)?,
            windowed: config.window_rope.as_ref().map(angles).transpose()?,
            none: match config.rotates.contains(&false) {
                true => Some(self.device.angles(n_tokens, &Rotary::none(config.head_dim))?),
                false => None,
            },
        })
    }

    /// Returns the angles of a layer, by whether it rotates and has a sliding window.
    fn angles_of<'b>(&self, layer: usize, angles: &'b Angles<D::Angles>) -> &'b D::Angles {
        let none = angles.none.as_ref().filter(|_| !self.model.config.rotates[layer]);
        let windowed = angles.windowed.as_ref().filter(|_| self.model.config.windows[layer].is_some());
        none.or(windowed).unwrap_or(&angles.full)
    }

    /// Returns the rows of the chunk that starts at a row.
    fn rows_from(&self, row: usize) -> Range<usize> {
        row..(row + self.layout.chunk_rows).min(self.own_rows().end)
    }

    /// Returns the rows that this process takes.
    fn own_rows(&self) -> Range<usize> {
        self.parts.own(self.tokens.len())
    }

    /// Returns number and first row of each chunk of its rows from `first_row` on.
    fn chunks(&self, first_row: usize) -> impl Iterator<Item = (usize, usize)> {
        let own = self.own_rows();
        (first_row.max(own.start)..own.end).step_by(self.layout.chunk_rows).enumerate()
    }

    /// Returns the weights of a layer that are loaded before it runs.
    fn in_file(&self, layer: usize) -> Result<LayerWeights<Weight<'_>>, Error> {
        in_file(self.model, layer, self.layout)
    }

    /// Takes rows through a layer; `attend` is the attention of a chunk of queries, which may search.
    fn layer(
        &self,
        pass: &mut Pass<D>,
        searches: bool,
        attend: impl FnMut(QueryChunk<D>) -> Result<D::Tensor, Error>,
    ) -> Result<(), Error> {
        let normed = self.append(pass)?;
        pass.attention.gather()?;
        // Rows that are added later keep the budgets of the prompt.
        let survey = (searches && pass.first_row == 0).then(|| self.survey(pass)).transpose()?;
        // While the survey comes to the host, the device has this to do.
        if searches {
            pass.attention.index()?;
        }
        if !self.sentences.is_empty() {
            pass.attention.weigh(&pass.weights.output.weight)?;
        }
        let first = self.chunks(pass.first_row).next();
        let queries = first.map(|(i, row)| self.queries_of_chunk(pass, i, row, normed)).transpose()?;
        let waits = matches!(survey, Some(Some(_)));
        if let (true, Some(queries), Some((_, row))) = (waits, &queries, first) {
            pass.attention.search_ahead(queries, row / self.config.block_size_q)?;
        }
        if let Some(survey) = survey {
            let budgets = self.budgets(pass.layer, survey)?;
            pass.attention.share_out(budgets)?;
        }
        self.advance(pass, queries, attend)
    }

    /// Adds the keys and values of the pass's rows to the layer's attention; returns the normed rows where they are one
    /// chunk.
    fn append(&self, pass: &mut Pass<D>) -> Result<Option<D::Tensor>, Error> {
        let weights = pass.weights;
        let mut normed = None;
        for (i, row) in self.chunks(pass.first_row) {
            let hidden = self.device.chunk(pass.hidden, i)?;
            if !self.sentences.is_empty() {
                pass.attention.measure(&hidden)?;
            }
            let x = self.maybe_norm(hidden, weights.attention_norm.as_ref())?;
            let (keys, norm) = (self.linear(&x, &weights.key)?, weights.key_norm.as_ref());
            let keys = self.rotated(keys, norm, &[self.rows_from(row)], pass.angles, 1.0)?;
            pass.attention.append(&keys, &self.linear(&x, &weights.value)?)?;
            normed = Some(x).filter(|_| i == 0);
        }
        Ok(normed)
    }

    /// Takes the prompt's last row, alone in `pass`, through a layer; returns whether the other rows of its
    /// query block stay what they are. Otherwise nothing comes of it.
    fn step(&self, pass: &mut Pass<D>, dense: bool) -> Result<bool, Error> {
        self.append(pass)?;
        let x = self.device.chunk(pass.hidden, 0)?;
        let position = pass.first_row..self.tokens.len();
        let queries = self.queries(pass.weights, &x, slice::from_ref(&position), pass.angles)?;
        let Some(attended) = pass.attention.step(&queries, dense)? else { return Ok(false) };
        let after = self.after_attention(pass.weights, &x, attended)?;
        let after = self.after_mlp(pass, after)?;
        self.device.put(pass.hidden, 0, after)?;
        self.check(pass.layer, self.device.mark(pass.hidden)?).map(|()| true)
    }

    /// Reads a sample of a layer's queries exactly. Where budgets differ by head, what they look at comes with the
    /// call that it returns.
    fn survey(&self, pass: &mut Pass<D>) -> Result<Option<Coming<Survey>>, Error> {
        let shape = self.shape(pass.layer, self.tokens.len());
        let (blocks, config) = (&shape.blocks, &shape.config);
        let start = self.own_rows().start;
        let chunk_of =
            |query_block: usize| (blocks.queries(query_block).start - start) / self.layout.chunk_rows;
        for of_chunk in shape.sampled().chunk_by(|a, b| chunk_of(*a) == chunk_of(*b)) {
            let i = chunk_of(of_chunk[0]);
            let first = start + i * self.layout.chunk_rows;
            let positions: Vec<Range<usize>> = of_chunk.iter().map(|&block| blocks.queries(block)).collect();
            let rows: Vec<_> = positions.iter().map(|rows| rows.start - first..rows.end - first).collect();
            let x = self.device.rows(&self.device.chunk(pass.hidden, i)?, &rows)?;
            let queries = self.queries(pass.weights, &x, &positions, pass.angles)?;
            pass.attention.sample(&queries, of_chunk)?;
        }
        let differ = config.budget == Budget::ByHead && config.sample > 0 && !config.search.is_baseline();
        // Where the budget is for all blocks, it is also for those that are to come.
        let has_all = config.recall.is_none() && config.top_k >= blocks.n_key_blocks();
        (differ && !has_all).then(|| pass.attention.survey()).transpose()
    }

    /// Returns the budgets of a layer's heads.
    fn budgets(&self, layer: usize, survey: Option<Coming<Survey>>) -> Result<Budgets, Error> {
        let AttentionShape { blocks, config, n_heads, .. } = &self.shape(layer, self.tokens.len());
        let Some(survey) = survey else { return Ok(Budgets::uniform(*n_heads, config.top_k)) };
        let costs = Costs::new(blocks, config);
        let survey = self.parts.gathered(survey()?)?;
        Ok(match config.recall {
            Some(recall) => by_head::for_recall(&survey, &costs, blocks, config, recall),
            None => by_head::shared_out(&survey, &costs, blocks, config),
        })
    }

    /// Returns the queries of the chunk that starts at a row, of its normed rows if they are there.
    fn queries_of_chunk(
        &self,
        pass: &Pass<D>,
        i: usize,
        row: usize,
        normed: Option<D::Tensor>,
    ) -> Result<D::Tensor, Error> {
        let norm = pass.weights.attention_norm.as_ref();
        let of_chunk = || self.maybe_norm(self.device.chunk(pass.hidden, i)?, norm);
        let normed = normed.map_or_else(of_chunk, Ok)?;
        self.queries_of_normed(pass.weights, &normed, &[self.rows_from(row)], pass.angles)
    }

    /// Replaces the pass's rows by what the layer makes of them, whose keys and values are all there. `queries` are those
    /// of the first chunk, if they are there already.
    fn advance(
        &self,
        pass: &mut Pass<D>,
        mut queries: Option<D::Tensor>,
        mut attend: impl FnMut(QueryChunk<D>) -> Result<D::Tensor, Error>,
    ) -> Result<(), Error> {
        let weights = pass.weights;
        for (i, row) in self.chunks(pass.first_row) {
            let rows = queries.take().map_or_else(|| self.queries_of_chunk(pass, i, row, None), Ok)?;
            let x = self.device.chunk(pass.hidden, i)?;
            let first = row / self.config.block_size_q;
            let attention = &mut *pass.attention;
            let end = self.rows_from(row).end;
            let attended = attend(QueryChunk { layer: pass.layer, attention, rows: &rows, first, end })?;
            drop(rows);
            let after = self.after_attention(weights, &x, attended)?;
            if self.config.proximity && !self.sentences.is_empty() {
                pass.attention.proximity(&weights.output.weight, &x, &after, first)?;
            }
            drop(x);
            let after = self.after_mlp(pass, after)?;
            self.device.put(pass.hidden, i, after)?;
        }
        Ok(())
    }

    /// Waits for a layer, and checks that it left numbers.
    fn check(&self, layer: usize, mark: D::Mark) -> Result<(), Error> {
        if self.device.is_finite(mark)? {
            return Ok(());
        }
        Err(self.not_finite(format!("the output of layer {layer}")))
    }

    /// Returns the blocks of a layer.
    pub fn blocks(&self, layer: usize) -> Blocks {
        Blocks {
            n_tokens: self.tokens.len(),
            block_size_q: self.config.block_size_q,
            block_size_k: self.config.block_size_k,
            window: self.model.config.windows[layer],
        }
    }

    /// Returns the shape of a layer's attention; the prompt may grow to `capacity` tokens.
    fn shape(&self, layer: usize, capacity: usize) -> AttentionShape {
        let config = &self.model.config;
        AttentionShape {
            blocks: self.blocks(layer),
            capacity,
            parts: self.parts.clone(),
            n_heads: config.n_heads,
            n_kv_heads: config.n_kv_heads,
            head_dim: config.head_dim,
            soft_cap: config.attention_soft_cap,
            sinks: self.model.sinks(layer),
            config: StreamConfig { search: self.config.search.of_layer(layer), ..self.config.clone() },
            focus: self.focus,
            sentences: self.sentences.clone(),
        }
    }

    fn not_finite(&self, place: String) -> Error {
        let fix = "the weights are damaged, or too large for their type: download them again".into();
        Error::NotFinite {
            place: format!("{place} of {}", self.model.name),
            found: "NaN, an infinity or nearly one".into(),
            fix,
        }
    }
}
