//! Products by cuBLAS, and operations number by number.

use cudarc::{
    cublas::{result::gemm_ex, sys as cublas},
    driver::DevicePtr,
};

use super::{
    Cuda,
    array::Array,
    kernel_params::KernelParams,
    module::{Kernel, Work},
    params::{BiasParams, ClampedParams, PairParams},
    tensor::Tensor,
};
use crate::{engine::device::Device, error::Error};

impl Cuda {
    /// Launches a kernel of elementwise.cu over `n_vectors` of eight numbers.
    ///
    /// # Safety
    /// As [`Gpu::launch`] says.
    pub(super) unsafe fn elementwise<P: KernelParams>(
        &self,
        entry: &'static str,
        n_vectors: u64,
        params: &P,
    ) -> Result<(), Error> {
        // SAFETY: the caller vouches for the addresses.
        unsafe {
            self.gpu.launch(&Kernel::new("elementwise", entry), Work::new(n_vectors as usize, 1), params)
        }
    }

    /// Runs a kernel from two tensors of the same shape into a third.
    pub(super) fn pairwise(&self, entry: &'static str, x: &Tensor, y: &Tensor) -> Result<Tensor, Error> {
        same("rows", x.n_rows, y.n_rows)?;
        same("row width", x.width, y.width)?;
        let out = Tensor::new(&self.gpu, x.n_rows, x.width)?;
        let params = PairParams {
            x: self.gpu.pointer(&x.data),
            y: self.gpu.pointer(&y.data),
            out: self.gpu.pointer(&out.data),
            n_vectors: n_vectors(x),
        };
        // SAFETY: three tensors of one shape.
        unsafe { self.elementwise(entry, params.n_vectors, &params)? };
        Ok(out)
    }

    /// The clamped SwiGLU of two tensors of the same shape.
    pub(super) fn clamped(&self, gate: &Tensor, up: &Tensor, limit: f32) -> Result<Tensor, Error> {
        same("rows", gate.n_rows, up.n_rows)?;
        same("row width", gate.width, up.width)?;
        let out = Tensor::new(&self.gpu, gate.n_rows, gate.width)?;
        let [x, y, to] = [gate, up, &out].map(|tensor| self.gpu.pointer(&tensor.data));
        let params = ClampedParams { x, y, out: to, n_vectors: n_vectors(gate), limit };
        // SAFETY: three tensors of one shape.
        unsafe { self.elementwise("clamped_swiglu", params.n_vectors, &params)? };
        Ok(out)
    }

    /// Multiplies `x` with the rows of `weight`, into `out` of numbers of type `kind`.
    pub(super) fn multiply<T>(
        &self,
        x: &Tensor,
        weight: &Tensor,
        out: &Array<T>,
        kind: cublas::cudaDataType_t,
    ) -> Result<(), Error> {
        same("weight columns", x.width, weight.width)?;
        same("products", x.n_rows * weight.n_rows, out.len())?;
        let [m, n, k] = [weight.n_rows, x.n_rows, x.width].map(|n| n as i32);
        let [a, b] = [weight, x].map(|t| t.data.device_ptr(&self.gpu.stream).0);
        let c = out.device_ptr(&self.gpu.stream).0;
        self.gpu.make_current()?;
        let (one, zero, bf16) = (1.0f32, 0.0f32, cublas::cudaDataType_t::CUDA_R_16BF);
        let (transposed, plain) =
            (cublas::cublasOperation_t::CUBLAS_OP_T, cublas::cublasOperation_t::CUBLAS_OP_N);
        // SAFETY: cuBLAS counts columns first: outᵀ [m, n] = weight [m, k] · xᵀ [k, n], all of the sizes
        // checked above.
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
                kind,
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
        })
    }

    /// Adds one number to each column of `x`.
    pub(super) fn add_bias(&self, x: &Tensor, bias: &Tensor) -> Result<(), Error> {
        same("biases", x.width, bias.len())?;
        let params = BiasParams {
            x: self.gpu.pointer(&x.data),
            bias: self.gpu.pointer(&bias.data),
            n_vectors: n_vectors(x),
            width: x.width as i32,
        };
        // SAFETY: one bias for each column.
        unsafe { self.elementwise("add_bias", params.n_vectors, &params) }
    }
}

/// Returns the number of vectors of eight numbers in a tensor, whose rows are whole vectors.
pub(super) fn n_vectors(x: &Tensor) -> u64 {
    x.len() as u64 / 8
}

/// Checks that sizes agree: a mismatch is a bug of the decoder, but no reason to crash a notebook.
pub(super) fn same(what: &str, expected: usize, found: usize) -> Result<(), Error> {
    if expected == found {
        return Ok(());
    }
    Err(Error::device(
        "cuda",
        format!("{what}: expected {expected}, found {found}"),
        "please report this with the model's config.json",
    ))
}
