//! One layer's attention on a GPU: keys, values, nodes, mask and record stay on the card until the layer is done.

use std::ops::Range;

use cudarc::driver::CudaSlice;

use super::{
    gpu::{Arg, Gpu, Kernel, Launch},
    launch::Settings,
    nodes::Nodes,
    proximity::{Around, Proximity},
    stopwatch::Stopwatch,
    tensor::Tensor,
    vertical::Anchors,
};
use crate::{
    engine::{
        device::{AttentionShape, StageCosts},
        search::{Candidates, baseline},
    },
    error::Error,
    protocol::{Edges, Hidden},
    trace::{BlockMask, LayerRecord, MIN_DISTANCE, Search},
};

pub struct Attention {
    shape: AttentionShape,
    settings: Settings,
    /// `[capacity, n_kv_heads, head_dim]`, of which `n_rows` are there.
    keys: CudaSlice<u16>,
    values: CudaSlice<u16>,
    n_rows: usize,
    nodes: Option<Nodes>,
    /// Tokens that the nodes were made of.
    indexed: usize,
    /// `[n_heads, n_query_blocks, top_k]`
    kept: CudaSlice<u32>,
    mass: CudaSlice<f32>,
    /// `[n_heads, n_tokens]`
    received: CudaSlice<f32>,
    /// `[n_heads, n_focus, top_k · block_size_k]`
    focus: CudaSlice<f32>,
    anchors: Option<Anchors>,
    /// ‖W_O v‖, once they are weighed. `[n_heads, n_tokens]`
    written: Option<CudaSlice<f32>>,
    proximity: Option<Proximity>,
    /// Whether `kept` holds the mask that a dense run compares with.
    has_mask: bool,
    /// Nodes and keys that the hierarchical search read, and keys that were read one by one.
    n_read: CudaSlice<u64>,
    n_read_exactly: Option<u64>,
    searching: Stopwatch,
    attending: Stopwatch,
}

/// Keys that one thread block of kernels/written.cu weighs.
const WEIGHED: usize = 32;

/// Edges as kernels/attention.cu takes them.
fn numbers(edges: &Edges, stays: i32) -> [i32; 6] {
    let [q0, q1, k0, k1] = [edges.queries.start, edges.queries.end, edges.keys.start, edges.keys.end]
        .map(|token| i32::try_from(token).unwrap_or(i32::MAX));
    [edges.head.map_or(-1, |head| head as i32), q0, q1, k0, k1, stays]
}

impl Attention {
    pub fn new(gpu: &Gpu, shape: AttentionShape) -> Result<Self, Error> {
        let (n_tokens, n_heads, top_k) = (shape.capacity, shape.n_heads, shape.config.top_k);
        let n_kept = n_heads * n_tokens.div_ceil(shape.blocks.block_size_q) * top_k;
        let width = shape.n_kv_heads * shape.head_dim;
        Ok(Attention {
            settings: Settings::new(&shape, gpu.is_hopper())?,
            keys: gpu.alloc(n_tokens * width)?,
            values: gpu.alloc(n_tokens * width)?,
            n_rows: 0,
            nodes: None,
            indexed: 0,
            kept: gpu.alloc(n_kept)?,
            mass: gpu.alloc(n_kept)?,
            received: gpu.zeros(n_heads * n_tokens)?,
            focus: gpu.zeros(n_heads * shape.focus.len() * top_k * shape.blocks.block_size_k)?,
            anchors: Anchors::new(gpu, &shape)?,
            written: None,
            proximity: Proximity::new(gpu, &shape)?,
            has_mask: false,
            n_read: gpu.zeros(1)?,
            n_read_exactly: None,
            searching: Stopwatch::default(),
            attending: Stopwatch::default(),
            shape,
        })
    }

    /// Adds rows of keys and values, `[n_rows, n_kv_heads · head_dim]`.
    pub fn append(&mut self, gpu: &Gpu, keys: &Tensor, values: &Tensor) -> Result<(), Error> {
        let at = self.n_rows * keys.width;
        gpu.copy(&keys.data, 0, &mut self.keys, at, keys.len())?;
        gpu.copy(&values.data, 0, &mut self.values, at, values.len())?;
        self.n_rows += keys.n_rows;
        Ok(())
    }

    /// Keeps the first rows of keys and values, of a prompt that is as long as this from now on.
    pub fn resize(&mut self, n_rows: usize, n_tokens: usize) {
        self.n_rows = n_rows;
        self.shape.blocks.n_tokens = n_tokens;
    }

    /// Makes what the estimate reads, unless what is there still serves; uploads the mask of a search that reads no key.
    pub fn index(&mut self, gpu: &Gpu) -> Result<(), Error> {
        let AttentionShape { blocks, config, n_heads, .. } = &self.shape;
        if let Some(mask) = baseline::mask(*blocks, config, *n_heads) {
            self.kept = gpu.upload(&mask.kept)?;
        }
        if self.shape.is_indexed(self.indexed) {
            return Ok(());
        }
        self.nodes = Nodes::new(gpu, &self.shape, &self.keys)?;
        self.indexed = self.shape.blocks.n_tokens;
        Ok(())
    }

    /// Takes ‖W_O v‖ of every head and key; `weight` is `[hidden_size, n_heads · head_dim]`.
    pub fn weigh(&mut self, gpu: &Gpu, weight: &Tensor) -> Result<(), Error> {
        let AttentionShape { blocks, n_heads, n_kv_heads, head_dim, .. } = self.shape;
        let gram = gpu.alloc::<f32>(n_heads * head_dim * head_dim)?;
        let written = gpu.alloc::<f32>(n_heads * blocks.n_tokens)?;
        let kernel = |entry| Kernel { file: "written", entry, macros: vec![("HEAD_DIM", head_dim)] };
        let launch = |n| Launch { grid: (n, n_heads), block: (head_dim, 1), shared: 0 };
        let of_gram = [gpu.pointer(&weight.data), gpu.pointer(&gram), Arg::Int(weight.n_rows as i32)];
        let [n_tokens, kv] = [blocks.n_tokens, n_kv_heads].map(|n| Arg::Int(n as i32));
        let of_written = [gpu.pointer(&self.values), gpu.pointer(&gram), gpu.pointer(&written), n_tokens, kv];
        // SAFETY: as the header of kernels/written.cu says; all values were appended.
        unsafe {
            gpu.launch(&kernel("gram"), launch(head_dim), &of_gram)?;
            gpu.launch(&kernel("written"), launch(blocks.n_tokens.div_ceil(WEIGHED)), &of_written)?;
        }
        self.written = Some(written);
        Ok(())
    }

    /// Finds the kept blocks of rows of queries, `[n_rows, n_heads · head_dim]`.
    pub fn search(&mut self, gpu: &Gpu, queries: &Tensor, first_query_block: usize) -> Result<(), Error> {
        let n_read = self.n_read_exactly.get_or_insert(0);
        let (found, first) = (self.shape.query_blocks(first_query_block, queries.n_rows), first_query_block);
        let n_pruned = match self.shape.config.search {
            Search::Window | Search::Random { .. } => return Ok(()),
            Search::Exhaustive => 0,
            Search::Hierarchical(_) => {
                let first_exact = self.shape.config.first_exact_block(self.shape.blocks.n_tokens);
                first_exact.saturating_sub(first).min(found.len())
            }
        };
        let exact = first + n_pruned..found.end;
        let of_block = |block| {
            Candidates::new(&self.shape.blocks, &self.shape.config, block)
                .keys_read(self.shape.blocks.block_size_k)
        };
        *n_read += (self.shape.n_heads * exact.clone().map(of_block).sum::<usize>()) as u64;
        let start = Stopwatch::start(gpu)?;
        self.search_hierarchical(gpu, queries, first, n_pruned)?;
        self.search_exhaustive(gpu, queries, first, exact)?;
        self.searching.stop(gpu, start)
    }

    fn search_hierarchical(
        &self,
        gpu: &Gpu,
        queries: &Tensor,
        first: usize,
        n_blocks: usize,
    ) -> Result<(), Error> {
        let AttentionShape { blocks, config, n_kv_heads, .. } = &self.shape;
        if n_blocks == 0 {
            return Ok(());
        }
        let (kernel, launch) = self.settings.search_hierarchical(n_blocks);
        let mut args: Vec<Arg> = [&queries.data, &self.keys].map(|x| gpu.pointer(x)).into();
        args.extend(self.nodes.as_ref().map_or([0, 0, 0].map(Arg::Pointer), |nodes| nodes.args(gpu)));
        args.extend([gpu.pointer(&self.kept), gpu.pointer(&self.n_read)]);
        let numbers = [
            first,
            blocks.n_query_blocks(),
            blocks.n_tokens,
            blocks.window.unwrap_or(0),
            *n_kv_heads,
            self.nodes.as_ref().map_or(0, |nodes| nodes.n_nodes),
            config.sink_blocks,
            config.effective_local_blocks(),
            config.top_k,
            config.beam,
            config.split.ilog2() as usize,
            self.settings.max_frontier(),
        ];
        args.extend(numbers.map(|n| Arg::Int(n as i32)));
        // SAFETY: as the header of kernels/search_hierarchical.cu says.
        unsafe { gpu.launch(&kernel, launch, &args) }
    }

    /// Reads every key for some query blocks, of queries that start at query block `first`.
    fn search_exhaustive(
        &self,
        gpu: &Gpu,
        queries: &Tensor,
        first: usize,
        found: Range<usize>,
    ) -> Result<(), Error> {
        let AttentionShape { blocks, config, n_kv_heads, n_heads, .. } = &self.shape;
        if found.is_empty() {
            return Ok(());
        }
        let n_segments = self.settings.segments(found.len(), blocks.n_key_blocks());
        let norms = gpu.alloc::<f32>(n_heads * found.len() * n_segments * blocks.block_size_q)?;
        let scores = gpu.alloc::<u32>(n_heads * found.len() * blocks.n_key_blocks())?;
        let (n_tokens, window) = (blocks.n_tokens, blocks.window.unwrap_or(0));
        let rule = [config.sink_blocks, config.effective_local_blocks(), config.top_k];
        let ints = |numbers: &[usize]| numbers.iter().map(|&n| Arg::Int(n as i32)).collect::<Vec<_>>();
        let rows = gpu.pointer_at(&queries.data, (found.start - first) * blocks.block_size_q * queries.width);
        let args = |into: &[Arg]| {
            let read = [rows, gpu.pointer(&self.keys)];
            let numbers =
                ints(&[&[n_segments, found.start, n_tokens, window, *n_kv_heads], &rule[..]].concat());
            read.into_iter().chain(into.iter().copied()).chain(numbers).collect::<Vec<_>>()
        };
        let (of_norms, of_scores) = (gpu.pointer(&norms), gpu.pointer(&scores));
        let mut select = vec![gpu.pointer(&scores), gpu.pointer(&self.kept)];
        select.extend(ints(&[&[found.start, blocks.n_query_blocks(), n_tokens, window], &rule[..]].concat()));
        let (norm, norm_launch) = self.settings.exhaustive("exhaustive_norms", found.len() * n_segments);
        let (score, score_launch) = self.settings.exhaustive("exhaustive_scores", found.len() * n_segments);
        let (choose, choose_launch) = self.settings.exhaustive_select(found.len());
        // SAFETY: as the header of kernels/search_exhaustive.cu says; the rows of these query blocks are among the queries.
        unsafe {
            gpu.launch(&norm, norm_launch, &args(&[of_norms]))?;
            gpu.launch(&score, score_launch, &args(&[of_norms, of_scores]))?;
            gpu.launch(&choose, choose_launch, &select)
        }
    }

    /// What searching and attending took so far; waits for them.
    pub fn costs(&mut self, gpu: &Gpu) -> Result<StageCosts, Error> {
        let n_read = gpu.download(&self.n_read, 1)?[0];
        Ok(StageCosts {
            search: self.searching.spent(gpu)?,
            attention: self.attending.spent(gpu)?,
            keys_read: self.n_read_exactly.map(|n| n + n_read),
        })
    }

    /// Attention over the kept blocks of rows of queries, recording. `[n_rows, n_heads · head_dim]`
    pub fn attend(&mut self, gpu: &Gpu, queries: &Tensor, first_query_block: usize) -> Result<Tensor, Error> {
        let start = Stopwatch::start(gpu)?;
        let (output, lse) = self.run(gpu, "attention_sparse", queries, first_query_block)?;
        let AttentionShape { blocks, config, n_kv_heads, focus, .. } = &self.shape;
        let n_blocks = self.shape.query_blocks(first_query_block, queries.n_rows).len();
        let (kernel, launch) = self.settings.record(n_blocks, self.anchors.is_some());
        let mut args = self.maps(gpu, queries, &[&self.keys])?;
        args.push(gpu.pointer(&self.kept));
        args.extend([&lse, &self.mass, &self.received, &self.focus].map(|x| gpu.pointer(x)));
        args.extend(match &self.anchors {
            Some(anchors) => anchors.args(gpu),
            None => [0, 0, 0].map(Arg::Pointer),
        });
        if let Some(proximity) = &mut self.proximity {
            proximity.expect(gpu, &self.shape, n_blocks)?;
        }
        args.push(
            self.proximity.as_ref().map_or(Arg::Pointer(0), |proximity| gpu.pointer(&proximity.shares)),
        );
        let numbers = [
            first_query_block,
            queries.n_rows,
            blocks.n_query_blocks(),
            blocks.n_tokens,
            blocks.window.unwrap_or(0),
            *n_kv_heads,
            config.top_k,
            focus.start,
            focus.end,
            MIN_DISTANCE,
        ];
        args.extend(numbers.map(|n| Arg::Int(n as i32)));
        // SAFETY: as the header of kernels/attention_record.cu says.
        unsafe { gpu.launch(&kernel, launch, &args)? };
        self.attending.stop(gpu, start)?;
        Ok(output)
    }

    /// Records the proximity of what was attended last, if it is asked for; `before` and `after` are its rows around attention.
    pub fn proximity(
        &mut self,
        gpu: &Gpu,
        weight: &Tensor,
        before: &Tensor,
        after: &Tensor,
        first: usize,
    ) -> Result<(), Error> {
        let around = Around { kept: &self.kept, values: &self.values, weight, before, after };
        self.proximity.as_mut().map_or(Ok(()), |proximity| proximity.add(gpu, &self.shape, around, first))
    }

    /// Keeps the blocks of a mask instead of searching; its budget is the shape's.
    pub fn keep(&mut self, gpu: &Gpu, mask: &BlockMask) -> Result<(), Error> {
        self.kept = gpu.upload(&mask.kept)?;
        Ok(())
    }

    /// Attention over the kept blocks without what is hidden.
    pub fn attend_without(
        &self,
        gpu: &Gpu,
        queries: &Tensor,
        first: usize,
        hidden: &Hidden,
    ) -> Result<Tensor, Error> {
        if hidden.is_empty() {
            return Ok(self.run(gpu, "attention_sparse", queries, first)?.0);
        }
        let AttentionShape { blocks, config, n_kv_heads, .. } = &self.shape;
        let edges =
            |edges: &[Edges], stays: i32| edges.iter().flat_map(|e| numbers(e, stays)).collect::<Vec<i32>>();
        let hidden = gpu.upload(&[edges(&hidden.hide, 0), edges(&hidden.keep, 1)].concat())?;
        let output = Tensor::new(gpu, queries.n_rows, queries.width)?;
        let n_blocks = self.shape.query_blocks(first, queries.n_rows).len();
        let (kernel, launch) = self.settings.attention("attention_without", n_blocks);
        let mut args: Vec<Arg> = [&queries.data, &self.keys, &self.values].map(|x| gpu.pointer(x)).into();
        args.extend([gpu.pointer(&self.kept), gpu.pointer(&output.data), Arg::Pointer(0)]);
        let window = blocks.window.unwrap_or(0);
        let sizes = [
            first,
            1,
            queries.n_rows,
            blocks.n_query_blocks(),
            blocks.n_tokens,
            window,
            *n_kv_heads,
            config.top_k,
        ];
        args.extend(sizes.map(|n| Arg::Int(n as i32)));
        args.extend([gpu.pointer(&hidden), Arg::Int((hidden.len() / 6) as i32)]);
        // SAFETY: as the header of kernels/attention.cu says.
        unsafe { gpu.launch(&kernel, launch, &args)? };
        Ok(output)
    }

    /// Attention over all keys; adds to each head the mass that falls on the mask's blocks.
    pub fn attend_dense(
        &mut self,
        gpu: &Gpu,
        queries: &Tensor,
        first: usize,
        mask: &BlockMask,
        kept_mass: &mut [f64],
    ) -> Result<Tensor, Error> {
        let (output, lse) = self.run(gpu, "attention_dense", queries, first)?;
        if mask.top_k == 0 {
            return Ok(output);
        }
        if !self.has_mask {
            self.shape.config.top_k = mask.top_k;
            self.kept = gpu.upload(&mask.kept)?;
            self.has_mask = true;
        }
        let (_, lse_kept) = self.run(gpu, "attention_sparse", queries, first)?;
        let recall = gpu.zeros::<f32>(self.shape.n_heads)?;
        let args = [
            gpu.pointer(&lse_kept),
            gpu.pointer(&lse),
            gpu.pointer(&recall),
            Arg::Int(queries.n_rows as i32),
        ];
        let kernel = Kernel { file: "recall", entry: "recall", macros: Vec::new() };
        let launch = Launch { grid: (self.shape.n_heads, 1), block: (256, 1), shared: 0 };
        // SAFETY: as the header of kernels/recall.cu says.
        unsafe { gpu.launch(&kernel, launch, &args)? };
        let recall = gpu.download(&recall, self.shape.n_heads)?;
        kept_mass.iter_mut().zip(recall).for_each(|(sum, mass)| *sum += mass as f64);
        Ok(output)
    }

    /// Output and log-sum-exp of an attention kernel.
    fn run(
        &self,
        gpu: &Gpu,
        entry: &'static str,
        queries: &Tensor,
        first: usize,
    ) -> Result<(Tensor, CudaSlice<f32>), Error> {
        let AttentionShape { blocks, config, n_kv_heads, n_heads, .. } = &self.shape;
        let output = Tensor::new(gpu, queries.n_rows, queries.width)?;
        let lse = gpu.alloc::<f32>(n_heads * queries.n_rows)?;
        let (kernel, launch) =
            self.settings.attention(entry, self.shape.query_blocks(first, queries.n_rows).len());
        let mut args = self.maps(gpu, queries, &[&self.keys, &self.values])?;
        args.extend([gpu.pointer(&self.kept), gpu.pointer(&output.data), gpu.pointer(&lse)]);
        let window = blocks.window.unwrap_or(0);
        let numbers = [
            first,
            1,
            queries.n_rows,
            blocks.n_query_blocks(),
            blocks.n_tokens,
            window,
            *n_kv_heads,
            config.top_k,
        ];
        args.extend(numbers.map(|n| Arg::Int(n as i32)));
        // SAFETY: as the headers of kernels/attention.cu and attention_sm90.cu say.
        unsafe { gpu.launch(&kernel, launch, &args)? };
        Ok((output, lse))
    }

    /// Queries and keys or values as the kernels take them: pointers, or maps for Hopper's copy engine.
    fn maps(&self, gpu: &Gpu, queries: &Tensor, keys: &[&CudaSlice<u16>]) -> Result<Vec<Arg>, Error> {
        if !self.settings.takes_maps() {
            return Ok([&*queries.data]
                .into_iter()
                .chain(keys.iter().copied())
                .map(|x| gpu.pointer(x))
                .collect());
        }
        let AttentionShape { blocks, n_heads, n_kv_heads, head_dim, .. } = self.shape;
        let mut maps = vec![gpu.map(&queries.data, queries.n_rows, n_heads, head_dim, 64)?];
        for &x in keys {
            maps.push(gpu.map(x, blocks.n_tokens, n_kv_heads, head_dim, blocks.block_size_k)?);
        }
        Ok(maps)
    }

    /// Means over the keys of each block, weighted by what they received. `[n_heads, n_key_blocks]`
    fn means_of_blocks(&self, gpu: &Gpu, lengths: &CudaSlice<f32>) -> Result<Vec<f32>, Error> {
        let AttentionShape { blocks, n_heads, head_dim, .. } = self.shape;
        let n = blocks.n_key_blocks();
        let means = gpu.alloc::<f32>(n_heads * n)?;
        let pointers = [lengths, &self.received, &means].map(|x| gpu.pointer(x));
        let numbers = [blocks.n_tokens, blocks.block_size_k].map(|n| Arg::Int(n as i32));
        let kernel =
            Kernel { file: "written", entry: "written_of_blocks", macros: vec![("HEAD_DIM", head_dim)] };
        let launch = Launch { grid: (n.div_ceil(256), n_heads), block: (256, 1), shared: 0 };
        // SAFETY: as the header of kernels/written.cu says.
        unsafe { gpu.launch(&kernel, launch, &[&pointers[..], &numbers].concat())? };
        gpu.download(&means, n_heads * n)
    }

    pub fn into_record(self, gpu: &Gpu) -> Result<LayerRecord, Error> {
        let AttentionShape { blocks, n_heads, config, focus, .. } = &self.shape;
        let mut mask = BlockMask::empty(*blocks, *n_heads, config.top_k);
        let n_kept = mask.kept.len();
        mask.kept = gpu.download(&self.kept, n_kept)?;
        let written = self.written.as_ref().map(|lengths| self.means_of_blocks(gpu, lengths));
        let vertical = self.anchors.as_ref().map(|anchors| anchors.vertical(gpu, &self.shape));
        Ok(LayerRecord {
            mask,
            mass: gpu.download(&self.mass, n_kept)?,
            written: written.transpose()?.unwrap_or_default(),
            vertical: vertical.transpose()?.unwrap_or_default(),
            proximity: self
                .proximity
                .map_or(Ok(Vec::new()), |proximity| proximity.into_shares(gpu, &self.shape))?,
            residual: Vec::new(),
            received: gpu.download(&self.received, n_heads * blocks.n_tokens)?,
            focus: gpu.download(&self.focus, n_heads * focus.len() * config.top_k * blocks.block_size_k)?,
        })
    }
}
