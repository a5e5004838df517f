//! Vertical scores of one layer on a GPU: what every token received of its sentence's share, and the means
//! over sentences.

use super::{
    array::Array,
    gpu::Gpu,
    module::{Kernel, Work},
    params::{self, SentenceParams, VerticalParams},
};
use crate::{engine::device::AttentionShape, error::Error, trace::MIN_DISTANCE};

pub struct Anchors {
    /// First token and end of each sentence. `[n_sentences, 2]`
    spans: Array<u32>,
    n_sentences: usize,
    /// Of each token where the sentences end that count for it, and 1 / tokens of its own; both 0 between sentences.
    /// `[n_tokens]`
    limit: Array<u32>,
    weight: Array<f32>,
    /// `[n_heads, n_tokens]`
    received: Array<f32>,
}

impl Anchors {
    /// Makes an empty record; `None` if no sentences are recorded.
    pub fn new(gpu: &Gpu, shape: &AttentionShape) -> Result<Option<Self>, Error> {
        let n_sentences = shape.sentences.len();
        let n_tokens = shape.blocks.n_tokens;
        if n_sentences == 0 {
            return Ok(None);
        }
        let spans: Vec<u32> = shape.sentences.iter().flat_map(|s| [s.start as u32, s.end as u32]).collect();
        let anchors = Anchors {
            spans: gpu.upload(&spans)?,
            n_sentences,
            limit: gpu.zeros(n_tokens)?,
            weight: gpu.zeros(n_tokens)?,
            received: gpu.zeros(shape.n_heads * n_tokens)?,
        };
        let params = SentenceParams {
            spans: gpu.pointer(&anchors.spans),
            limit: gpu.pointer(&anchors.limit),
            weight: gpu.pointer(&anchors.weight),
            n_sentences: n_sentences as i32,
            distance: MIN_DISTANCE as i32,
        };
        let kernel = Kernel::new("sentences", "sentences_of_tokens");
        // SAFETY: as the header of kernels/sentences.cu says; the spans are of the prompt's tokens.
        unsafe { gpu.launch(&kernel, Work::new(n_sentences, 1), &params)? };
        Ok(Some(anchors))
    }

    /// Returns the parameters of the kernels that record attention; null without anchors.
    pub fn params(anchors: Option<&Self>, gpu: &Gpu) -> params::Anchors {
        params::Anchors {
            limit: anchors.map(|anchors| gpu.pointer(&anchors.limit)),
            weight: anchors.map(|anchors| gpu.pointer(&anchors.weight)),
            received: anchors.map(|anchors| gpu.pointer(&anchors.received)),
        }
    }

    /// Returns the vertical scores. `[n_heads, n_sentences]`
    pub fn vertical(&self, gpu: &Gpu, shape: &AttentionShape) -> Result<Array<f32>, Error> {
        let out = gpu.alloc::<f32>(shape.n_heads * self.n_sentences)?;
        let params = VerticalParams {
            anchors: gpu.pointer(&self.received),
            spans: gpu.pointer(&self.spans),
            out: gpu.pointer(&out),
            n_tokens: shape.blocks.n_tokens as i32,
            n_sentences: self.n_sentences as i32,
            distance: MIN_DISTANCE as i32,
        };
        let kernel = Kernel::new("sentences", "vertical_scores");
        // SAFETY: as the header of kernels/sentences.cu says.
        unsafe { gpu.launch(&kernel, Work::new(self.n_sentences, shape.n_heads), &params)? };
        Ok(out)
    }
}
