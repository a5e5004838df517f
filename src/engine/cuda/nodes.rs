//! What estimates read of the nodes over key blocks, made on the card once all keys are there.

use cudarc::driver::CudaSlice;

use super::gpu::{Arg, Gpu, Kernel, Launch};
use crate::{
    engine::device::AttentionShape,
    error::Error,
    trace::{Estimate, Search},
};

/// Numbers of the nodes of all levels, as kernels/pyramid.cu and kernels/clusters.cu order them.
pub struct Nodes {
    pub n_nodes: usize,
    /// `[n_kv_heads, n_nodes, head_dim]`, of two clusters `[n_kv_heads, n_nodes, 2, head_dim]`
    means: CudaSlice<u16>,
    spreads: Spreads,
}

enum Spreads {
    /// Variances `[n_kv_heads, n_nodes, head_dim]`
    OfDimensions(CudaSlice<u16>),
    /// `[n_kv_heads, n_nodes, 2]`
    OfClusters(CudaSlice<f32>),
}

/// Tokens whose sums one thread block of kernels/pyramid.cu merges.
const SPAN: usize = 1024;

/// Nodes that one thread block of kernels/clusters.cu makes.
const WARPS: usize = 8;

impl Nodes {
    /// What the search of a layer reads beside keys; nothing if it reads keys alone.
    pub fn new(gpu: &Gpu, shape: &AttentionShape, keys: &CudaSlice<u16>) -> Result<Option<Self>, Error> {
        match shape.config.search {
            Search::Hierarchical(Estimate::MeanSpread) => Self::mean_spread(gpu, shape, keys).map(Some),
            Search::Hierarchical(Estimate::TwoMeans) => Self::two_means(gpu, shape, keys).map(Some),
            _ => Ok(None),
        }
    }

    /// Mean and variance of each node's keys. `keys` is `[n_tokens, n_kv_heads, head_dim]`
    fn mean_spread(gpu: &Gpu, shape: &AttentionShape, keys: &CudaSlice<u16>) -> Result<Self, Error> {
        let AttentionShape { blocks, n_kv_heads, head_dim, .. } = *shape;
        let levels = levels(blocks.n_key_blocks());
        let span_levels = (SPAN / blocks.block_size_k).ilog2() as usize;
        let (n_nodes, n_spans): (usize, _) =
            (levels.iter().sum(), blocks.n_key_blocks().div_ceil(1 << span_levels));
        let in_spans: usize = levels.iter().take(span_levels + 1).sum();
        let len = n_kv_heads * n_nodes * head_dim;
        let (means, variances) = (gpu.alloc(len)?, gpu.alloc(len)?);
        let spans = gpu.alloc::<f32>(n_kv_heads * n_spans * 2 * head_dim)?;
        let macros =
            vec![("HEAD_DIM", head_dim), ("BLOCK_K", blocks.block_size_k), ("SPAN_LEVELS", span_levels)];
        let kernel = |entry| Kernel { file: "pyramid", entry, macros: macros.clone() };
        let launch = |n| Launch { grid: (n, n_kv_heads), block: (head_dim / 2, 1), shared: 0 };
        let pointers = |first: &CudaSlice<u16>| [first, &means, &variances].map(|x| gpu.pointer(x));
        let ints = |numbers: [usize; 3]| numbers.map(|n| Arg::Int(n as i32));
        let of_spans: Vec<Arg> = pointers(keys)
            .into_iter()
            .chain([gpu.pointer(&spans)])
            .chain(ints([blocks.n_tokens, n_kv_heads, n_nodes]))
            .collect();
        let [_, of_means, of_variances] = pointers(keys);
        let of_top: Vec<Arg> = [gpu.pointer(&spans), of_means, of_variances]
            .into_iter()
            .chain(ints([blocks.n_tokens, n_spans, n_nodes]))
            .collect();
        // SAFETY: as the header of kernels/pyramid.cu says; all keys were appended.
        unsafe {
            gpu.launch(&kernel("pyramid_spans"), launch(n_spans), &of_spans)?;
            gpu.launch(&kernel("pyramid_top"), launch(n_nodes - in_spans), &of_top)?;
        }
        Ok(Nodes { n_nodes, means, spreads: Spreads::OfDimensions(variances) })
    }

    /// Two clusters of each node's keys. `keys` is `[n_tokens, n_kv_heads, head_dim]`
    fn two_means(gpu: &Gpu, shape: &AttentionShape, keys: &CudaSlice<u16>) -> Result<Self, Error> {
        let AttentionShape { blocks, n_kv_heads, head_dim, .. } = *shape;
        let levels = levels(blocks.n_key_blocks());
        let n_nodes: usize = levels.iter().sum();
        let means = gpu.alloc(n_kv_heads * n_nodes * 2 * head_dim)?;
        let spreads = gpu.alloc::<f32>(n_kv_heads * n_nodes * 2)?;
        let sums = gpu.alloc::<f32>(n_kv_heads * n_nodes * 4)?;
        let run = |entry, n: usize, keys: Option<&CudaSlice<u16>>, numbers: [usize; 3]| {
            let kernel = Kernel {
                file: "clusters",
                entry,
                macros: vec![("HEAD_DIM", head_dim), ("BLOCK_K", blocks.block_size_k)],
            };
            let launch = Launch { grid: (n.div_ceil(WARPS), n_kv_heads), block: (32 * WARPS, 1), shared: 0 };
            let mut args: Vec<Arg> = keys.into_iter().chain([&means]).map(|x| gpu.pointer(x)).collect();
            args.extend([&spreads, &sums].map(|x| gpu.pointer(x)));
            args.extend(numbers.map(|n| Arg::Int(n as i32)));
            // SAFETY: as the header of kernels/clusters.cu says; all keys were appended, the levels below are there.
            unsafe { gpu.launch(&kernel, launch, &args) }
        };
        run("clusters_of_blocks", levels[0], Some(keys), [blocks.n_tokens, n_kv_heads, n_nodes])?;
        let mut below = 0;
        for pair in levels.windows(2) {
            run("clusters_of_nodes", pair[1], None, [n_nodes, below, pair[0]])?;
            below += pair[0];
        }
        Ok(Nodes { n_nodes, means, spreads: Spreads::OfClusters(spreads) })
    }

    /// Means, variances and spreads as kernels/search_hierarchical.cu takes them.
    pub fn args(&self, gpu: &Gpu) -> [Arg; 3] {
        match &self.spreads {
            Spreads::OfDimensions(variances) => {
                [gpu.pointer(&self.means), gpu.pointer(variances), Arg::Pointer(0)]
            }
            Spreads::OfClusters(spreads) => [gpu.pointer(&self.means), Arg::Pointer(0), gpu.pointer(spreads)],
        }
    }
}

/// Nodes of each level, from the key blocks up to one node.
fn levels(n_key_blocks: usize) -> Vec<usize> {
    let halved = |&n: &usize| (n > 1).then(|| n.div_ceil(2));
    std::iter::successors(Some(n_key_blocks), halved).collect()
}
