//! Times each stage of a layer on this card, for `streamtrace bench`.

use serde::Serialize;

use super::{Cuda, Tensor, nodes::Nodes, stopwatch::Stopwatch};
use crate::{
    engine::{
        device::{AttentionShape, Device, LayerAttention},
        model::config::Activation,
        peers::Parts,
    },
    error::Error,
    trace::{Blocks, Budgets, Span, StreamConfig},
};

/// The shape of a decoder's layers.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct LayerShape {
    pub n_heads: usize,
    pub n_kv_heads: usize,
    pub head_dim: usize,
    pub hidden_size: usize,
    pub intermediate_size: usize,
}

/// One stage of one layer over a whole prompt.
#[derive(Clone, Debug, Serialize)]
pub struct Stage {
    pub name: &'static str,
    /// Median of the runs.
    pub milliseconds: f64,
    /// Floating-point operations of the products, 10¹² a second; 0 for stages that only move numbers.
    pub tflops: f64,
    /// Bytes read and written once, 10⁹ a second; 0 for stages that multiply.
    pub gigabytes_per_second: f64,
    /// Share of the card's rate in one large product, one large copy, or one large transfer from pinned
    /// memory.
    pub share_of_limit: f64,
}

/// The main work of a stage.
#[derive(Clone, Copy)]
enum Work {
    /// Floating-point operations on the tensor cores.
    Products(f64),
    /// Bytes of the card's memory.
    Moves(u64),
    /// Bytes from the host.
    Transfers(u64),
}

/// Rows that products and copies are timed on.
const ROWS: usize = 8192;

/// Numbers of a large copy.
const LARGE: usize = 1 << 29;

/// Times the stages of a layer over `n_tokens` random tokens.
///
/// # Errors
/// [`Error::Device`] and [`Error::Setting`] when the card has no room or no kernels for it.
pub fn layer(
    cuda: &Cuda,
    shape: LayerShape,
    n_tokens: usize,
    config: &StreamConfig,
    repeats: usize,
) -> Result<Vec<Stage>, Error> {
    let timer = Timer::new(cuda, repeats)?;
    let mut stages = attention(&timer, shape, n_tokens, config)?;
    stages.extend(products(&timer, shape, n_tokens)?);
    Ok(stages)
}

fn attention(
    timer: &Timer,
    shape: LayerShape,
    n_tokens: usize,
    config: &StreamConfig,
) -> Result<Vec<Stage>, Error> {
    let (cuda, LayerShape { n_heads, n_kv_heads, head_dim, .. }) = (timer.cuda, shape);
    let blocks = Blocks {
        n_tokens,
        block_size_q: config.block_size_q,
        block_size_k: config.block_size_k,
        window: None,
    };
    let focus = Span::from(n_tokens.saturating_sub(StreamConfig::DEFAULT_FOCUS)..n_tokens);
    let (capacity, soft_cap, sentences) = (n_tokens, None, [].into());
    let config = config.clone();
    let shape = AttentionShape {
        blocks,
        capacity,
        parts: Parts::default(),
        n_heads,
        n_kv_heads,
        head_dim,
        config,
        soft_cap,
        sinks: [].into(),
        focus,
        sentences,
    };
    let mut attention = cuda.layer(shape.clone())?;
    let queries = random(cuda, n_tokens, n_heads * head_dim)?;
    let (keys, values) =
        (random(cuda, n_tokens, n_kv_heads * head_dim)?, random(cuda, n_tokens, n_kv_heads * head_dim)?);
    attention.append(&keys, &values)?;
    attention.index()?;
    attention.share_out(Budgets::uniform(n_heads, shape.config.top_k))?;
    attention.search(&queries, 0)?;
    let n_read = attention.keys_read()?;
    let searched = Work::Products((2 * n_read * (shape.config.block_size_q * head_dim) as u64) as f64);
    let kept = (n_tokens * shape.config.top_k * shape.config.block_size_k * n_heads * head_dim) as f64;
    let of_keys = 2 * keys.len() as u64;
    let indexed = Work::Moves(of_keys + 4 * of_keys / shape.config.block_size_k as u64);
    let mut stages = vec![
        timer.stage("pyramid", indexed, || Nodes::new(&cuda.gpu, &shape, &keys.data).map(drop))?,
        timer.stage("search", searched, || attention.search(&queries, 0))?,
        timer.stage("attention and record", Work::Products(6.0 * kept), || {
            attention.attend(&queries, 0).map(drop)
        })?,
    ];
    // Neither stage waits for the host, and the host does not need their results: one graph replays both.
    let (graph, _memory, ()) = cuda.gpu.captured(|| {
        attention.search(&queries, 0)?;
        attention.attend(&queries, 0).map(drop)
    })?;
    let replay = || graph.launch().map_err(|e| cuda.gpu.failed("a graph could not be replayed", e));
    stages.push(timer.stage("the two above, as a graph", Work::Products(6.0 * kept), replay)?);
    Ok(stages)
}

fn products(timer: &Timer, shape: LayerShape, n_tokens: usize) -> Result<Vec<Stage>, Error> {
    let (cuda, LayerShape { n_heads, n_kv_heads, head_dim, hidden_size, intermediate_size }) =
        (timer.cuda, shape);
    let rows = n_tokens.min(ROWS);
    let whole = n_tokens as f64 / rows as f64;
    let (x, activated) = (random(cuda, rows, hidden_size)?, random(cuda, rows, intermediate_size)?);
    let weight = |n_out, n_in| random(cuda, n_out, n_in);
    let [d_q, d_kv] = [n_heads * head_dim, n_kv_heads * head_dim];
    let attended = random(cuda, rows, d_q)?;
    let of_hidden =
        [weight(d_q, hidden_size)?, weight(d_kv, hidden_size)?, weight(intermediate_size, hidden_size)?];
    let (output, down) = (weight(hidden_size, d_q)?, weight(hidden_size, intermediate_size)?);
    let [query, key, gate] = &of_hidden;
    let all = [
        (&x, query),
        (&x, key),
        (&x, key),
        (&attended, &output),
        (&x, gate),
        (&x, gate),
        (&activated, &down),
    ];
    let n_weights: usize = all.iter().map(|(_, weight)| weight.len()).sum();
    let multiply = || all.iter().try_for_each(|(x, weight)| cuda.linear(x, weight, None).map(drop));
    let products = timer.stage("products", Work::Products(2.0 * (rows * n_weights) as f64), multiply)?;
    let of_gate = Work::Moves(6 * activated.len() as u64);
    let swiglu =
        timer.stage("swiglu", of_gate, || cuda.gated(&activated, &activated, Activation::Silu).map(drop))?;
    let (host, mut copy) = (vec![0u8; 2 * n_weights], cuda.gpu.alloc(n_weights)?);
    let upload = || cuda.gpu.upload_bytes(&cuda.gpu.stream, &host, &mut copy);
    let weights = timer.stage("weights to the card", Work::Transfers(host.len() as u64), upload)?;
    Ok(vec![products.times(whole), swiglu.times(whole), weights])
}

impl Stage {
    /// Returns the same stage over more rows, at the same rates.
    fn times(self, factor: f64) -> Self {
        Stage { milliseconds: self.milliseconds * factor, ..self }
    }
}

struct Timer<'a> {
    cuda: &'a Cuda,
    repeats: usize,
    /// Rates that the card reaches: 10¹² operations, and twice 10⁹ bytes a second.
    products: f64,
    moves: f64,
    transfers: f64,
}

impl<'a> Timer<'a> {
    fn new(cuda: &'a Cuda, repeats: usize) -> Result<Self, Error> {
        let mut timer =
            Timer { cuda, repeats, products: f64::INFINITY, moves: f64::INFINITY, transfers: f64::INFINITY };
        let (gpu, square) = (&cuda.gpu, random(cuda, ROWS, ROWS)?);
        let flops = Work::Products(2.0 * (ROWS as f64).powi(3));
        timer.products =
            timer.stage("a product", flops, || cuda.linear(&square, &square, None).map(drop))?.tflops;
        let (from, mut to) = (gpu.alloc::<u16>(LARGE)?, gpu.alloc::<u16>(LARGE)?);
        let moves =
            timer.stage("a copy", Work::Moves(4 * LARGE as u64), || gpu.copy(&from, 0, &mut to, 0, LARGE))?;
        let pinned = gpu.pinned(LARGE / 4)?;
        let transfers = timer.stage("a transfer", Work::Transfers(LARGE as u64 / 2), || {
            gpu.fetch(&gpu.stream, &pinned, &mut to)
        })?;
        (timer.moves, timer.transfers) = (moves.gigabytes_per_second, transfers.gigabytes_per_second);
        Ok(timer)
    }

    /// Measures the median time of `run` on the card, after one run to warm up.
    fn stage(
        &self,
        name: &'static str,
        work: Work,
        mut run: impl FnMut() -> Result<(), Error>,
    ) -> Result<Stage, Error> {
        let gpu = &self.cuda.gpu;
        run()?;
        let mut times = Vec::new();
        for _ in 0..self.repeats.max(1) {
            let mut stopwatch = Stopwatch::default();
            let start = Stopwatch::start(gpu)?;
            run()?;
            stopwatch.stop(gpu, start)?;
            times.push(stopwatch.spent(gpu)?.as_secs_f64() * 1e3);
        }
        times.sort_by(f64::total_cmp);
        let milliseconds = times[times.len() / 2];
        let rate = |n: f64| n / milliseconds / 1e6;
        let (tflops, gigabytes_per_second, limit) = match work {
            Work::Products(flops) => (rate(flops) / 1e3, 0.0, self.products),
            Work::Moves(bytes) => (0.0, rate(bytes as f64), self.moves),
            Work::Transfers(bytes) => (0.0, rate(bytes as f64), self.transfers),
        };
        Ok(Stage {
            name,
            milliseconds,
            tflops,
            gigabytes_per_second,
            share_of_limit: (tflops + gigabytes_per_second) / limit,
        })
    }
}

/// Returns random numbers of mean 0 and spread 1, evenly distributed.
fn random(cuda: &Cuda, n_rows: usize, width: usize) -> Result<Tensor, Error> {
    let mut random = fastrand::Rng::with_seed(n_rows as u64 ^ width as u64);
    // A million different numbers, repeated: as good for timing, and made a hundred times faster.
    let piece: Vec<u8> = (0..(1usize << 20) + 24)
        .flat_map(|_| half::bf16::from_f32(3.4641 * (random.f32() - 0.5)).to_le_bytes())
        .collect();
    let bytes: Vec<u8> = piece.iter().copied().cycle().take(2 * n_rows * width).collect();
    Tensor::filled(&cuda.gpu, n_rows, width, |data| cuda.gpu.upload_bytes(&cuda.gpu.stream, &bytes, data))
}
