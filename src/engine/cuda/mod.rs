//! The decoder's operations on an NVIDIA GPU: products by cuBLAS, everything else by the kernels in `kernels/`, compiled at
//! run time for the card at hand. Activations and weights are bf16, sums f32.
//!
//! Nothing of CUDA is needed to build; [`Cuda::open`] says what is missing to run. All unsafe code of the crate is here, but
//! for the maps of weights.

pub mod bench;
mod compile;
mod gpu;
mod kernels;
mod launch;
mod layer;
pub mod libraries;
mod memory;
mod nodes;
mod proximity;
mod residual;
mod staging;
mod stopwatch;
mod tensor;
mod vertical;

use std::ops::Range;

use cudarc::{
    cublas::{CudaBlas, result::gemm_ex, sys as cublas},
    driver::{CudaSlice, DevicePtr},
};
use safetensors::tensor::TensorView;

use super::{
    device::{AttentionShape, Device, Purpose, StageCosts},
    model::{Model, config::Activation, rope::Rotary},
};
use crate::{
    error::Error,
    protocol::{Hidden, MemoryPlan},
    trace::{BlockMask, LayerRecord, StreamConfig},
};
use gpu::{Arg, Gpu, Kernel, Launch};
pub use layer::Attention;
use residual::Residual;
pub use tensor::Tensor;

/// The first NVIDIA card.
pub struct Cuda {
    gpu: Gpu,
    blas: CudaBlas,
}

/// What the rotary angles of a position are computed from.
pub struct Angles {
    /// `[n_rotated / 2]`
    inverse_frequencies: CudaSlice<f64>,
    n_rotated: usize,
    head_dim: usize,
    scale: f64,
}

impl Cuda {
    /// Opens the first card.
    ///
    /// # Errors
    /// [`Error::Device`]: which of driver, card and libraries is missing or too old, and what to do.
    pub fn open() -> Result<Self, Error> {
        let gpu = Gpu::open()?;
        let blas = CudaBlas::new(gpu.stream.clone()).map_err(|e| {
            Error::device(
                gpu.name.clone(),
                format!("cuBLAS cannot be set up: {e:?}"),
                "free some of the card's memory, or choose the CPU",
            )
        })?;
        Ok(Cuda { gpu, blas })
    }

    /// Launches a kernel of elementwise.cu over the numbers of `x`; `args` stand between `x` and their count.
    ///
    /// # Safety
    /// `args` must be those of the kernel, as long as `x`.
    unsafe fn elementwise(&self, entry: &'static str, x: &Tensor, args: Vec<Arg>) -> Result<(), Error> {
        let n_vectors = x.len() / 8;
        let args: Vec<Arg> = [self.gpu.pointer(&x.data)]
            .into_iter()
            .chain(args)
            .chain([Arg::Long(n_vectors as u64)])
            .collect();
        let launch = Launch { grid: (n_vectors.div_ceil(256), 1), block: (256, 1), shared: 0 };
        // SAFETY: the caller vouches for the arguments.
        unsafe { self.gpu.launch(&Kernel { file: "elementwise", entry, macros: Vec::new() }, launch, &args) }
    }

    /// A kernel of two tensors of the same shape into a third.
    fn pairwise(&self, entry: &'static str, x: &Tensor, y: &Tensor) -> Result<Tensor, Error> {
        same("rows", x.n_rows, y.n_rows)?;
        same("row width", x.width, y.width)?;
        let out = Tensor::new(&self.gpu, x.n_rows, x.width)?;
        // SAFETY: three tensors of one shape.
        unsafe { self.elementwise(entry, x, vec![self.gpu.pointer(&y.data), self.gpu.pointer(&out.data)])? };
        Ok(out)
    }
}

/// Shapes that do not fit are a bug of the decoder, but no reason to crash a notebook.
fn same(what: &str, expected: usize, found: usize) -> Result<(), Error> {
    match expected == found {
        true => Ok(()),
        false => Err(Error::device(
            "cuda",
            format!("{what}: expected {expected}, found {found}"),
            "please report this with the model's config.json",
        )),
    }
}

impl Device for Cuda {
    type Tensor = Tensor;
    type Residual = Residual;
    type Angles = Angles;
    type Attention = Attention;

    fn name(&self) -> String {
        self.gpu.name.clone()
    }

    fn plan(
        &self,
        model: &Model,
        n_tokens: usize,
        config: &StreamConfig,
        purpose: Purpose,
        limit: Option<u64>,
    ) -> Result<MemoryPlan, Error> {
        let limit = match limit {
            Some(limit) => limit,
            // A sixteenth stays free: the memory pool takes somewhat more than its arrays.
            None => self.gpu.available()? / 16 * 15,
        };
        Ok(memory::plan(&model.config, n_tokens, config, purpose, limit))
    }

    fn reserve(&self, bytes: u64) -> Result<(), Error> {
        self.gpu.reserve(bytes)
    }

    fn peak(&self) -> u64 {
        self.gpu.peak()
    }

    fn weight(&self, weight: &TensorView) -> Result<Tensor, Error> {
        Tensor::upload(&self.gpu, weight)
    }

    fn refill(&self, room: &mut Tensor, weight: &TensorView) -> Result<(), Error> {
        room.refill(&self.gpu, weight)
    }

    fn residual(&self, on_host: bool) -> Result<Residual, Error> {
        Residual::new(&self.gpu, on_host)
    }

    fn push(&self, residual: &mut Residual, x: Tensor) -> Result<(), Error> {
        residual.push(&self.gpu, x)
    }

    fn chunk(&self, residual: &Residual, i: usize) -> Result<Tensor, Error> {
        residual.chunk(&self.gpu, i)
    }

    fn replace(&self, residual: &mut Residual, i: usize, x: Tensor) -> Result<(), Error> {
        // SAFETY: one number is written.
        unsafe { self.elementwise("is_finite", &x, vec![residual.note(&self.gpu)])? };
        residual.replace(&self.gpu, i, x)
    }

    fn is_finite(&self, residual: &Residual) -> Result<bool, Error> {
        residual.is_finite(&self.gpu)
    }

    fn rms_norm(&self, x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor, Error> {
        same("norm weights", x.width, weight.len())?;
        let out = Tensor::new(&self.gpu, x.n_rows, x.width)?;
        let pointers = [&x.data, &weight.data, &out.data].map(|x| self.gpu.pointer(x));
        let args: Vec<Arg> =
            pointers.into_iter().chain([Arg::Int(x.width as i32), Arg::Float(eps as f32)]).collect();
        let launch = Launch { grid: (x.n_rows, 1), block: (256, 1), shared: 0 };
        // SAFETY: as the header of kernels/rms_norm.cu says.
        unsafe {
            self.gpu.launch(
                &Kernel { file: "rms_norm", entry: "rms_norm", macros: Vec::new() },
                launch,
                &args,
            )?
        };
        Ok(out)
    }

    fn linear(&self, x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor, Error> {
        same("weight columns", x.width, weight.width)?;
        let out = Tensor::new(&self.gpu, x.n_rows, weight.n_rows)?;
        let [m, n, k] = [weight.n_rows, x.n_rows, x.width].map(|n| n as i32);
        let [a, b, c] = [weight, x, &out].map(|t| t.data.device_ptr(&self.gpu.stream).0);
        self.gpu.make_current()?;
        let (one, zero, bf16) = (1.0f32, 0.0f32, cublas::cudaDataType_t::CUDA_R_16BF);
        let (transposed, plain) =
            (cublas::cublasOperation_t::CUBLAS_OP_T, cublas::cublasOperation_t::CUBLAS_OP_N);
        // SAFETY: cuBLAS counts columns first: outᵀ [m, n] = weight [m, k] · xᵀ [k, n], all of the sizes checked above.
        let multiplied = unsafe {
            gemm_ex(
                *self.blas.handle(),
                transposed,
                plain,
                m,
                n,
                k,
                (&raw const one).cast(),
                a as *const _,
                bf16,
                k,
                b as *const _,
                bf16,
                k,
                (&raw const zero).cast(),
                c as *mut _,
                bf16,
                m,
                cublas::cublasComputeType_t::CUBLAS_COMPUTE_32F,
                cublas::cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT,
            )
        };
        multiplied.map_err(|e| {
            Error::device(
                self.name(),
                format!("a product of {n} x {k} and {k} x {m} failed: {e:?}"),
                "free some of the card's memory, or choose the CPU",
            )
        })?;
        if let Some(bias) = bias {
            same("biases", out.width, bias.len())?;
            // SAFETY: one bias for each column.
            unsafe {
                self.elementwise(
                    "add_bias",
                    &out,
                    vec![self.gpu.pointer(&bias.data), Arg::Int(out.width as i32)],
                )?
            };
        }
        Ok(out)
    }

    fn gated(&self, gate: &Tensor, up: &Tensor, activation: Activation) -> Result<Tensor, Error> {
        let entry = match activation {
            Activation::Silu => "swiglu",
            Activation::GeluTanh => "geglu",
        };
        self.pairwise(entry, gate, up)
    }

    fn add(&self, x: &Tensor, y: &Tensor) -> Result<Tensor, Error> {
        self.pairwise("add", x, y)
    }

    fn angles(&self, _: usize, rotary: &Rotary) -> Result<Angles, Error> {
        let inverse_frequencies = self.gpu.upload(&rotary.inverse_frequencies)?;
        let n_rotated = 2 * rotary.inverse_frequencies.len();
        Ok(Angles { inverse_frequencies, n_rotated, head_dim: rotary.head_dim, scale: rotary.scale })
    }

    fn rope(
        &self,
        x: &Tensor,
        norm: Option<(&Tensor, f64)>,
        first_position: usize,
        angles: &Angles,
        scale: f32,
    ) -> Result<Tensor, Error> {
        let head_dim = angles.head_dim;
        let (n_heads, out) = (x.width / head_dim, Tensor::new(&self.gpu, x.n_rows, x.width)?);
        let (weight, eps) = match norm {
            Some((weight, eps)) => (self.gpu.pointer(&weight.data), eps),
            None => (Arg::Pointer(0), 0.0),
        };
        let frequencies = self.gpu.pointer(&angles.inverse_frequencies);
        let mut args = vec![self.gpu.pointer(&x.data), weight, frequencies, self.gpu.pointer(&out.data)];
        args.extend([n_heads, angles.n_rotated, first_position].map(|n| Arg::Int(n as i32)));
        args.extend([eps as f32, angles.scale as f32, scale].map(Arg::Float));
        let kernel = Kernel { file: "rope", entry: "rope", macros: vec![("HEAD_DIM", head_dim)] };
        let launch = Launch { grid: (x.n_rows, n_heads.div_ceil(4)), block: (32, 4), shared: 0 };
        // SAFETY: as the header of kernels/rope.cu says.
        unsafe { self.gpu.launch(&kernel, launch, &args)? };
        Ok(out)
    }

    fn rows(&self, x: &Tensor, rows: Range<usize>) -> Result<Tensor, Error> {
        Tensor::filled(&self.gpu, rows.len(), x.width, |out| {
            self.gpu.copy(&x.data, rows.start * x.width, out, 0, rows.len() * x.width)
        })
    }

    fn to_host(&self, x: &Tensor) -> Result<Vec<f32>, Error> {
        x.to_host(&self.gpu)
    }

    fn attention(&self, shape: AttentionShape) -> Result<Attention, Error> {
        Attention::new(&self.gpu, shape)
    }

    fn append(&self, attention: &mut Attention, keys: &Tensor, values: &Tensor) -> Result<(), Error> {
        attention.append(&self.gpu, keys, values)
    }

    fn resize(&self, attention: &mut Attention, n_rows: usize, n_tokens: usize) {
        attention.resize(n_rows, n_tokens);
    }

    fn index(&self, attention: &mut Attention) -> Result<(), Error> {
        attention.index(&self.gpu)
    }

    fn weigh(&self, attention: &mut Attention, weight: &Tensor) -> Result<(), Error> {
        attention.weigh(&self.gpu, weight)
    }

    fn lengths(&self, x: &Tensor) -> Result<Vec<f32>, Error> {
        let lengths = self.gpu.alloc::<f32>(x.n_rows)?;
        let args = [self.gpu.pointer(&x.data), self.gpu.pointer(&lengths), Arg::Int(x.width as i32)];
        let launch = Launch { grid: (x.n_rows, 1), block: (256, 1), shared: 0 };
        // SAFETY: as the header of kernels/rms_norm.cu says.
        unsafe {
            self.gpu.launch(
                &Kernel { file: "rms_norm", entry: "lengths", macros: Vec::new() },
                launch,
                &args,
            )?
        };
        self.gpu.download(&lengths, x.n_rows)
    }

    fn search(
        &self,
        attention: &mut Attention,
        queries: &Tensor,
        first_query_block: usize,
    ) -> Result<(), Error> {
        attention.search(&self.gpu, queries, first_query_block)
    }

    fn attend(
        &self,
        attention: &mut Attention,
        queries: &Tensor,
        first_query_block: usize,
    ) -> Result<Tensor, Error> {
        attention.attend(&self.gpu, queries, first_query_block)
    }

    fn proximity(
        &self,
        attention: &mut Attention,
        weight: &Tensor,
        before: &Tensor,
        after: &Tensor,
        first_query_block: usize,
    ) -> Result<(), Error> {
        attention.proximity(&self.gpu, weight, before, after, first_query_block)
    }

    fn keep(&self, attention: &mut Attention, mask: BlockMask) -> Result<(), Error> {
        attention.keep(&self.gpu, &mask)
    }

    fn attend_without(
        &self,
        attention: &mut Attention,
        queries: &Tensor,
        first_query_block: usize,
        hidden: &Hidden,
    ) -> Result<Tensor, Error> {
        attention.attend_without(&self.gpu, queries, first_query_block, hidden)
    }

    fn attend_dense(
        &self,
        attention: &mut Attention,
        queries: &Tensor,
        first_query_block: usize,
        mask: &BlockMask,
        kept_mass: &mut [f64],
    ) -> Result<Tensor, Error> {
        attention.attend_dense(&self.gpu, queries, first_query_block, mask, kept_mass)
    }

    fn costs(&self, attention: &mut Attention) -> Result<StageCosts, Error> {
        attention.costs(&self.gpu)
    }

    fn record(&self, attention: Attention) -> Result<LayerRecord, Error> {
        attention.into_record(&self.gpu)
    }
}
