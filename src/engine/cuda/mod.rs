//! The decoder's operations on an NVIDIA GPU: products by cuBLAS, everything else by the kernels in
//! `kernels/`, compiled at run time for the card at hand. Activations and weights are bf16, sums f32.
//!
//! The crate builds without CUDA; [`Cuda::open`] says what is missing to run. All unsafe code of the crate is
//! here, except for the maps of weights.

mod array;
mod attention;
pub mod bench;
mod blocks;
mod compile;
mod copies;
mod expert_params;
mod experts;
mod gpu;
mod grouped;
mod kernel_params;
mod kernels;
mod launch;
mod layer;
pub mod libraries;
mod macros;
mod memory;
mod module;
mod nccl;
mod nodes;
mod operations;
mod params;
mod pointer;
mod proximity;
mod repeat;
mod residual;
mod rope;
mod sample;
mod scored;
mod search;
mod sinks;
mod staging;
mod stopwatch;
mod tensor;
mod vertical;
mod weights;
mod word;
mod written;

use std::{
    ops::Range,
    sync::Arc,
    thread::{self, JoinHandle},
};

use cudarc::{
    cublas::{CudaBlas, sys as cublas},
    driver::CudaContext,
};
use safetensors::tensor::TensorView;

use super::{
    device::{AttentionShape, Device, Purpose, Room},
    model::{
        Linear, Mlp,
        config::{Activation, ModelConfig},
        experts::Routing,
        rope::Rotary,
        weight::Weight,
    },
    peers::Peers,
};
use crate::{error::Error, protocol::MemoryPlan, trace::StreamConfig};
use experts::Routes;
use gpu::Gpu;
pub use layer::Layer;
use module::{Kernel, Work};
use nccl::Nccl;
use operations::{n_vectors, same};
use params::{FiniteParams, RmsNormParams};
use repeat::Repeater;
use residual::{Mark, Residual};
use rope::Angles;
pub use tensor::Tensor;

/// Rows below which a thread block takes each one, not a warp.
const FEW: usize = 1024;

/// An NVIDIA card.
pub struct Cuda {
    gpu: Arc<Gpu>,
    blas: CudaBlas,
    /// The cards of other ranks, once they are connected.
    nccl: Option<Arc<Nccl>>,
    /// Makes cuBLAS load its kernels.
    warming: Option<JoinHandle<()>>,
}

impl Cuda {
    /// Counts the cards of this machine; 0 where none works.
    pub fn n_cards() -> usize {
        if !libraries::has_driver() {
            return 0;
        }
        CudaContext::device_count().map_or(0, |n| n as usize)
    }

    /// Opens a card; where there are fewer, as where a launcher shows each process its own, counting starts again.
    ///
    /// # Errors
    /// [`Error::Device`]: which of driver, card and libraries is missing or too old, and what to do.
    pub fn open(card: usize) -> Result<Self, Error> {
        let mut cuda = Cuda::cold(Arc::new(Gpu::open(card)?))?;
        let other = Cuda::cold(cuda.gpu.clone())?;
        cuda.warming = Some(thread::spawn(move || other.warm()));
        Ok(cuda)
    }

    fn cold(gpu: Arc<Gpu>) -> Result<Self, Error> {
        let blas = CudaBlas::new(gpu.stream.clone()).map_err(|e| {
            Error::device(
                &gpu.name,
                format!("cuBLAS cannot be set up: {e:?}"),
                "free some of the card's memory, or choose the CPU",
            )
        })?;
        Ok(Cuda { gpu, blas, nccl: None, warming: None })
    }

    /// Multiplies something, for the first product of a process takes 0.1 s: it loads cuBLAS's kernels.
    fn warm(&self) {
        const SIZE: usize = 64;
        // An error will be told by a product that counts.
        let _ = Tensor::new(&self.gpu, SIZE, SIZE).and_then(|x| self.linear(&x, &x, None));
    }
}

/// The thread is over before the libraries that it uses.
impl Drop for Cuda {
    fn drop(&mut self) {
        self.warming.take().map(JoinHandle::join);
    }
}

impl Device for Cuda {
    type Tensor = Tensor;
    type Residual = Residual;
    type Mark = Mark;
    type Angles = Angles;
    type Layer = Layer;
    type Routes = Routes;
    type Repeater = Repeater;

    fn name(&self) -> String {
        self.gpu.name.clone()
    }

    fn plan(
        &self,
        model: &ModelConfig,
        n_tokens: usize,
        config: &StreamConfig,
        purpose: Purpose,
        room: Room,
    ) -> Result<MemoryPlan, Error> {
        let limit = match room.limit {
            Some(limit) => limit,
            // A sixteenth stays free: the memory pool takes somewhat more than its arrays.
            None => (self.gpu.available()? + room.kept) / 16 * 15,
        };
        Ok(memory::plan(model, n_tokens, config, purpose, limit, room.n_ranks))
    }

    fn connect(&mut self, peers: &Arc<Peers>) -> Result<(), Error> {
        self.nccl = Some(Arc::new(Nccl::connect(&self.gpu, peers)?));
        Ok(())
    }

    fn abandon(&self) {
        if let Some(nccl) = &self.nccl {
            nccl.abort();
        }
    }

    fn reserve(&self, bytes: u64) -> Result<(), Error> {
        self.gpu.reserve(bytes)
    }

    fn peak(&self) -> u64 {
        self.gpu.peak()
    }

    fn tensor(&self, numbers: &TensorView) -> Result<Tensor, Error> {
        Tensor::upload(&self.gpu, numbers)
    }

    fn weight(&self, weight: &Weight) -> Result<Tensor, Error> {
        let mut room = self.room(weight)?;
        self.fill(vec![(&mut room, weight)])?;
        Ok(room)
    }

    fn room(&self, weight: &Weight) -> Result<Tensor, Error> {
        let (n_rows, width) = tensor::rows_of(weight.shape());
        Tensor::new(&self.gpu, n_rows, width)
    }

    fn rooms_made(&self) -> Result<(), Error> {
        self.gpu.after(&self.gpu.copies, &self.gpu.mark()?)
    }

    fn fill(&self, rooms: Vec<(&mut Tensor, &Weight)>) -> Result<(), Error> {
        self.bring(&self.gpu.stream, rooms)
    }

    fn refill(&self, rooms: Vec<(&mut Tensor, &Weight)>) -> Result<(), Error> {
        self.bring(&self.gpu.copies, rooms)?;
        self.gpu.wait_for(&self.gpu.copies)
    }

    fn residual(&self, on_host: bool) -> Result<Residual, Error> {
        Residual::new(&self.gpu, on_host)
    }

    fn put(&self, residual: &mut Residual, i: usize, x: Tensor) -> Result<(), Error> {
        let found = residual.note();
        let params = FiniteParams { x: self.gpu.pointer(&x.data), found, n_vectors: n_vectors(&x) };
        // SAFETY: one number is written.
        unsafe { self.elementwise("is_finite", params.n_vectors, &params)? };
        residual.put(&self.gpu, i, x)
    }

    fn chunk(&self, residual: &Residual, i: usize) -> Result<Tensor, Error> {
        residual.chunk(&self.gpu, i)
    }

    fn mark(&self, residual: &mut Residual) -> Result<Mark, Error> {
        residual.mark(&self.gpu)
    }

    fn is_finite(&self, mark: Mark) -> Result<bool, Error> {
        mark.is_finite(&self.gpu)
    }

    fn rms_norm(&self, x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor, Error> {
        same("norm weights", x.width, weight.len())?;
        let out = Tensor::new(&self.gpu, x.n_rows, x.width)?;
        let params = RmsNormParams {
            x: self.gpu.pointer(&x.data),
            weight: self.gpu.pointer(&weight.data),
            out: self.gpu.pointer(&out.data),
            n_rows: x.n_rows as i32,
            hidden: x.width as i32,
            eps: eps as f32,
        };
        let entry = if x.n_rows < FEW { "rms_norm_of_few" } else { "rms_norm" };
        // SAFETY: as the header of kernels/rms_norm.cu says.
        unsafe { self.gpu.launch(&Kernel::new("rms_norm", entry), Work::new(x.n_rows, 1), &params)? };
        Ok(out)
    }

    fn linear(&self, x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor, Error> {
        let out = Tensor::new(&self.gpu, x.n_rows, weight.n_rows)?;
        self.multiply(x, weight, &out.data, cublas::cudaDataType_t::CUDA_R_16BF)?;
        if let Some(bias) = bias {
            self.add_bias(&out, bias)?;
        }
        Ok(out)
    }

    fn gated(&self, gate: &Tensor, up: &Tensor, activation: Activation) -> Result<Tensor, Error> {
        match activation {
            Activation::Silu => self.pairwise("swiglu", gate, up),
            Activation::GeluTanh => self.pairwise("geglu", gate, up),
            Activation::Clamped { limit } => self.clamped(gate, up, limit),
        }
    }

    fn add(&self, x: &Tensor, y: &Tensor) -> Result<Tensor, Error> {
        self.pairwise("add", x, y)
    }

    fn zeros_like(&self, x: &Tensor) -> Result<Tensor, Error> {
        let data = Arc::new(self.gpu.zeros(x.len())?);
        Ok(Tensor { data, n_rows: x.n_rows, width: x.width })
    }

    fn route(
        &self,
        x: &Tensor,
        router: &Linear<Tensor>,
        routing: &Routing,
        correction: &[f32],
    ) -> Result<Routes, Error> {
        self.routes(x, router, routing, correction)
    }

    fn chosen(&self, routes: &Routes) -> Result<Vec<u16>, Error> {
        routes.chosen(&self.gpu)
    }

    fn mixed(
        &self,
        x: &Tensor,
        routes: &Routes,
        experts: &[Mlp<Tensor>],
        activation: Activation,
    ) -> Result<Option<Tensor>, Error> {
        if experts.is_empty() { Ok(None) } else { self.grouped(x, routes, experts, activation).map(Some) }
    }

    fn counts(&self, routes: &Routes) -> Result<Vec<usize>, Error> {
        routes.counts(&self.gpu)
    }

    fn gathered(&self, x: &Tensor, routes: &Routes, places: Range<usize>) -> Result<Tensor, Error> {
        self.gather(x, self.gpu.pointer_at(&routes.rows, places.start), places.len())
    }

    fn add_scattered(
        &self,
        sum: &mut Tensor,
        part: &Tensor,
        routes: &Routes,
        places: Range<usize>,
    ) -> Result<(), Error> {
        self.add_rows(sum, part, routes, places)
    }

    fn times_sigmoid(&self, y: Tensor, x: &Tensor, gate: &Tensor) -> Result<Tensor, Error> {
        self.multiply_by_sigmoid(&y, x, gate)?;
        Ok(y)
    }

    fn angles(&self, _: usize, rotary: &Rotary) -> Result<Angles, Error> {
        Angles::new(&self.gpu, rotary)
    }

    fn rope(
        &self,
        x: &Tensor,
        norm: Option<(&Tensor, f64)>,
        positions: &[Range<usize>],
        angles: &Angles,
        scale: f32,
    ) -> Result<Tensor, Error> {
        self.rotated(x, norm, positions, angles, scale)
    }

    fn rows(&self, x: &Tensor, stretches: &[Range<usize>]) -> Result<Tensor, Error> {
        if let [rows] = stretches {
            return Tensor::filled(&self.gpu, rows.len(), x.width, |out| {
                self.gpu.copy(&x.data, rows.start * x.width, out, 0, rows.len() * x.width)
            });
        }
        let rows: Vec<u32> = stretches.iter().cloned().flatten().map(|row| row as u32).collect();
        same("rows past the end", 0, rows.iter().filter(|&&row| row as usize >= x.n_rows).count())?;
        self.gather(x, self.gpu.pointer(&self.gpu.upload(&rows)?), rows.len())
    }

    fn to_host(&self, x: &Tensor) -> Result<Vec<f32>, Error> {
        x.to_host(&self.gpu)
    }

    fn layer(&self, shape: AttentionShape) -> Result<Layer, Error> {
        Layer::new(self.gpu.clone(), self.nccl.clone(), shape)
    }
    fn repeater(&self) -> Result<Option<Repeater>, Error> {
        Repeater::new(self.gpu.clone()).map(Some)
    }
}
