//! Rows by expert on a GPU.

use std::ops::Range;

use cudarc::cublas::sys as cublas;

use super::{
    Cuda,
    array::Array,
    expert_params::{GatherParams, ListParams, RouteParams, ScatterParams, SigmoidParams},
    gpu::Gpu,
    kernel_params::KernelParams,
    module::{Kernel, Work},
    operations::same,
    pointer::DevicePointer,
    tensor::Tensor,
};
use crate::{
    engine::model::{Linear, experts::Routing, family::Score},
    error::Error,
};

/// Experts that kernels/experts.cu chooses among, and those that a row may take.
const MOST_EXPERTS: usize = 512;
const MOST_CHOSEN: usize = 32;

/// The experts that rows take.
pub struct Routes {
    pub(super) n_rows: usize,
    pub(super) top_k: usize,
    /// Rows that each expert takes. `[n_experts]`
    pub(super) counts: Array<u32>,
    /// The experts of each row, those with the highest scores first, the places of the row among the rows of all
    /// experts, and the weights of what they write. `[n_rows, top_k]`
    chosen: Array<u32>,
    pub(super) places: Array<u32>,
    pub(super) weights: Array<f32>,
    /// Row and weight of each place, one expert after the other. `[n_rows · top_k]`
    pub(super) rows: Array<u32>,
    of_rows: Array<f32>,
}

impl Routes {
    /// Returns the experts of each row, those with the highest scores first.
    pub fn chosen(&self, gpu: &Gpu) -> Result<Vec<u16>, Error> {
        let n = self.n_rows * self.top_k;
        Ok(gpu.download(&self.chosen, n)?.into_iter().map(|expert| expert as u16).collect())
    }

    /// Waits until the rows are counted.
    pub fn counts(&self, gpu: &Gpu) -> Result<Vec<usize>, Error> {
        Ok(gpu.download(&self.counts, self.counts.len())?.into_iter().map(|n| n as usize).collect())
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

    /// Chooses the experts of rows.
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
        let (weights, rows, of_rows) = (gpu.alloc(n)?, gpu.alloc(n)?, gpu.alloc(n)?);
        let params = RouteParams {
            logits: gpu.pointer(&logits),
            bias: router.bias.as_ref().map(|bias| gpu.pointer(&bias.data)),
            correction: correction.as_ref().map(|correction| gpu.pointer(correction)),
            chosen: gpu.pointer(&chosen),
            weights: gpu.pointer(&weights),
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
            of_rows: gpu.pointer(&of_rows),
            n: n as i32,
            top_k: top_k as i32,
        };
        // SAFETY: as the header of kernels/experts.cu says: a logit for each expert, room for each row's experts.
        unsafe {
            self.experts("route", x.n_rows, &params)?;
            self.experts("rows_by_expert", n, &list)?;
        }
        Ok(Routes { n_rows: x.n_rows, top_k, counts, chosen, places, weights, rows, of_rows })
    }

    /// Copies `n` rows, whose numbers lie on the card.
    pub(super) fn gather(&self, x: &Tensor, rows: DevicePointer<u32>, n: usize) -> Result<Tensor, Error> {
        let out = Tensor::new(&self.gpu, n, x.width)?;
        let (from, to) = (self.gpu.pointer(&x.data), self.gpu.pointer(&out.data));
        let params = GatherParams { x: from, rows, out: to, width: x.width as i32 };
        // SAFETY: the caller's rows are of `x`, and as many as `out` has.
        unsafe { self.experts("gather_rows", n, &params)? };
        Ok(out)
    }

    /// Adds what an expert wrote to the rows in some of its places.
    pub(super) fn add_rows(
        &self,
        sum: &Tensor,
        part: &Tensor,
        routes: &Routes,
        places: Range<usize>,
    ) -> Result<(), Error> {
        same("rows of an expert", places.len(), part.n_rows)?;
        same("row width", sum.width, part.width)?;
        let params = ScatterParams {
            sum: self.gpu.pointer(&sum.data),
            part: self.gpu.pointer(&part.data),
            rows: self.gpu.pointer_at(&routes.rows, places.start),
            weights: self.gpu.pointer_at(&routes.of_rows, places.start),
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
