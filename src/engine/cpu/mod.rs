//! The decoder's operations on the CPU: products and norms by candle, search, attention and activation by our
//! own vector code, in parallel over heads and query blocks by rayon. Everything is f32, whatever the weights
//! are stored in.

pub mod attend;
pub mod lanes;
mod layer;
pub mod memory;
mod proximity;
pub mod queries;
pub mod search;

use std::ops::Range;

use candle_core::{D, DType, Tensor, safetensors::Load};
use rayon::prelude::*;
use safetensors::tensor::TensorView;

use super::{
    device::{AttentionShape, Device, Purpose, TOO_LARGE},
    model::{
        config::{Activation, ModelConfig},
        rope::Rotary,
        weight::Weight,
    },
};
use crate::{error::Error, protocol::MemoryPlan, trace::StreamConfig};
use lanes::{geglu, swiglu, vectorized};
pub use layer::Layer;

/// Numbers that one thread works on at a time.
const PART: usize = 1 << 15;

/// The processor that this program runs on.
pub struct Cpu;

/// The residual stream between layers.
pub struct Residual {
    chunks: Vec<Tensor>,
    /// Whether all numbers put so far are finite.
    is_finite: bool,
}

/// Cosines and sines of every position. `[n_tokens, n_rotated / 2]`
pub struct Angles {
    cos: Tensor,
    sin: Tensor,
    head_dim: usize,
}

impl From<candle_core::Error> for Error {
    fn from(e: candle_core::Error) -> Self {
        let text = e.to_string();
        Error::device(
            "cpu",
            text.lines().next().unwrap_or_default(),
            "please report this with the model's config.json",
        )
    }
}

/// Calls `work` with the numbers of a contiguous f32 tensor.
fn with_slice<R>(x: &Tensor, work: impl FnOnce(&[f32]) -> R) -> Result<R, Error> {
    let (storage, layout) = x.storage_and_layout();
    match (&*storage, layout.contiguous_offsets()) {
        (candle_core::Storage::Cpu(storage), Some((start, end))) => {
            Ok(work(&storage.as_slice::<f32>()?[start..end]))
        }
        _ => Err(candle_core::Error::Msg("a tensor that is not contiguous on the CPU".into()).into()),
    }
}

/// Whether all numbers are below [`TOO_LARGE`].
fn has_norm(x: &Tensor) -> Result<bool, Error> {
    with_slice(x, |x| x.iter().all(|v| v.abs() < TOO_LARGE))
}

impl Device for Cpu {
    type Tensor = Tensor;
    type Residual = Residual;
    type Angles = Angles;
    type Layer = Layer;

    fn name(&self) -> String {
        "cpu".into()
    }

    fn plan(
        &self,
        model: &ModelConfig,
        n_tokens: usize,
        config: &StreamConfig,
        purpose: Purpose,
        limit: Option<u64>,
        _: u64,
    ) -> Result<MemoryPlan, Error> {
        Ok(memory::plan(model, n_tokens, config, purpose, limit))
    }

    fn reserve(&self, _: u64) -> Result<(), Error> {
        memory::reset_peak();
        Ok(())
    }

    fn peak(&self) -> u64 {
        memory::peak()
    }

    fn tensor(&self, numbers: &TensorView) -> Result<Tensor, Error> {
        Ok(numbers.load(&candle_core::Device::Cpu)?.to_dtype(DType::F32)?)
    }

    fn weight(&self, weight: &Weight) -> Result<Tensor, Error> {
        self.tensor(&weight.read()?.view())
    }

    fn refill(&self, room: &mut Tensor, weight: &Weight) -> Result<(), Error> {
        *room = self.weight(weight)?;
        Ok(())
    }

    fn residual(&self, _: bool) -> Result<Residual, Error> {
        Ok(Residual { chunks: Vec::new(), is_finite: true })
    }

    fn put(&self, residual: &mut Residual, i: usize, x: Tensor) -> Result<(), Error> {
        residual.is_finite &= has_norm(&x)?;
        match residual.chunks.get_mut(i) {
            Some(chunk) => *chunk = x,
            None => residual.chunks.push(x),
        }
        Ok(())
    }

    fn chunk(&self, residual: &Residual, i: usize) -> Result<Tensor, Error> {
        Ok(residual.chunks[i].clone())
    }

    fn is_finite(&self, residual: &Residual) -> Result<bool, Error> {
        Ok(residual.is_finite)
    }

    fn rms_norm(&self, x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor, Error> {
        // What has no norm must be found, and not become 0.
        let x = if has_norm(x)? { x.clone() } else { (x * f64::NAN)? };
        Ok(candle_nn::ops::rms_norm(&x, weight, eps as f32)?)
    }

    fn linear(&self, x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor, Error> {
        let y = x.matmul(&weight.t()?)?;
        Ok(match bias {
            Some(bias) => y.broadcast_add(bias)?,
            None => y,
        })
    }

    fn gated(&self, gate: &Tensor, up: &Tensor, activation: Activation) -> Result<Tensor, Error> {
        let mut out = vec![0.0; gate.elem_count()];
        with_slice(gate, |gate| {
            with_slice(up, |up| {
                let parts = out.par_chunks_mut(PART).zip(gate.par_chunks(PART)).zip(up.par_chunks(PART));
                parts.for_each(|((out, gate), up)| {
                    vectorized(
                        #[inline(always)]
                        || match activation {
                            Activation::Silu => swiglu(gate, up, out),
                            Activation::GeluTanh => geglu(gate, up, out),
                        },
                    )
                });
            })
        })??;
        Ok(Tensor::from_vec(out, gate.shape(), gate.device())?)
    }

    fn add(&self, x: &Tensor, y: &Tensor) -> Result<Tensor, Error> {
        Ok((x + y)?)
    }

    fn angles(&self, n_tokens: usize, rotary: &Rotary) -> Result<Angles, Error> {
        let table = |trigonometric: fn(f64) -> f64| {
            let row = |t: usize| {
                let angle = move |f: &f64| (rotary.scale * trigonometric(t as f64 * f)) as f32;
                rotary.inverse_frequencies.iter().map(angle)
            };
            Tensor::from_iter((0..n_tokens).flat_map(row), &candle_core::Device::Cpu)?
                .reshape((n_tokens, rotary.inverse_frequencies.len()))
        };
        Ok(Angles { cos: table(f64::cos)?, sin: table(f64::sin)?, head_dim: rotary.head_dim })
    }

    fn rope(
        &self,
        x: &Tensor,
        norm: Option<(&Tensor, f64)>,
        first_position: usize,
        angles: &Angles,
        scale: f32,
    ) -> Result<Tensor, Error> {
        let (n_rows, width) = x.dims2()?;
        let Angles { cos, sin, head_dim } = angles;
        let mut x = x.reshape((1, n_rows, width / head_dim, *head_dim))?;
        if let Some((weight, eps)) = norm {
            x = self.rms_norm(&x, weight, eps)?;
        }
        let [cos, sin] = [cos, sin].map(|table| table.narrow(0, first_position, n_rows));
        let cos = cos?;
        let sin = sin?;
        let n_rotated = 2 * cos.dim(D::Minus1)?;
        let rotated =
            candle_nn::rotary_emb::rope_thd(&x.narrow(D::Minus1, 0, n_rotated)?.contiguous()?, &cos, &sin)?;
        let x = match head_dim - n_rotated {
            0 => rotated,
            n => Tensor::cat(&[&rotated, &x.narrow(D::Minus1, n_rotated, n)?], D::Minus1)?,
        };
        let x = if scale == 1.0 { x } else { (x * scale as f64)? };
        Ok(x.reshape((n_rows, width))?)
    }

    fn rows(&self, x: &Tensor, rows: Range<usize>) -> Result<Tensor, Error> {
        Ok(x.narrow(0, rows.start, rows.len())?.contiguous()?)
    }

    fn to_host(&self, x: &Tensor) -> Result<Vec<f32>, Error> {
        Ok(x.flatten_all()?.to_vec1()?)
    }

    fn lengths(&self, x: &Tensor) -> Result<Vec<f32>, Error> {
        let width = x.dim(D::Minus1)?;
        with_slice(x, |x| x.chunks(width).map(|row| row.iter().map(|v| v * v).sum::<f32>().sqrt()).collect())
    }

    fn layer(&self, shape: AttentionShape) -> Result<Layer, Error> {
        Ok(Layer::new(shape))
    }
}
