//! Rows by expert on a GPU: chosen there, counted on the host.

use cudarc::{cublas::sys as cublas, driver::CudaSlice};

use super::{
    Cuda,
    expert_params::{GatherParams, ListParams, RouteParams, ScatterParams, SigmoidParams},
    gpu::Gpu,
    kernel_params::KernelParams,
    module::{Kernel, Work},
    operations::same,
    tensor::Tensor,
};
use crate::{
    engine::{
        device::{Routed, Taken},
        model::{Linear, experts::Routing, family::Score},
    },
    error::Error,
};

/// Experts that kernels/experts.cu chooses among, and those that a row may take.
const MOST_EXPERTS: usize = 512;
const MOST_CHOSEN: usize = 32;

/// The rows that each expert takes, one expert after the other.
pub struct Routes {
    /// `[n_experts]`
    n_rows: Vec<usize>,
    /// The experts of each row. `[n_rows, top_k]`
    chosen: CudaSlice<u32>,
    /// `[n_rows · top_k]`
    rows: CudaSlice<u32>,
    weights: CudaSlice<f32>,
}

impl Routed for Routes {
    fn n_rows(&self, expert: usize) -> usize {
        self.n_rows[expert]
    }
}

impl Routes {
    /// Returns the experts of each row, those with the highest scores first.
    pub fn chosen(&self, gpu: &Gpu) -> Result<Vec<u16>, Error> {
        let n = self.n_rows.iter().sum();
        Ok(gpu.download(&self.chosen, n)?.into_iter().map(|expert| expert as u16).collect())
    }

    /// The place of the first row of a stretch.
    fn start(&self, taken: &Taken) -> usize {
        self.n_rows[..taken.expert].iter().sum::<usize>() + taken.rows.start
    }
}

impl Cuda {
    /// Launches a kernel of experts.cu.
    ///
    /// # Safety
    /// As `Gpu::launch` says.
    unsafe fn experts<P: KernelParams>(
        &self,
        entry: &'static str,
        n: usize,
        params: &P,
    ) -> Result<(), Error> {
        // SAFETY: the caller vouches for the addresses.
        unsafe { self.gpu.launch(&Kernel::new("experts", entry), Work::new(n, 1), params) }
    }

    /// Chooses the experts of rows; waits until they are counted.
    pub(super) fn routes(
        &self,
        x: &Tensor,
        router: &Linear<Tensor>,
        routing: &Routing,
        correction: &[f32],
    ) -> Result<Routes, Error> {
        let (gpu, n_experts, top_k) = (&self.gpu, router.weight.n_rows, routing.top_k);
        if n_experts > MOST_EXPERTS || top_k > MOST_CHOSEN {
            let what = format!(
                "rows that take {top_k} of {n_experts} experts; the kernels choose {MOST_CHOSEN} of {MOST_EXPERTS}"
            );
            return Err(Error::device(&gpu.name, what, "choose the CPU"));
        }
        let n = x.n_rows * top_k;
        let logits = gpu.alloc::<f32>(x.n_rows * n_experts)?;
        self.multiply(x, &router.weight, &logits, cublas::cudaDataType_t::CUDA_R_32F)?;
        let correction = if correction.is_empty() { None } else { Some(gpu.upload(correction)?) };
        let (chosen, places, counts) = (gpu.alloc(n)?, gpu.alloc(n)?, gpu.zeros(n_experts)?);
        let (of_chosen, rows, weights) = (gpu.alloc(n)?, gpu.alloc(n)?, gpu.alloc(n)?);
        let params = RouteParams {
            logits: gpu.pointer(&logits),
            bias: router.bias.as_ref().map(|bias| gpu.pointer(&bias.data)),
            correction: correction.as_ref().map(|correction| gpu.pointer(correction)),
            chosen: gpu.pointer(&chosen),
            weights: gpu.pointer(&of_chosen),
            places: gpu.pointer(&places),
            counts: gpu.pointer(&counts),
            n_rows: x.n_rows as i32,
            n_experts: n_experts as i32,
            top_k: top_k as i32,
            sigmoid: (routing.score == Score::Sigmoid).into(),
            normalised: routing.normalised.into(),
            n_groups: routing.n_groups as i32,
            top_groups: routing.top_groups as i32,
            scale: routing.scale,
        };
        let list = ListParams {
            chosen: params.chosen,
            weights: params.weights,
            places: params.places,
            counts: params.counts,
            rows: gpu.pointer(&rows),
            of_rows: gpu.pointer(&weights),
            n: n as i32,
            top_k: top_k as i32,
        };
        // SAFETY: as the header of kernels/experts.cu says: a logit for each expert, room for each row's experts.
        unsafe {
            self.experts("route", x.n_rows, &params)?;
            self.experts("rows_by_expert", n, &list)?;
        }
        let n_rows = gpu.download(&counts, n_experts)?.into_iter().map(|n: u32| n as usize).collect();
        Ok(Routes { n_rows, chosen, rows, weights })
    }

    /// Copies rows that an expert takes.
    pub(super) fn rows_of(&self, x: &Tensor, routes: &Routes, taken: &Taken) -> Result<Tensor, Error> {
        let out = Tensor::new(&self.gpu, taken.rows.len(), x.width)?;
        let params = GatherParams {
            x: self.gpu.pointer(&x.data),
            rows: self.gpu.pointer_at(&routes.rows, routes.start(taken)),
            out: self.gpu.pointer(&out.data),
            width: x.width as i32,
        };
        // SAFETY: the rows listed are of `x`, and as many as `out` has.
        unsafe { self.experts("gather_rows", out.n_rows, &params)? };
        Ok(out)
    }

    /// Adds what an expert wrote to rows that take it.
    pub(super) fn add_rows(
        &self,
        sum: &Tensor,
        part: &Tensor,
        routes: &Routes,
        taken: &Taken,
    ) -> Result<(), Error> {
        same("rows of an expert", taken.rows.len(), part.n_rows)?;
        same("row width", sum.width, part.width)?;
        let start = routes.start(taken);
        let params = ScatterParams {
            sum: self.gpu.pointer(&sum.data),
            part: self.gpu.pointer(&part.data),
            rows: self.gpu.pointer_at(&routes.rows, start),
            weights: self.gpu.pointer_at(&routes.weights, start),
            width: sum.width as i32,
        };
        // SAFETY: the rows listed are of `sum`, none twice, and as many as `part` has.
        unsafe { self.experts("add_scattered", part.n_rows, &params) }
    }

    /// Multiplies rows of `y` by the sigmoids of products of those of `x` with `gate`.
    pub(super) fn multiply_by_sigmoid(&self, y: &Tensor, x: &Tensor, gate: &Tensor) -> Result<(), Error> {
        same("rows", y.n_rows, x.n_rows)?;
        same("gate weights", x.width, gate.len())?;
        let params = SigmoidParams {
            y: self.gpu.pointer(&y.data),
            x: self.gpu.pointer(&x.data),
            gate: self.gpu.pointer(&gate.data),
            width: y.width as i32,
            inner: x.width as i32,
        };
        // SAFETY: as many rows, and a weight for each column.
        unsafe { self.experts("times_sigmoid", y.n_rows, &params) }
    }
}
