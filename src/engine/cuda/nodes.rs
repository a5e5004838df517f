//! Means and spreads of the nodes over key blocks, for estimates: made on the card once all keys are there.

use super::{
    array::Array,
    gpu::Gpu,
    module::{Kernel, Work},
    params::{self, ClusterParams, PyramidParams},
};
use crate::{
    engine::device::AttentionShape,
    error::Error,
    trace::{Estimate, Search},
};

/// Numbers of the nodes of all levels, as kernels/pyramid.cu and kernels/clusters.cu order them.
pub struct Nodes {
    n_nodes: usize,
    /// `[n_kv_heads, n_nodes, head_dim]`, of two clusters `[n_kv_heads, n_nodes, 2, head_dim]`
    means: Array<u16>,
    spreads: Spreads,
}

enum Spreads {
    /// Variances `[n_kv_heads, n_nodes, head_dim]`
    OfDimensions(Array<u16>),
    /// `[n_kv_heads, n_nodes, 2]`
    OfClusters(Array<f32>),
}

impl Nodes {
    /// Makes the nodes that a layer's search reads; `None` if it only reads keys.
    pub fn new(gpu: &Gpu, shape: &AttentionShape, keys: &Array<u16>) -> Result<Option<Self>, Error> {
        match shape.config.search {
            Search::Hierarchical(Estimate::MeanSpread) => Self::mean_spread(gpu, shape, keys).map(Some),
            Search::Hierarchical(Estimate::TwoMeans) => Self::two_means(gpu, shape, keys).map(Some),
            _ => Ok(None),
        }
    }

    /// Computes mean and variance of each node's keys. `keys` is `[n_tokens, n_kv_heads, head_dim]`
    fn mean_spread(gpu: &Gpu, shape: &AttentionShape, keys: &Array<u16>) -> Result<Self, Error> {
        let AttentionShape { blocks, n_kv_heads, head_dim, .. } = *shape;
        let kernel = |entry| {
            Kernel::new("pyramid", entry).with("HEAD_DIM", head_dim).with("BLOCK_K", blocks.block_size_k)
        };
        let of_spans = kernel("pyramid_spans");
        let span = gpu.loaded(&of_spans)?.geometry.items;
        let levels = levels(blocks.n_key_blocks());
        let n_nodes: usize = levels.iter().sum();
        let in_spans: usize = levels.iter().take(span.ilog2() as usize + 1).sum();
        let n_spans = blocks.n_key_blocks().div_ceil(span);
        let means = gpu.alloc(n_kv_heads * n_nodes * head_dim)?;
        let variances = gpu.alloc(n_kv_heads * n_nodes * head_dim)?;
        let spans = gpu.alloc::<f32>(n_kv_heads * n_spans * 2 * head_dim)?;
        let params = PyramidParams {
            keys: gpu.pointer(keys),
            means: gpu.pointer(&means),
            variances: gpu.pointer(&variances),
            spans: gpu.pointer(&spans),
            n_tokens: blocks.n_tokens as i32,
            n_kv_heads: n_kv_heads as i32,
            n_spans: n_spans as i32,
            n_nodes: n_nodes as i32,
        };
        // SAFETY: as the header of kernels/pyramid.cu says; all keys were appended.
        unsafe {
            gpu.launch(&of_spans, Work::new(blocks.n_key_blocks(), n_kv_heads), &params)?;
            gpu.launch(&kernel("pyramid_top"), Work::new(n_nodes - in_spans, n_kv_heads), &params)?;
        }
        Ok(Nodes { n_nodes, means, spreads: Spreads::OfDimensions(variances) })
    }

    /// Makes two clusters of each node's keys. `keys` is `[n_tokens, n_kv_heads, head_dim]`
    fn two_means(gpu: &Gpu, shape: &AttentionShape, keys: &Array<u16>) -> Result<Self, Error> {
        let AttentionShape { blocks, n_kv_heads, head_dim, .. } = *shape;
        let levels = levels(blocks.n_key_blocks());
        let n_nodes: usize = levels.iter().sum();
        let means = gpu.alloc(n_kv_heads * n_nodes * 2 * head_dim)?;
        let spreads = gpu.alloc::<f32>(n_kv_heads * n_nodes * 2)?;
        let sums = gpu.alloc::<f32>(n_kv_heads * n_nodes * 4)?;
        let run = |entry, n: usize, below: usize, n_children: usize| {
            let kernel = Kernel::new("clusters", entry)
                .with("HEAD_DIM", head_dim)
                .with("BLOCK_K", blocks.block_size_k);
            let params = ClusterParams {
                keys: gpu.pointer(keys),
                means: gpu.pointer(&means),
                spreads: gpu.pointer(&spreads),
                sums: gpu.pointer(&sums),
                n_tokens: blocks.n_tokens as i32,
                n_kv_heads: n_kv_heads as i32,
                n_nodes: n_nodes as i32,
                below: below as i32,
                n_children: n_children as i32,
            };
            // SAFETY: as the header of kernels/clusters.cu says; all keys were appended, the levels below are
            // there.
            unsafe { gpu.launch(&kernel, Work::new(n, n_kv_heads), &params) }
        };
        run("clusters_of_blocks", levels[0], 0, 0)?;
        let mut below = 0;
        for pair in levels.windows(2) {
            run("clusters_of_nodes", pair[1], below, pair[0])?;
            below += pair[0];
        }
        Ok(Nodes { n_nodes, means, spreads: Spreads::OfClusters(spreads) })
    }

    /// Returns the parameters of the hierarchical search; null without nodes.
    pub fn params(nodes: Option<&Self>, gpu: &Gpu) -> params::Nodes {
        let Some(nodes) = nodes else { return params::Nodes::default() };
        let (variances, spreads) = match &nodes.spreads {
            Spreads::OfDimensions(variances) => (Some(gpu.pointer(variances)), None),
            Spreads::OfClusters(spreads) => (None, Some(gpu.pointer(spreads))),
        };
        params::Nodes {
            means: Some(gpu.pointer(&nodes.means)),
            variances,
            spreads,
            n_nodes: nodes.n_nodes as i32,
        }
    }
}

/// Returns the number of nodes of each level, from the key blocks up to one node.
fn levels(n_key_blocks: usize) -> Vec<usize> {
    let halved = |&n: &usize| (n > 1).then(|| n.div_ceil(2));
    std::iter::successors(Some(n_key_blocks), halved).collect()
}
