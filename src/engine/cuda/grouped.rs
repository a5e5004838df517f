//! Products of rows with the weights of the experts that take them, all experts of a layer in one launch.

use cudarc::driver::DevicePtr;

use super::{
    Cuda,
    array::Array,
    expert_params::{GroupedParams, SumParams},
    experts::Routes,
    macros::Macro,
    module::{Kernel, Work},
    operations::same,
    pointer::DevicePointer,
    tensor::Tensor,
};
use crate::{
    engine::model::{Linear, Mlp, config::Activation},
    error::Error,
};

/// Places that a thread block of kernels/grouped.cu takes, of one expert.
const PLACES: usize = 128;

/// Where two weights of each expert lie, and their biases if they have some.
struct Pairs {
    weights: Array<u64>,
    biases: Option<Array<u64>>,
    n_experts: usize,
    /// Rows of a weight, and their width.
    n_out: usize,
    n_in: usize,
}

impl Cuda {
    /// Sums for each row what its experts write, times their weights.
    pub(super) fn grouped(
        &self,
        x: &Tensor,
        routes: &Routes,
        experts: &[Mlp<Tensor>],
        activation: Activation,
    ) -> Result<Tensor, Error> {
        let (name, limit) = match activation {
            Activation::Silu => ("gated_silu", 0.0),
            Activation::GeluTanh => ("gated_gelu", 0.0),
            Activation::Clamped { limit } => ("gated_clamped", limit),
        };
        let file = if self.gpu.is_hopper() { "grouped_sm90" } else { "grouped" };
        let kernel = |entry| {
            let mut kernel = Kernel::new(file, entry);
            kernel.macros.push(("ACTIVATION", Macro::Name(name)));
            kernel
        };
        let gate_up = self.pairs(experts, |expert| [&expert.gate, &expert.up])?;
        let rows = Some(self.gpu.pointer(&routes.rows));
        let gated = self.products(&kernel("grouped_gate"), x, rows, routes, &gate_up, limit)?;
        let down = self.pairs(experts, |expert| [&expert.down, &expert.down])?;
        let written = self.products(&kernel("grouped_down"), &gated, None, routes, &down, limit)?;
        drop(gated);
        self.sum_of_experts(&written, routes)
    }

    /// Multiplies what stands in each place with the weights of its expert.
    fn products(
        &self,
        kernel: &Kernel,
        x: &Tensor,
        rows: Option<DevicePointer<u32>>,
        routes: &Routes,
        pairs: &Pairs,
        limit: f32,
    ) -> Result<Tensor, Error> {
        same("weight columns", x.width, pairs.n_in)?;
        same("counted experts", routes.counts.len(), pairs.n_experts)?;
        let n_places = routes.n_rows * routes.top_k;
        let out = Tensor::new(&self.gpu, n_places, pairs.n_out)?;
        let params = GroupedParams {
            x: self.gpu.pointer(&x.data),
            rows,
            counts: self.gpu.pointer(&routes.counts),
            weights: self.gpu.pointer(&pairs.weights),
            biases: pairs.biases.as_ref().map(|biases| self.gpu.pointer(biases)),
            out: self.gpu.pointer(&out.data),
            n_experts: pairs.n_experts as i32,
            n_in: pairs.n_in as i32,
            n_out: pairs.n_out as i32,
            limit,
        };
        // Each expert may end with a part of a thread block's places.
        let work = Work::new(pairs.n_out, n_places + pairs.n_experts * PLACES);
        // SAFETY: as the header of kernels/grouped.cu says: weights of the sizes checked in `pairs`, and a row of
        // `out` for each place.
        unsafe { self.gpu.launch(kernel, work, &params)? };
        Ok(out)
    }

    /// Lists where two weights of each expert lie.
    fn pairs<'a>(
        &self,
        experts: &'a [Mlp<Tensor>],
        both: impl Fn(&'a Mlp<Tensor>) -> [&'a Linear<Tensor>; 2],
    ) -> Result<Pairs, Error> {
        let linears: Vec<&Linear<Tensor>> = experts.iter().flat_map(both).collect();
        let (n_out, n_in) = linears.first().map_or((0, 0), |first| (first.weight.n_rows, first.weight.width));
        for linear in &linears {
            same("rows of an expert's weight", n_out, linear.weight.n_rows)?;
            same("columns of an expert's weight", n_in, linear.weight.width)?;
            same("biases", n_out, linear.bias.as_ref().map_or(n_out, Tensor::len))?;
        }
        let address = |tensor: &Tensor| tensor.data.device_ptr(&self.gpu.stream).0;
        let weights: Vec<u64> = linears.iter().map(|linear| address(&linear.weight)).collect();
        let biases: Option<Vec<u64>> =
            linears.iter().map(|linear| linear.bias.as_ref().map(address)).collect();
        Ok(Pairs {
            weights: self.gpu.upload(&weights)?,
            biases: biases.map(|biases| self.gpu.upload(&biases)).transpose()?,
            n_experts: experts.len(),
            n_out,
            n_in,
        })
    }

    fn sum_of_experts(&self, part: &Tensor, routes: &Routes) -> Result<Tensor, Error> {
        let out = Tensor::new(&self.gpu, routes.n_rows, part.width)?;
        let params = SumParams {
            part: self.gpu.pointer(&part.data),
            places: self.gpu.pointer(&routes.places),
            weights: self.gpu.pointer(&routes.weights),
            out: self.gpu.pointer(&out.data),
            width: part.width as i32,
            top_k: routes.top_k as i32,
        };
        // SAFETY: the places listed are rows of `part`, top_k for each row of `out`.
        unsafe {
            self.gpu.launch(
                &Kernel::new("experts", "sum_of_experts"),
                Work::new(routes.n_rows, 1),
                &params,
            )?
        };
        Ok(out)
    }
}
