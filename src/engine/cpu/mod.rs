//! The decoder's operations on the CPU: products by gemm, norms, search, attention and activation by our own
//! code, in parallel over heads, query blocks and rows by rayon. Everything is f32, whatever the weights
//! are stored in, but for what the search reads, in bf16; only the few rows of a step of writing are multiplied with
//! the blocks themselves.

mod activations;
pub mod attend;
pub mod bf16;
pub mod blocks;
mod experts;
pub mod exponentials;
pub mod lanes;
mod layer;
mod linear;
pub mod memory;
mod never;
mod norm;
mod one_query;
mod parts;
mod proximity;
pub mod queries;
mod record;
mod rope;
pub mod search;
mod step;
mod sums;
mod tensor;

use std::{ops::Range, sync::Arc};

use candle_core::{D, DType, Tensor as Numbers, safetensors::Load};
use rayon::prelude::*;
use safetensors::tensor::TensorView;

use super::{
    device::{AttentionShape, Device, Purpose, Room, Routes},
    model::{
        Linear,
        config::{Activation, ModelConfig},
        experts::Routing,
        rope::Rotary,
        weight::Weight,
    },
};
use crate::{error::Error, protocol::MemoryPlan, trace::StreamConfig};
use activations::{clamped_swiglu, geglu, swiglu};
use blocks::Blocks;
use experts::{add_scattered, gathered, times_sigmoid};
use lanes::vectorized;
pub use layer::Layer;
use never::Never;
use parts::in_parts;
use rope::Rotation;
pub use tensor::Tensor;
use tensor::with_slice;

/// Numbers that one thread works on at a time.
const PART: usize = 1 << 15;

/// The processor that this program runs on.
pub struct Cpu;

/// The residual stream between layers.
pub struct Residual {
    chunks: Vec<Numbers>,
    /// Whether all numbers put so far are finite.
    is_finite: bool,
}

/// Cosines and sines of every position. `[n_tokens, n_rotated / 2]`
pub struct Angles {
    cos: Numbers,
    sin: Numbers,
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

/// Whether all numbers are below [`TOO_LARGE`](super::device::TOO_LARGE).
fn has_norm(x: &Tensor) -> Result<bool, Error> {
    with_slice(x, |x| x.par_chunks(PART).all(norm::has_norm))
}

/// Returns some rows, one stretch after the other.
fn stretches_of(x: &Numbers, stretches: &[Range<usize>]) -> candle_core::Result<Numbers> {
    match stretches {
        [rows] => x.narrow(0, rows.start, rows.len()),
        _ => {
            let parts = stretches.iter().map(|rows| x.narrow(0, rows.start, rows.len()));
            Numbers::cat(&parts.collect::<candle_core::Result<Vec<_>>>()?, 0)
        }
    }
}

impl Device for Cpu {
    type Tensor = Tensor;
    type Residual = Residual;
    type Mark = bool;
    type Angles = Angles;
    type Layer = Layer;
    type Routes = Routes;
    type Repeater = Never;
    const STEPS: bool = true;

    fn name(&self) -> String {
        "cpu".into()
    }

    fn plan(
        &self,
        model: &ModelConfig,
        n_tokens: usize,
        config: &StreamConfig,
        purpose: Purpose,
        room: Room,
    ) -> Result<MemoryPlan, Error> {
        Ok(memory::plan(model, n_tokens, config, purpose, room.limit, room.n_ranks))
    }

    fn reserve(&self, _: u64) -> Result<(), Error> {
        memory::reset_peak();
        Ok(())
    }

    fn peak(&self) -> u64 {
        memory::peak()
    }

    fn tensor(&self, numbers: &TensorView) -> Result<Tensor, Error> {
        Ok(numbers.load(&candle_core::Device::Cpu)?.to_dtype(DType::F32)?.into())
    }

    fn weight(&self, weight: &Weight) -> Result<Tensor, Error> {
        let numbers = match weight.in_file().and_then(Blocks::new) {
            Some(blocks) => Tensor::of_rows(blocks.numbers(), weight.shape()[1]),
            None => self.tensor(&weight.read()?.view()),
        };
        weight.give_back();
        numbers
    }

    fn weight_in_file(&self, weight: &Weight) -> Result<Tensor, Error> {
        match weight.in_file().and_then(Blocks::new) {
            Some(blocks) => Ok(Tensor::Blocks(Arc::new(blocks))),
            None => self.weight(weight),
        }
    }

    /// Nothing yet: a weight is converted into memory of its own.
    fn room(&self, _: &Weight) -> Result<Tensor, Error> {
        Tensor::of_rows(Vec::new(), 1)
    }

    fn residual(&self, _: bool) -> Result<Residual, Error> {
        Ok(Residual { chunks: Vec::new(), is_finite: true })
    }

    fn put(&self, residual: &mut Residual, i: usize, x: Tensor) -> Result<(), Error> {
        residual.is_finite &= has_norm(&x)?;
        let x = x.numbers()?.clone();
        match residual.chunks.get_mut(i) {
            Some(chunk) => *chunk = x,
            None => residual.chunks.push(x),
        }
        Ok(())
    }

    fn chunk(&self, residual: &Residual, i: usize) -> Result<Tensor, Error> {
        Ok(residual.chunks[i].clone().into())
    }

    fn mark(&self, residual: &mut Residual) -> Result<bool, Error> {
        Ok(residual.is_finite)
    }

    fn is_finite(&self, mark: bool) -> Result<bool, Error> {
        Ok(mark)
    }

    fn rms_norm(&self, x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor, Error> {
        let width = x.numbers()?.dim(D::Minus1)?;
        let normed = |x: &[f32], weight: &[f32]| norm::rms_norm(x, weight, eps as f32);
        Tensor::of_rows(with_slice(x, |x| with_slice(weight, |weight| normed(x, weight)))??, width)
    }

    fn linear(&self, x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor, Error> {
        let y = match weight {
            Tensor::Numbers(numbers) => {
                let (n_out, n_in) = numbers.dims2()?;
                let product =
                    with_slice(x, |x| with_slice(weight, |weight| linear::times(x, weight, n_in)))??;
                Tensor::of_rows(product, n_out)?
            }
            Tensor::Blocks(blocks) => {
                Tensor::of_rows(with_slice(x, |x| blocks.multiply(x))?, blocks.n_out())?
            }
        };
        Ok(match bias {
            Some(bias) => y.numbers()?.broadcast_add(bias.numbers()?)?.into(),
            None => y,
        })
    }

    fn gated(&self, gate: &Tensor, up: &Tensor, activation: Activation) -> Result<Tensor, Error> {
        let width = gate.numbers()?.dim(D::Minus1)?;
        let activate = |gate: &[f32], up: &[f32], out: &mut [f32]| {
            vectorized(
                #[inline(always)]
                || match activation {
                    Activation::Silu => swiglu(gate, up, out),
                    Activation::GeluTanh => geglu(gate, up, out),
                    Activation::Clamped { limit } => clamped_swiglu(gate, up, limit, out),
                },
            )
        };
        let of = |gate: &[f32], up: &[f32]| {
            in_parts(gate.len(), PART, |at, out| activate(&gate[at.clone()], &up[at], out))
        };
        Tensor::of_rows(with_slice(gate, |gate| with_slice(up, |up| of(gate, up)))??, width)
    }

    fn add(&self, x: &Tensor, y: &Tensor) -> Result<Tensor, Error> {
        let width = x.numbers()?.dim(D::Minus1)?;
        let sum = |x: &[f32], y: &[f32]| {
            in_parts(x.len(), PART, |at, out| {
                for (out, (x, y)) in out.iter_mut().zip(x[at.clone()].iter().zip(&y[at])) {
                    *out = x + y;
                }
            })
        };
        Tensor::of_rows(with_slice(x, |x| with_slice(y, |y| sum(x, y)))??, width)
    }

    fn zeros_like(&self, x: &Tensor) -> Result<Tensor, Error> {
        Ok(x.numbers()?.zeros_like()?.into())
    }

    fn route(
        &self,
        x: &Tensor,
        router: &Linear<Tensor>,
        routing: &Routing,
        correction: &[f32],
    ) -> Result<Routes, Error> {
        let logits = self.linear(x, &router.weight, router.bias.as_ref())?;
        let n_experts = logits.numbers()?.dim(D::Minus1)?;
        with_slice(&logits, |logits| Routes::new(logits, n_experts, routing, correction))
    }

    fn chosen(&self, routes: &Routes) -> Result<Vec<u16>, Error> {
        Ok(routes.chosen.clone())
    }

    fn counts(&self, routes: &Routes) -> Result<Vec<usize>, Error> {
        Ok(routes.counts.clone())
    }

    fn gathered(&self, x: &Tensor, routes: &Routes, places: Range<usize>) -> Result<Tensor, Error> {
        gathered(x, &routes.rows[places])
    }

    fn add_scattered(
        &self,
        sum: &mut Tensor,
        part: &Tensor,
        routes: &Routes,
        places: Range<usize>,
    ) -> Result<(), Error> {
        add_scattered(sum, part, &routes.rows[places.clone()], &routes.weights[places])
    }

    fn times_sigmoid(&self, y: Tensor, x: &Tensor, gate: &Tensor) -> Result<Tensor, Error> {
        times_sigmoid(&y, x, gate)
    }

    fn angles(&self, n_tokens: usize, rotary: &Rotary) -> Result<Angles, Error> {
        let width = rotary.inverse_frequencies.len();
        let table = |trigonometric: fn(f64) -> f64| {
            let numbers = in_parts(n_tokens * width, PART / width.max(1) * width, |at, out| {
                for (t, row) in (at.start / width..).zip(out.chunks_mut(width)) {
                    for (out, f) in row.iter_mut().zip(&rotary.inverse_frequencies) {
                        *out = (rotary.scale * trigonometric(t as f64 * f)) as f32;
                    }
                }
            });
            Numbers::from_vec(numbers, (n_tokens, width), &candle_core::Device::Cpu)
        };
        Ok(Angles { cos: table(f64::cos)?, sin: table(f64::sin)?, head_dim: rotary.head_dim })
    }

    fn rope(
        &self,
        x: &Tensor,
        norm: Option<(&Tensor, f64)>,
        positions: &[Range<usize>],
        angles: &Angles,
        scale: f32,
    ) -> Result<Tensor, Error> {
        let width = x.numbers()?.dim(D::Minus1)?;
        let weight = norm.map(|(weight, _)| self.to_host(weight)).transpose()?;
        let norm = weight.as_deref().zip(norm.map(|(_, eps)| eps as f32));
        let [cos, sin] = [&angles.cos, &angles.sin].map(|table| stretches_of(table, positions));
        let (cos, sin): (Tensor, Tensor) = (cos?.into(), sin?.into());
        let rotated = with_slice(x, |x| {
            with_slice(&cos, |cos| {
                with_slice(&sin, |sin| {
                    Rotation { head_dim: angles.head_dim, norm, angles: [cos, sin], scale }.of(x, width)
                })
            })
        })???;
        Tensor::of_rows(rotated, width)
    }

    fn rows(&self, x: &Tensor, stretches: &[Range<usize>]) -> Result<Tensor, Error> {
        Ok(stretches_of(x.numbers()?, stretches)?.contiguous()?.into())
    }

    fn to_host(&self, x: &Tensor) -> Result<Vec<f32>, Error> {
        Ok(x.numbers()?.flatten_all()?.to_vec1()?)
    }

    fn layer(&self, shape: AttentionShape) -> Result<Layer, Error> {
        Ok(Layer::new(shape))
    }
}
