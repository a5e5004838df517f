//! What each stage of a layer takes on this card: for `streamtrace bench`.

use cudarc::driver::sys::CUevent_flags;
use serde::Serialize;

use super::{Cuda, Tensor};
use crate::{
    config::StreamConfig,
    device::{AttentionShape, Device},
    error::Error,
    model::config::Activation,
    trace::{Blocks, Span},
};

/// The shape of a decoder's layers.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct LayerShape {
    pub n_heads: usize,
    pub n_kv_heads: usize,
    pub head_dim: usize,
    pub hidden_size: usize,
    pub intermediate_size: usize,
}

/// One stage of one layer over a whole prompt.
#[derive(Clone, Debug, Serialize)]
pub struct Stage {
    pub name: &'static str,
    /// Median of the runs.
    pub milliseconds: f64,
    /// Floating-point operations of the products, 10¹² a second; 0 for stages that only move numbers.
    pub tflops: f64,
    /// Bytes read and written once, 10⁹ a second.
    pub gigabytes_per_second: f64,
}

/// Rows that products and copies are timed on.
const ROWS: usize = 8192;

/// Times the stages of a layer over `n_tokens` random tokens.
///
/// # Errors
/// [`Error::Device`] and [`Error::Setting`] when the card has no room or no kernels for it.
pub fn layer(
    cuda: &Cuda,
    shape: LayerShape,
    n_tokens: usize,
    config: &StreamConfig,
    repeats: usize,
) -> Result<Vec<Stage>, Error> {
    let LayerShape { n_heads, n_kv_heads, head_dim, hidden_size, intermediate_size } = shape;
    let blocks = Blocks { n_tokens, block_size_q: config.block_size_q, block_size_k: config.block_size_k, window: None };
    let focus = Span::from(n_tokens.saturating_sub(StreamConfig::DEFAULT_FOCUS)..n_tokens);
    let mut attention = cuda.attention(AttentionShape {
        blocks,
        capacity: n_tokens,
        n_heads,
        n_kv_heads,
        head_dim,
        config: config.clone(),
        soft_cap: None,
        focus,
        sentences: [].into(),
    })?;
    let queries = random(cuda, n_tokens, n_heads * head_dim)?;
    let (keys, values) = (random(cuda, n_tokens, n_kv_heads * head_dim)?, random(cuda, n_tokens, n_kv_heads * head_dim)?);
    cuda.append(&mut attention, &keys, &values)?;
    let timer = Timer { cuda, repeats };
    let of_keys = 2 * keys.len() as u64;
    let kept = (n_tokens * config.top_k * config.block_size_k * n_heads * head_dim) as f64;

    let of_pyramid = 4 * of_keys / config.block_size_k as u64;
    let mut stages = vec![timer.stage("pyramid", 0.0, of_keys + of_pyramid, || attention.index(&cuda.gpu))?];
    stages.push(timer.stage("search", 0.0, 0, || attention.search(&cuda.gpu, &queries, 0).map(drop))?);
    stages.push(timer.stage("attention and record", 6.0 * kept, 0, || attention.attend(&cuda.gpu, &queries, 0).map(drop))?);
    drop((attention, queries, keys, values));

    let rows = n_tokens.min(ROWS);
    let whole = n_tokens as f64 / rows as f64;
    let x = random(cuda, rows, hidden_size)?;
    let (gate, up) = (random(cuda, rows, intermediate_size)?, random(cuda, rows, intermediate_size)?);
    let width = (2 * n_heads + 2 * n_kv_heads) * head_dim + 3 * intermediate_size;
    let weight = random(cuda, width, hidden_size)?;
    let flops = 2.0 * (rows * width * hidden_size) as f64;
    stages.push(timer.stage("products", flops, 0, || cuda.linear(&x, &weight, None).map(drop))?.times(whole));
    let bytes = 6 * gate.len() as u64;
    stages.push(timer.stage("swiglu", 0.0, bytes, || cuda.gated(&gate, &up, Activation::Silu).map(drop))?.times(whole));
    let host = vec![0u8; 2 * weight.len()];
    let mut copy = Tensor::new(&cuda.gpu, width, hidden_size)?;
    stages.push(timer.stage("weights to the card", 0.0, host.len() as u64, || cuda.gpu.upload_bytes(&host, &mut copy.data))?);
    Ok(stages)
}

impl Stage {
    /// The same stage over more rows, at the same rates.
    fn times(self, factor: f64) -> Self {
        Stage { milliseconds: self.milliseconds * factor, ..self }
    }
}

struct Timer<'a> {
    cuda: &'a Cuda,
    repeats: usize,
}

impl Timer<'_> {
    /// The median time of `run` on the card, after one run to warm up.
    fn stage(
        &self,
        name: &'static str,
        flops: f64,
        bytes: u64,
        mut run: impl FnMut() -> Result<(), Error>,
    ) -> Result<Stage, Error> {
        let gpu = &self.cuda.gpu;
        let event = || {
            gpu.stream.record_event(Some(CUevent_flags::CU_EVENT_DEFAULT)).map_err(|e| gpu.failed("a time cannot be taken", e))
        };
        run()?;
        let mut times = Vec::new();
        for _ in 0..self.repeats.max(1) {
            let start = event()?;
            run()?;
            let end = event()?;
            times.push(f64::from(start.elapsed_ms(&end).map_err(|e| gpu.failed("a time cannot be taken", e))?));
        }
        times.sort_by(f64::total_cmp);
        let milliseconds = times[times.len() / 2];
        Ok(Stage {
            name,
            milliseconds,
            tflops: flops / milliseconds / 1e9,
            gigabytes_per_second: bytes as f64 / milliseconds / 1e6,
        })
    }
}

/// Numbers of mean 0 and spread 1, evenly distributed.
fn random(cuda: &Cuda, n_rows: usize, width: usize) -> Result<Tensor, Error> {
    let mut random = fastrand::Rng::with_seed(n_rows as u64 ^ width as u64);
    let mut tensor = Tensor::new(&cuda.gpu, n_rows, width)?;
    // A million different numbers again and again: as good for timing, and made a hundred times faster.
    let piece: Vec<u8> =
        (0..(1usize << 20) + 24).flat_map(|_| half::bf16::from_f32(3.4641 * (random.f32() - 0.5)).to_le_bytes()).collect();
    let bytes: Vec<u8> = piece.iter().copied().cycle().take(2 * tensor.len()).collect();
    cuda.gpu.upload_bytes(&bytes, &mut tensor.data)?;
    Ok(tensor)
}
