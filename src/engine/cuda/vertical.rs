//! Vertical scores of one layer on a GPU: what every token received of its sentence's share, and the means over sentences.

use cudarc::driver::CudaSlice;

use super::gpu::{Arg, Gpu, Kernel, Launch};
use crate::{engine::device::AttentionShape, error::Error, trace::MIN_DISTANCE};

pub struct Anchors {
    /// First token and end of each sentence. `[n_sentences, 2]`
    spans: CudaSlice<u32>,
    n_sentences: usize,
    /// The sentence of each token, and 1 / tokens of that sentence. `[n_tokens]`
    sentence: CudaSlice<u32>,
    weight: CudaSlice<f32>,
    /// `[n_heads, n_tokens]`
    received: CudaSlice<f32>,
}

/// Sentences of one thread block of kernels/sentences.cu.
const SENTENCES: usize = 8;

fn kernel(entry: &'static str, n_sentences: usize, n_heads: usize) -> (Kernel, Launch) {
    let launch =
        Launch { grid: (n_sentences.div_ceil(SENTENCES), n_heads), block: (32 * SENTENCES, 1), shared: 0 };
    (Kernel { file: "sentences", entry, macros: Vec::new() }, launch)
}

impl Anchors {
    /// Nothing if no sentences are recorded.
    pub fn new(gpu: &Gpu, shape: &AttentionShape) -> Result<Option<Self>, Error> {
        let (n_sentences, n_tokens) = (shape.sentences.len(), shape.blocks.n_tokens);
        if n_sentences == 0 {
            return Ok(None);
        }
        let spans: Vec<u32> = shape.sentences.iter().flat_map(|s| [s.start as u32, s.end as u32]).collect();
        let (spans, sentence, weight) = (gpu.upload(&spans)?, gpu.alloc(n_tokens)?, gpu.alloc(n_tokens)?);
        let args =
            [gpu.pointer(&spans), gpu.pointer(&sentence), gpu.pointer(&weight), Arg::Int(n_sentences as i32)];
        let (kernel, launch) = kernel("sentences_of_tokens", n_sentences, 1);
        // SAFETY: as the header of kernels/sentences.cu says.
        unsafe { gpu.launch(&kernel, launch, &args)? };
        Ok(Some(Anchors {
            spans,
            n_sentences,
            sentence,
            weight,
            received: gpu.zeros(shape.n_heads * n_tokens)?,
        }))
    }

    /// Sentences, weights and what is received, as kernels/attention_record.cu takes them.
    pub fn args(&self, gpu: &Gpu) -> [Arg; 3] {
        [gpu.pointer(&self.sentence), gpu.pointer(&self.weight), gpu.pointer(&self.received)]
    }

    /// `[n_heads, n_sentences]`
    pub fn vertical(&self, gpu: &Gpu, shape: &AttentionShape) -> Result<Vec<f32>, Error> {
        let out = gpu.alloc::<f32>(shape.n_heads * self.n_sentences)?;
        let numbers = [shape.blocks.n_tokens, self.n_sentences, MIN_DISTANCE].map(|n| Arg::Int(n as i32));
        let pointers = [gpu.pointer(&self.received), gpu.pointer(&self.spans), gpu.pointer(&out)];
        let (kernel, launch) = kernel("vertical_scores", self.n_sentences, shape.n_heads);
        // SAFETY: as the header of kernels/sentences.cu says.
        unsafe { gpu.launch(&kernel, launch, &[&pointers[..], &numbers].concat())? };
        gpu.download(&out, shape.n_heads * self.n_sentences)
    }
}
