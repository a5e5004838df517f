//! A trace: the attention of one run, as plain data. No model, no GPU and no plotting is needed to read one.

mod blocks;
mod budgets;
mod config;
mod experts;
mod file;
mod head;
mod lines;
mod marks;
mod mask;
mod packed;
mod pieces;
mod record;
mod sentence_kind;
mod sentences;
mod span;
mod summary;
#[cfg(test)]
pub(crate) mod synthetic;
mod tensors;
mod text;
mod turns;

use std::{ops::Range, sync::Arc};

pub use blocks::Blocks;
pub use budgets::Budgets;
pub use config::{Budget, Estimate, Search, StreamConfig};
pub use file::TraceWriter;
pub use head::HeadTrace;
pub use mask::BlockMask;
pub(crate) use pieces::Pieces;
pub use record::LayerRecord;
pub use sentence_kind::SentenceKind;
#[cfg(feature = "engine")]
pub(crate) use sentences::recorded_sentences;
pub use sentences::{MIN_DISTANCE, published_sentences, sentences, token_sentences};
pub use span::Span;
pub use summary::{
    AnswerFidelity, AnswerScore, AnswerToken, CompareConfig, ExpertsInfo, Fidelity, LoadSeconds, ModelInfo,
    NextToken, PositionFidelity, Recall, RowsOf, Seconds, Summary,
};
pub use text::Covering;
pub(crate) use turns::is_divider;

use crate::error::Error;
use tensors::Tensors;

/// The sparse attention of a language model over one prompt, by layer and head.
///
/// Cheap to clone. The masks stay in the file and are read head by head as they are needed.
///
/// # Questions to a trace
///
/// | question | method |
/// |---|---|
/// | which settings, cost and result the run had | [`summary`](Trace::summary) |
/// | where a text stands | [`find`](Trace::find) |
/// | where a piece of the prompt stands | [`span`](Trace::span), [`sentences`](Trace::sentences) |
/// | which blocks a head keeps, with their mass | [`head`](Trace::head), [`mask`](Trace::mask) |
/// | where one token looks, key by key | [`attention_row`](Trace::attention_row) |
/// | which heads read a span | [`readers`](Trace::readers), [`retrieval_heads`](Trace::retrieval_heads) |
/// | where the chain of thought stands | [`chain`](Trace::chain) |
/// | which sentences later ones come back to | [`thought_anchors`](Trace::thought_anchors) |
/// | which tokens most heads look at from everywhere | [`sinks`](Trace::sinks) |
/// | which sentence looks at which | [`sentence_links`](Trace::sentence_links) |
/// | by which heads a span reaches the output | [`routes`](Trace::routes) |
/// | how it looks | [`overview`](Trace::overview), [`attention_map`](Trace::attention_map) |
/// | how much of dense attention it keeps | [`recall_map`](Trace::recall_map) |
/// | how to look around in it | [`explore`](Trace::explore) |
/// | its edges as a table | [`edges`](Trace::edges), [`sentence_edges`](Trace::sentence_edges) |
/// | how to keep it | [`save`](Trace::save), [`open`](Trace::open), [`of_layers`](Trace::of_layers) |
#[derive(Clone)]
pub struct Trace {
    summary: Summary,
    tensors: Arc<Tensors>,
}

impl Trace {
    /// Returns everything about the run but the masks.
    pub fn summary(&self) -> &Summary {
        &self.summary
    }

    pub fn n_tokens(&self) -> usize {
        self.summary.n_tokens
    }

    pub fn n_layers(&self) -> usize {
        self.summary.model.n_layers
    }

    pub fn n_heads(&self) -> usize {
        self.summary.model.n_heads
    }

    /// Returns the layers whose attention the trace holds, ascending: all, unless only some were asked for or
    /// arrived from an engine elsewhere ([`Tracer::connect`](crate::Tracer::connect)).
    pub fn layers(&self) -> &[usize] {
        &self.tensors.layers
    }

    /// Returns the prompt.
    pub fn text(&self) -> &str {
        self.tensors.text()
    }

    /// Returns the token ids. `[n_tokens]`
    pub fn tokens(&self) -> Result<Vec<u32>, Error> {
        self.tensors.u32s("tokens", 0..self.n_tokens())
    }

    /// Returns the blocks of a layer, with its sliding window if it has one.
    pub fn blocks(&self, layer: usize) -> Result<Blocks, Error> {
        self.check_layer(layer)?;
        Ok(self.summary.blocks(layer))
    }

    /// Returns one head's kept blocks and masses.
    ///
    /// # Errors
    /// [`Error::Missing`] for a layer or head out of range, [`Error::Trace`] when the file is damaged.
    pub fn head(&self, layer: usize, head: usize) -> Result<HeadTrace, Error> {
        let blocks = self.blocks(layer)?;
        self.check_head(head)?;
        let budgets = self.budgets(layer)?;
        let (n, t) = (blocks.n_query_blocks(), self.n_tokens());
        let kept = self.kept(layer, &budgets, (0..n).map(|query_block| (head, query_block)))?;
        Ok(HeadTrace {
            blocks,
            top_k: budgets.top_k(head),
            kept,
            mass: self.tensors.floats(&name(layer, "mass"), budgets.rows(head, n))?,
            received: self.tensors.floats(&name(layer, "received"), head * t..(head + 1) * t)?,
        })
    }

    /// Returns how many key blocks the query blocks of each head keep in a layer.
    ///
    /// # Errors
    /// As [`Trace::head`].
    pub fn budgets(&self, layer: usize) -> Result<Budgets, Error> {
        self.check_layer(layer)?;
        self.tensors.budgets(&self.summary, layer)
    }

    /// Returns the attention mass on each kept block of a layer; rows as in [`BlockMask::kept`].
    ///
    /// # Errors
    /// As [`Trace::head`].
    pub fn masses(&self, layer: usize) -> Result<Vec<f32>, Error> {
        let n = self.blocks(layer)?.n_query_blocks() * self.budgets(layer)?.sum();
        self.tensors.floats(&name(layer, "mass"), 0..n)
    }

    /// Returns the recall of each head of a layer: the share of its attention to all visible keys that falls
    /// on kept blocks, mean over the sampled query blocks of the run itself; `None` if none were sampled.
    /// `[n_heads]`
    ///
    /// # Errors
    /// As [`Trace::head`].
    pub fn recall(&self, layer: usize) -> Result<Option<Vec<f32>>, Error> {
        self.check_layer(layer)?;
        let is_told = self.summary.recall.is_some();
        is_told.then(|| self.tensors.floats(&name(layer, "recall"), 0..self.n_heads())).transpose()
    }

    /// Returns how much the key blocks of a head write to the residual stream when they get all attention:
    /// the mean of ‖W_O v‖ over a block's keys, weighted by what they received. `[n_key_blocks]`
    ///
    /// # Errors
    /// As [`Trace::vertical`].
    pub fn written(&self, layer: usize, head: usize) -> Result<Vec<f32>, Error> {
        let n = self.blocks(layer)?.n_key_blocks();
        self.check_head(head)?;
        self.recorded("what attention writes")?;
        self.tensors.floats(&name(layer, "written"), head * n..(head + 1) * n)
    }

    /// Returns the mean length of the residual stream before a layer, at the queries of each block.
    /// `[n_query_blocks]`
    ///
    /// # Errors
    /// As [`Trace::vertical`].
    pub fn residual(&self, layer: usize) -> Result<Vec<f32>, Error> {
        let n = self.blocks(layer)?.n_query_blocks();
        self.recorded("what attention writes")?;
        self.tensors.floats(&name(layer, "residual"), 0..n)
    }

    /// Returns the share of each kept block of a layer in the later residual stream of its query block, by L1
    /// proximity; the rest up to 1 is the share that stays. Rows as in [`BlockMask::kept`].
    ///
    /// # Errors
    /// As [`Trace::vertical`]; [`Error::Missing`] when the run did not record it.
    pub fn proximity(&self, layer: usize) -> Result<Vec<f32>, Error> {
        let n = self.blocks(layer)?.n_query_blocks() * self.budgets(layer)?.sum();
        self.recorded("what attention writes")?;
        if !self.summary.config.proximity {
            return Err(Error::missing(
                "proximity of layer",
                layer.to_string(),
                "it was not recorded; trace again with StreamConfig::proximity",
            ));
        }
        self.tensors.floats(&name(layer, "proximity"), 0..n)
    }

    /// Returns the vertical scores of the sentences in one head: the mean attention that each of
    /// [`Trace::sentences`] gets from those at least [`MIN_DISTANCE`] after it. Special tokens between turns and
    /// what follows the chain of thought take no part; theirs is NaN. `[n_sentences]`
    ///
    /// # Errors
    /// As [`Trace::head`], and [`Error::Trace`] for a file too old to hold it.
    pub fn vertical(&self, layer: usize, head: usize) -> Result<Vec<f32>, Error> {
        self.check_layer(layer)?;
        self.check_head(head)?;
        let n = self.recorded("vertical scores")?;
        self.tensors.floats(&name(layer, "vertical"), head * n..(head + 1) * n)
    }

    /// Returns the attention mass that some keys of a head received, summed over all queries. `[n_keys]`
    ///
    /// # Errors
    /// As [`Trace::head`].
    pub(crate) fn received(&self, layer: usize, head: usize, keys: Span) -> Result<Vec<f32>, Error> {
        let first = head * self.n_tokens();
        self.tensors.floats(&name(layer, "received"), first + keys.start..first + keys.end)
    }

    /// Returns the number of sentences, in a trace with the additions of version 2 of the file.
    fn recorded(&self, what: &str) -> Result<usize, Error> {
        self.tensors
            .n_sentences()
            .ok_or_else(|| self.tensors.damaged(&format!("a trace that holds {what}"), "version 1".into()))
    }

    /// Returns the kept blocks of a whole layer.
    ///
    /// # Errors
    /// As [`Trace::head`].
    pub fn mask(&self, layer: usize) -> Result<BlockMask, Error> {
        let mut mask =
            BlockMask { blocks: self.blocks(layer)?, budgets: self.budgets(layer)?, kept: Vec::new() };
        mask.kept = self.kept(layer, &mask.budgets, mask.rows())?;
        Ok(mask)
    }

    /// Returns the attention of one focus token, key by key: `(key token, probability)` for each key it could
    /// see in a kept block.
    ///
    /// # Errors
    /// [`Error::Missing`] for a layer or head out of range or a token outside the focus span.
    pub fn attention_row(&self, layer: usize, head: usize, token: usize) -> Result<Vec<(usize, f32)>, Error> {
        let blocks = self.blocks(layer)?;
        self.check_head(head)?;
        let focus = self.summary.focus;
        if !focus.range().contains(&token) {
            return Err(Error::missing(
                "row of token",
                token.to_string(),
                match focus.is_empty() {
                    true => "no rows were recorded; set StreamConfig::focus".into(),
                    false => {
                        format!(
                            "rows were recorded for tokens {} to {}; set StreamConfig::focus",
                            focus.start,
                            focus.end - 1
                        )
                    }
                },
            ));
        }
        let (budgets, bk) = (self.budgets(layer)?, blocks.block_size_k);
        let kept = self.kept(layer, &budgets, [(head, token / blocks.block_size_q)].into_iter())?;
        let row = budgets.row(head, token - focus.start, focus.len());
        let probabilities = self.tensors.floats(&name(layer, "focus"), row.start * bk..row.end * bk)?;
        let visible = blocks.visible_keys(token);
        Ok(kept
            .iter()
            .take_while(|&&b| b != BlockMask::NONE)
            .flat_map(|&b| b as usize * bk..(b as usize + 1) * bk)
            .zip(probabilities)
            .filter(|(key, _)| visible.contains(key))
            .collect())
    }

    /// Returns the kept blocks of rows of a layer that lie one after the other: `(head, query block)`.
    fn kept(
        &self,
        layer: usize,
        budgets: &Budgets,
        rows: impl Iterator<Item = (usize, usize)> + Clone,
    ) -> Result<Vec<u32>, Error> {
        let (blocks, name) = (self.summary.blocks(layer), name(layer, "kept"));
        let place = |(head, query_block)| budgets.row(head, query_block, blocks.n_query_blocks());
        let mut places = rows.clone().map(place);
        let Some(first) = places.next() else { return Ok(Vec::new()) };
        let end = places.last().map_or(first.end, |last| last.end);
        let kept = self.tensors.indices(&name, first.start..end)?;
        for (head, query_block) in rows {
            let row = place((head, query_block));
            let row = &kept[row.start - first.start..row.end - first.start];
            if !BlockMask::is_row(&blocks, query_block, row) {
                let seen = blocks.visible(query_block);
                let expected = format!(
                    "blocks {seen:?} in ascending order in head {head}, query block {query_block} of {name}"
                );
                return Err(self.tensors.damaged(&expected, format!("{row:?}")));
            }
        }
        Ok(kept)
    }

    /// Returns the logits of the token after the prompt. `[vocab_size]`
    pub fn logits(&self) -> Result<Vec<f32>, Error> {
        self.tensors.floats("logits", 0..self.summary.model.vocab_size)
    }

    /// Returns the same trace with the result of a comparison with dense attention.
    pub fn with_fidelity(&self, fidelity: Fidelity) -> Self {
        let mut trace = self.clone();
        trace.summary.fidelity = Some(fidelity);
        trace
    }

    fn check_layer(&self, layer: usize) -> Result<(), Error> {
        in_range("layer", layer, self.n_layers())?;
        match self.layers().binary_search(&layer) {
            Ok(_) => Ok(()),
            Err(_) => Err(Error::missing(
                "layer",
                layer.to_string(),
                format!("this trace holds layers {:?}; trace the prompt again for others", self.layers()),
            )),
        }
    }

    pub(crate) fn check_head(&self, head: usize) -> Result<(), Error> {
        in_range("head", head, self.n_heads())
    }

    /// Returns a span of at least one token that ends within the prompt; `what` names it in the error.
    pub(crate) fn checked(&self, what: &str, span: Span) -> Result<Span, Error> {
        if span.start < span.end && span.end <= self.n_tokens() {
            return Ok(span);
        }
        Err(Error::missing(
            what,
            format!("{}..{}", span.start, span.end),
            format!("the prompt has tokens 0..{}, and a span at least one of them", self.n_tokens()),
        ))
    }
}

fn in_range(what: &str, index: usize, len: usize) -> Result<(), Error> {
    let valid: Range<usize> = 0..len;
    if valid.contains(&index) {
        return Ok(());
    }
    Err(Error::missing(what, index.to_string(), format!("choose 0 to {}", len.saturating_sub(1))))
}

/// Returns the name of a layer's tensor in the file.
fn name(layer: usize, tensor: &str) -> String {
    format!("layers.{layer}.{tensor}")
}
