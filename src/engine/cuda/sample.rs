//! Sampled query blocks on a GPU: what they look at, and how much of it their kept blocks hold.

use std::sync::Arc;

use super::{
    array::Array,
    gpu::Gpu,
    launch::{Settings, rule, sizes},
    params::{HistogramParams, Mask, SampleParams, SampleRecallParams},
    tensor::Tensor,
};
use crate::{
    engine::{
        device::{AttentionShape, Coming},
        search::{by_head::Survey, sample::Histogram},
    },
    error::Error,
};

/// 1 as a mass.
const WHOLE: f32 = (1u32 << 31) as f32;

/// Masses of a layer's sampled query blocks.
pub struct Sampled {
    sample: Vec<usize>,
    on_card: Array<u32>,
    /// Blocks that were read so far.
    n_read: usize,
    /// Mean mass of the queries on each key block; 2³¹ is 1. `[n_sampled, n_heads, n_key_blocks]`
    masses: Array<u32>,
}

impl Sampled {
    /// Makes room for the query blocks that a run samples on this card.
    pub fn new(gpu: &Gpu, shape: &AttentionShape) -> Result<Self, Error> {
        let sample = shape.sampled();
        let on_card = gpu.upload(&sample.iter().map(|&block| block as u32).collect::<Vec<_>>())?;
        let masses = gpu.zeros(sample.len() * shape.n_heads * shape.blocks.n_key_blocks())?;
        Ok(Sampled { sample, on_card, n_read: 0, masses })
    }

    /// Returns whether the query blocks are the next ones of the sample.
    pub fn expects(&self, query_blocks: &[usize]) -> bool {
        self.sample[self.n_read..].starts_with(query_blocks)
    }

    /// Reads every key for the next `n` query blocks, whose rows the queries are.
    pub fn read(
        &mut self,
        gpu: &Gpu,
        shape: &AttentionShape,
        settings: &Settings,
        queries: &Tensor,
        n: usize,
        keys: &Array<u16>,
    ) -> Result<(), Error> {
        let n_key_blocks = shape.blocks.n_key_blocks();
        let n_segments = settings.segments(n, n_key_blocks);
        let norms = gpu.alloc::<f32>(shape.n_heads * n * n_segments * shape.blocks.block_size_q)?;
        let params = SampleParams {
            queries: gpu.pointer(&queries.data),
            keys: gpu.pointer(keys),
            sample: gpu.pointer_at(&self.on_card, self.n_read),
            norms: gpu.pointer(&norms),
            masses: gpu.pointer_at(&self.masses, self.n_read * shape.n_heads * n_key_blocks),
            sizes: sizes(shape),
            n_segments: n_segments as i32,
        };
        for entry in ["sample_norms", "sample_masses"] {
            let (kernel, work) = settings.sample(entry, n * n_segments);
            // SAFETY: as the header of kernels/sample.cu says; the masses have room for each sampled block.
            unsafe { gpu.launch(&kernel, work, &params)? };
        }
        self.n_read += n;
        Ok(())
    }

    /// Starts to count what the sampled query blocks look at; a call waits for it.
    pub fn survey(
        &self,
        gpu: &Arc<Gpu>,
        shape: &AttentionShape,
        settings: &Settings,
    ) -> Result<Coming<Survey>, Error> {
        let (sample, n_heads) = (self.sample.clone(), shape.n_heads);
        let len = n_heads * sample.len() * Histogram::BINS;
        // Counts, then masses: one copy takes less time than two.
        let of_bins = gpu.alloc::<u32>(2 * len)?;
        let params = HistogramParams {
            masses: gpu.pointer(&self.masses),
            sample: gpu.pointer(&self.on_card),
            counts: gpu.pointer(&of_bins),
            sums: gpu.pointer_at(&of_bins, len),
            sizes: sizes(shape),
            rule: rule(shape),
        };
        let (kernel, work) = settings.sample("sample_histogram", sample.len());
        // SAFETY: as the header of kernels/sample.cu says.
        unsafe { gpu.launch(&kernel, work, &params)? };
        let (gpu, done) = (gpu.clone(), gpu.mark()?);
        Ok(Box::new(move || {
            let of_bins = gpu.answer(&done, &of_bins, 2 * len)?;
            let (counts, sums) = of_bins.split_at(len);
            let histogram = |at: usize| {
                let of = |numbers: &[u32]| std::array::from_fn(|i| numbers[at * Histogram::BINS + i]);
                let masses: [u32; Histogram::BINS] = of(sums);
                Histogram { counts: of(counts), masses: masses.map(|sum| sum as f32 / WHOLE) }
            };
            let of_head =
                |head: usize| (0..sample.len()).map(|i| histogram(head * sample.len() + i)).collect();
            Ok(Survey { heads: (0..n_heads).map(of_head).collect(), sample })
        }))
    }

    /// Returns the mass on the kept blocks of each sampled query block; 2³¹ is 1. `[n_heads, n_sampled]`
    pub fn recall(
        &self,
        gpu: &Gpu,
        shape: &AttentionShape,
        settings: &Settings,
        mask: Mask,
    ) -> Result<Array<u32>, Error> {
        let n = self.sample.len();
        let recall = gpu.zeros::<u32>(shape.n_heads * n)?;
        let params = SampleRecallParams {
            masses: gpu.pointer(&self.masses),
            sample: gpu.pointer(&self.on_card),
            recall: gpu.pointer(&recall),
            mask,
            sizes: sizes(shape),
        };
        let (kernel, work) = settings.sample("sample_recall", n);
        // SAFETY: as the header of kernels/sample.cu says.
        unsafe { gpu.launch(&kernel, work, &params)? };
        Ok(recall)
    }

    /// Returns the mean of what [`Sampled::recall`] gives for each head. `[n_heads]`
    pub fn means(recall: &[u32], n_heads: usize) -> Vec<f32> {
        let n = recall.len() / n_heads.max(1);
        let mean = |recall: &[u32]| recall.iter().map(|&r| r as f32 / WHOLE).sum::<f32>() / n as f32;
        recall.chunks(n.max(1)).map(mean).collect()
    }
}
