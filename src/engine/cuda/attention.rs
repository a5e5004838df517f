//! Attention of one layer on a GPU, over kept blocks or over all keys, and its record.

use std::ops::Range;

use super::{
    array::Array,
    kernel_params::KernelParams,
    launch::{Settings, parts, sizes},
    layer::Layer,
    module::{Kernel, Work},
    params::{
        self, AttentionParams, AttentionPartsParams, AttentionRecordedParams, AttentionWithoutParams, Focus,
        Parts, RecordParams, Rows,
    },
    pointer::TensorMap,
    tensor::Tensor,
    vertical::Anchors,
};
use crate::{
    engine::device::AttentionShape,
    error::Error,
    protocol::{Edges, Hidden},
};

/// Rows of output and their log-sum-exp.
type Attended = (Tensor, Array<f32>);

/// Numbers of an edge in kernels/attention.cu.
const EDGE: usize = 6;

/// Returns edges as kernels/attention.cu takes them.
fn numbers(edges: &Edges, stays: i32) -> [i32; EDGE] {
    let [q0, q1, k0, k1] = [edges.queries.start, edges.queries.end, edges.keys.start, edges.keys.end]
        .map(|token| i32::try_from(token).unwrap_or(i32::MAX));
    [edges.head.map_or(-1, |head| head as i32), q0, q1, k0, k1, stays]
}

/// What a pass over probabilities records.
#[derive(Clone, Copy)]
struct Recorded {
    /// Of all keys what they receive, and nothing else; else of kept blocks, and their mass.
    all_keys: bool,
    received: bool,
    anchors: bool,
}

impl Layer {
    /// Computes attention over the kept blocks.
    pub(super) fn attention_sparse(&self, queries: &Tensor, first: usize) -> Result<Attended, Error> {
        self.run(&self.settings, "attention_sparse", queries, first)
    }

    /// Computes attention over all keys.
    pub(super) fn attention_dense(&self, queries: &Tensor, first: usize) -> Result<Attended, Error> {
        self.run(&self.reading_all(queries, first), "attention_dense", queries, first)
    }

    /// Computes attention over the kept blocks or over all keys, of which nothing is recorded.
    pub(super) fn attention(&self, queries: &Tensor, first: usize, dense: bool) -> Result<Tensor, Error> {
        let AttentionShape { blocks, n_heads, .. } = &self.shape;
        let n_keys = if dense { blocks.n_tokens } else { self.budgets.most() * blocks.block_size_k };
        let is_row = dense && self.place.is_some();
        let settings = if is_row { self.settings.of_one_row() } else { self.settings.clone() };
        let n_parts = match self.shape.query_blocks(first, queries.n_rows).len() {
            1 => parts(*n_heads, settings.block_q, n_keys),
            _ => 1,
        };
        if n_parts > 1 || self.place.is_some() {
            let entry = if dense { "attention_dense_parts" } else { "attention_sparse_parts" };
            return self.run_in_parts(&settings, n_parts, entry, queries, first);
        }
        let attended = match dense {
            true => self.attention_dense(queries, first)?,
            false => self.attention_sparse(queries, first)?,
        };
        Ok(attended.0)
    }

    /// Computes attention and records it. In an exact run keys receive from all queries that see them, which takes a
    /// pass of its own.
    pub(super) fn attention_recorded(&mut self, queries: &Tensor, first: usize) -> Result<Attended, Error> {
        let (exact, anchors) = (self.shape.config.exact, self.anchors.is_some());
        let kept = Recorded { all_keys: false, received: !exact, anchors: anchors && !exact };
        if !exact && !self.settings.takes_maps() {
            return self.run_recorded(kept, queries, first);
        }
        let attended = match exact {
            true => self.attention_dense(queries, first)?,
            false => self.attention_sparse(queries, first)?,
        };
        self.record(&self.settings, kept, queries, first, &attended.1)?;
        if exact {
            let all = Recorded { all_keys: true, received: true, anchors };
            self.record(&self.reading_all(queries, first), all, queries, first, &attended.1)?;
        }
        Ok(attended)
    }

    /// Returns the parameters of attention; `tensors` are those of queries, keys and values.
    pub(super) fn attention_params<T>(
        &self,
        tensors: [T; 3],
        rows: Rows,
        output: &Tensor,
        lse: Option<&Array<f32>>,
    ) -> AttentionParams<T> {
        let [queries, keys, values] = tensors;
        AttentionParams {
            queries,
            keys,
            values,
            mask: self.mask(),
            out: self.gpu.pointer(&output.data),
            lse: lse.map(|lse| self.gpu.pointer(lse)),
            sinks: self.sinks.as_ref().map(|sinks| sinks.pointer(&self.gpu)),
            rows,
            sizes: sizes(&self.shape),
        }
    }

    /// Returns the tokens of queries whose first is that of query block `first`.
    pub(super) fn tokens(&self, queries: &Tensor, first: usize) -> Range<usize> {
        let start = first * self.shape.blocks.block_size_q;
        start..start + queries.n_rows
    }

    fn reading_all(&self, queries: &Tensor, first: usize) -> Settings {
        self.settings.reading_all(self.tokens(queries, first), self.shape.blocks.n_tokens)
    }

    fn run(
        &self,
        settings: &Settings,
        entry: &'static str,
        queries: &Tensor,
        first: usize,
    ) -> Result<Attended, Error> {
        let gpu = &self.gpu;
        let output = Tensor::new(gpu, queries.n_rows, queries.width)?;
        let lse = gpu.alloc::<f32>(self.shape.n_heads * queries.n_rows)?;
        let (rows, n_blocks) = settings.rows(&self.tokens(queries, first));
        let launch = settings.attention(entry, n_blocks);
        if settings.takes_maps() {
            let [keys, values] = [&self.keys, &self.values].map(|x| self.key_map(settings, x));
            let maps = [self.query_map(queries)?, keys?, values?];
            self.launch(launch, &self.attention_params(maps, rows, &output, Some(&lse)))?;
        } else {
            let pointers = [&*queries.data, &self.keys, &self.values].map(|x| gpu.pointer(x));
            self.launch(launch, &self.attention_params(pointers, rows, &output, Some(&lse)))?;
        }
        Ok((output, lse))
    }

    /// Computes attention over the kept blocks and records it, in one pass over keys and values.
    fn run_recorded(&mut self, what: Recorded, queries: &Tensor, first: usize) -> Result<Attended, Error> {
        let tokens = self.tokens(queries, first);
        let found = self.found.take().filter(|found| found.tokens == tokens);
        let gpu = &self.gpu;
        let output = Tensor::new(gpu, queries.n_rows, queries.width)?;
        let lse = gpu.alloc::<f32>(self.shape.n_heads * queries.n_rows)?;
        let (rows, n_blocks) = self.settings.rows(&tokens);
        let [queries, keys, values] = [&*queries.data, &self.keys, &self.values].map(|x| gpu.pointer(x));
        let params = AttentionRecordedParams {
            attention: self.attention_params([queries, keys, values], rows, &output, Some(&lse)),
            record: self.record_params([queries, keys], what, rows, &lse),
            found: found.as_ref().map(|found| gpu.pointer(&found.norms)),
        };
        self.launch(self.settings.attention_recorded(n_blocks, what.anchors), &params)?;
        Ok((output, lse))
    }

    /// Computes attention over the kept blocks, or all keys in an exact run, without the edges in `hidden`.
    pub(super) fn attention_without(
        &self,
        queries: &Tensor,
        first: usize,
        hidden: &Hidden,
    ) -> Result<Tensor, Error> {
        let exact = self.shape.config.exact;
        let gpu = &self.gpu;
        let edges =
            |edges: &[Edges], stays: i32| edges.iter().flat_map(|e| numbers(e, stays)).collect::<Vec<i32>>();
        let hidden = gpu.upload(&[edges(&hidden.hide, 0), edges(&hidden.keep, 1)].concat())?;
        let output = Tensor::new(gpu, queries.n_rows, queries.width)?;
        let tensors = [&*queries.data, &self.keys, &self.values].map(|x| gpu.pointer(x));
        let rows = Rows { first_block: first as i32, n_rows: queries.n_rows as i32 };
        let params = AttentionWithoutParams {
            attention: self.attention_params(tensors, rows, &output, None),
            hidden: params::Hidden { edges: gpu.pointer(&hidden), n_hidden: (hidden.len() / EDGE) as i32 },
        };
        let n_blocks = self.shape.query_blocks(first, queries.n_rows).len();
        let without = if exact { "attention_dense_without" } else { "attention_without" };
        let (kernel, work) = self.settings.attention(without, n_blocks);
        // SAFETY: as the header of kernels/attention.cu says.
        unsafe { gpu.launch(&kernel, work, &params)? };
        Ok(output)
    }

    /// Shares the keys of each row out among `n_parts` thread blocks.
    fn run_in_parts(
        &self,
        settings: &Settings,
        n_parts: usize,
        entry: &'static str,
        queries: &Tensor,
        first: usize,
    ) -> Result<Tensor, Error> {
        let gpu = &self.gpu;
        let output = Tensor::new(gpu, queries.n_rows, queries.width)?;
        let n_lses = self.shape.n_heads * queries.n_rows;
        let (outs, lses) = (gpu.alloc(n_parts * output.len())?, gpu.alloc(n_parts * n_lses)?);
        let (rows, n_blocks) = settings.rows(&self.tokens(queries, first));
        let pointers = [&*queries.data, &self.keys, &self.values].map(|x| gpu.pointer(x));
        let params = AttentionPartsParams {
            attention: self.attention_params(pointers, rows, &output, None),
            parts: Parts { outs: gpu.pointer(&outs), lses: gpu.pointer(&lses), n_parts: n_parts as i32 },
            place: self.place.as_ref().map(|place| place.pointer(gpu)),
        };
        self.launch(settings.attention(entry, n_blocks * n_parts), &params)?;
        self.launch(settings.attention("attention_of_parts", queries.n_rows), &params)?;
        Ok(output)
    }

    /// Records the attention of rows whose log-sum-exp is `lse`.
    fn record(
        &self,
        settings: &Settings,
        what: Recorded,
        queries: &Tensor,
        first: usize,
        lse: &Array<f32>,
    ) -> Result<(), Error> {
        let (rows, n_blocks) = settings.rows(&self.tokens(queries, first));
        let launch = settings.record(n_blocks, what.anchors, what.all_keys);
        if settings.takes_maps() {
            let maps = [self.query_map(queries)?, self.key_map(settings, &self.keys)?];
            self.launch(launch, &self.record_params(maps, what, rows, lse))
        } else {
            let pointers = [&*queries.data, &self.keys].map(|x| self.gpu.pointer(x));
            self.launch(launch, &self.record_params(pointers, what, rows, lse))
        }
    }

    /// Returns the parameters of the record; `tensors` are those of queries and keys.
    fn record_params<T>(
        &self,
        tensors: [T; 2],
        what: Recorded,
        rows: Rows,
        lse: &Array<f32>,
    ) -> RecordParams<T> {
        let (gpu, focus) = (&self.gpu, &self.shape.focus);
        let [queries, keys] = tensors;
        let shares = self.proximity.as_ref().filter(|_| !what.all_keys);
        RecordParams {
            queries,
            keys,
            mask: self.mask(),
            lse: gpu.pointer(lse),
            mass: gpu.pointer(&self.mass),
            received: what.received.then(|| gpu.pointer(&self.received)),
            shares: shares.map(|proximity| gpu.pointer(&proximity.shares)),
            focus: Focus { rows: gpu.pointer(&self.focus), first: focus.start as i32, end: focus.end as i32 },
            anchors: Anchors::params(self.anchors.as_ref().filter(|_| what.anchors), gpu),
            rows,
            sizes: sizes(&self.shape),
        }
    }

    fn launch(&self, (kernel, work): (Kernel, Work), params: &impl KernelParams) -> Result<(), Error> {
        // SAFETY: as the headers of kernels/attention.cu, attention_record.cu and those for Hopper say: the
        // parameters are of this layer and of rows of its prompt.
        unsafe { self.gpu.launch(&kernel, work, params) }
    }

    fn query_map(&self, queries: &Tensor) -> Result<TensorMap, Error> {
        self.gpu.map(&queries.data, queries.n_rows, self.shape.n_heads, self.shape.head_dim, 64)
    }

    /// Returns a map of this layer's keys or values.
    fn key_map(&self, settings: &Settings, x: &Array<u16>) -> Result<TensorMap, Error> {
        let shape = &self.shape;
        self.gpu.map(x, shape.blocks.n_tokens, shape.n_kv_heads, shape.head_dim, settings.block_k)
    }
}
