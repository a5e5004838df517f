//! One layer's attention on a GPU: keys, values, nodes, mask and record stay on the card until the layer is
//! done.

use std::sync::Arc;

use super::{
    array::Array,
    gpu::Gpu,
    launch::Settings,
    module::{Kernel, Work},
    nccl::Nccl,
    nodes::Nodes,
    operations::{n_vectors, same},
    params::{AppendParams, LengthsParams, Mask, RecallParams},
    proximity::{Around, Proximity},
    repeat::{Place, Repeater},
    sample::Sampled,
    scored::{Found, Scored},
    sinks::Sinks,
    stopwatch::Stopwatch,
    tensor::Tensor,
    vertical::Anchors,
    written::Written,
};
use crate::{
    engine::{
        device::{AttentionShape, Collect, Coming, LayerAttention, StageCosts},
        search::{baseline, by_head::Survey},
    },
    error::Error,
    protocol::Hidden,
    trace::{BlockMask, Blocks, Budgets, LayerRecord},
};

/// Keys and values of one layer, and the results of search and attention.
pub struct Layer {
    pub(super) gpu: Arc<Gpu>,
    /// The cards of other ranks, if there are some.
    nccl: Option<Arc<Nccl>>,
    pub(super) shape: AttentionShape,
    pub(super) settings: Settings,
    /// `[capacity, n_kv_heads, head_dim]`, of which `n_rows` are there.
    pub(super) keys: Array<u16>,
    pub(super) values: Array<u16>,
    n_rows: usize,
    pub(super) nodes: Option<Nodes>,
    /// Number of tokens that the nodes were made of.
    indexed: usize,
    pub(super) budgets: Budgets,
    /// Of each head its budget, and those of the heads before it. `[n_heads, 2]`
    budgets_on_card: Array<u32>,
    /// Rows as in [`BlockMask::kept`].
    pub(super) kept: Array<u32>,
    pub(super) mass: Array<f32>,
    /// `[n_heads, n_tokens]`
    pub(super) received: Array<f32>,
    /// Rows of the focus tokens, key by key.
    pub(super) focus: Array<f32>,
    sampled: Option<Sampled>,
    /// Of the rows that were searched last.
    pub(super) found: Option<Found>,
    /// Of query blocks that were searched before the budgets were known.
    pub(super) scored: Option<Scored>,
    pub(super) sinks: Option<Sinks>,
    pub(super) anchors: Option<Anchors>,
    /// Of the residual stream's own rows before the layer, of which `n_measured` are there; or nothing
    lengths: Array<f32>,
    n_measured: usize,
    /// Once the values are weighed.
    written: Option<Written>,
    pub(super) proximity: Option<Proximity>,
    /// Tokens for which `kept` is the mask of a search that reads no key.
    n_masked: usize,
    /// Whether `kept` holds the mask that a dense run compares with.
    has_mask: bool,
    /// Of the rows that come, if launches are repeated.
    pub(super) place: Option<Arc<Place>>,
    /// Nodes and keys that the hierarchical search read, and keys that were read one by one.
    pub(super) n_read: Array<u64>,
    pub(super) n_read_exactly: Option<u64>,
    pub(super) searching: Stopwatch,
    attending: Stopwatch,
}

impl Layer {
    pub fn new(gpu: Arc<Gpu>, nccl: Option<Arc<Nccl>>, shape: AttentionShape) -> Result<Self, Error> {
        let AttentionShape { capacity: n_tokens, n_heads, .. } = shape;
        let width = shape.n_kv_heads * shape.head_dim;
        Ok(Layer {
            settings: Settings::new(&shape, gpu.is_hopper())?,
            keys: gpu.alloc(n_tokens * width)?,
            values: gpu.alloc(n_tokens * width)?,
            n_rows: shape.own_rows().start,
            nodes: None,
            indexed: 0,
            budgets: Budgets::default(),
            budgets_on_card: gpu.alloc(0)?,
            kept: gpu.alloc(0)?,
            mass: gpu.alloc(0)?,
            received: gpu.zeros(n_heads * n_tokens)?,
            focus: gpu.alloc(0)?,
            sampled: None,
            found: None,
            scored: None,
            sinks: Sinks::new(&gpu, &shape)?,
            anchors: Anchors::new(&gpu, &shape)?,
            lengths: gpu.alloc(if shape.sentences.is_empty() { 0 } else { n_tokens })?,
            n_measured: 0,
            written: None,
            proximity: Proximity::new(&gpu, &shape)?,
            n_masked: 0,
            has_mask: false,
            place: None,
            n_read: gpu.zeros(1)?,
            n_read_exactly: None,
            searching: Stopwatch::default(),
            attending: Stopwatch::default(),
            shape,
            gpu,
            nccl,
        })
    }
}

impl LayerAttention for Layer {
    type Tensor = Tensor;
    type Repeater = Repeater;

    fn append(&mut self, keys: &Tensor, values: &Tensor) -> Result<(), Error> {
        let params = AppendParams {
            keys: self.gpu.pointer(&keys.data),
            values: self.gpu.pointer(&values.data),
            to_keys: self.gpu.pointer(&self.keys),
            to_values: self.gpu.pointer(&self.values),
            first_row: self.place.as_ref().map(|place| place.first_row(&self.gpu)),
            n_vectors: n_vectors(keys),
            row: self.n_rows as i32,
            width: keys.width as i32 / 8,
        };
        same("keys and values", keys.len(), values.len())?;
        self.n_rows += keys.n_rows;
        same("rows past the end", 0, self.n_rows.saturating_sub(self.shape.capacity))?;
        let work = Work::new(params.n_vectors as usize, 1);
        // SAFETY: as the header of kernels/elementwise.cu says; there is room for all rows, also for those of the last
        // query block.
        unsafe { self.gpu.launch(&Kernel::new("elementwise", "append"), work, &params) }
    }

    fn resize(&mut self, n_rows: usize, n_tokens: usize) {
        self.n_rows = n_rows;
        self.shape.blocks.n_tokens = n_tokens;
    }

    fn follow(&mut self, repeater: Option<&Repeater>) {
        self.place = repeater.map(Repeater::place);
    }

    fn gather(&mut self) -> Result<(), Error> {
        if self.shape.parts.peers().is_none() {
            return Ok(());
        }
        let Some(nccl) = &self.nccl else {
            return Err(Error::device(&self.gpu.name, "its ranks are not connected", "please report this"));
        };
        let (n_tokens, width) = (self.shape.blocks.n_tokens, self.shape.n_kv_heads * self.shape.head_dim);
        let rows: Vec<_> =
            self.shape.parts.all(n_tokens).map(|rows| rows.start * width..rows.end * width).collect();
        nccl.gather(&self.gpu, [&mut self.keys, &mut self.values], &rows)?;
        self.n_rows = n_tokens;
        Ok(())
    }

    /// Makes the nodes that the estimate reads, unless the present ones still serve.
    fn index(&mut self) -> Result<(), Error> {
        if self.shape.is_indexed(self.indexed) {
            return Ok(());
        }
        self.nodes = Nodes::new(&self.gpu, &self.shape, &self.keys)?;
        self.indexed = self.shape.blocks.n_tokens;
        Ok(())
    }

    fn sample(&mut self, queries: &Tensor, query_blocks: &[usize]) -> Result<(), Error> {
        let Layer { gpu, shape, settings, sampled, .. } = self;
        let sampled = match sampled.take().filter(|sampled| sampled.expects(query_blocks)) {
            Some(expecting) => sampled.insert(expecting),
            None => sampled.insert(Sampled::new(gpu, shape)?),
        };
        sampled.read(gpu, shape, settings, queries, query_blocks.len(), &self.keys)
    }

    fn survey(&mut self) -> Result<Coming<Survey>, Error> {
        let n_heads = self.shape.n_heads;
        match &self.sampled {
            Some(sampled) => sampled.survey(&self.gpu, &self.shape, &self.settings),
            None => Ok(Box::new(move || Ok(Survey::empty(n_heads)))),
        }
    }

    /// Makes room for a mask; uploads that of a search that reads no key.
    fn share_out(&mut self, budgets: Budgets) -> Result<(), Error> {
        let n_kept = self.shape.query_blocks_held() * budgets.sum();
        if !self.keep_baseline()? {
            self.kept = self.gpu.alloc(n_kept)?;
        }
        let AttentionShape { blocks, focus, .. } = &self.shape;
        self.mass = self.gpu.alloc(n_kept)?;
        self.focus = self.gpu.zeros(focus.len() * budgets.sum() * blocks.block_size_k)?;
        if let Some(proximity) = &mut self.proximity {
            proximity.share_out(&self.gpu, n_kept)?;
        }
        self.set(budgets)
    }

    fn weigh(&mut self, weight: &Tensor) -> Result<(), Error> {
        self.written = Some(Written::new(&self.gpu, &self.shape, weight, &self.values)?);
        Ok(())
    }

    fn measure(&mut self, hidden: &Tensor) -> Result<(), Error> {
        let params = LengthsParams {
            x: self.gpu.pointer(&hidden.data),
            length: self.gpu.pointer_at(&self.lengths, self.n_measured),
            n_rows: hidden.n_rows as i32,
            hidden: hidden.width as i32,
        };
        self.n_measured += hidden.n_rows;
        let work = Work::new(hidden.n_rows, 1);
        // SAFETY: as the header of kernels/rms_norm.cu says; there is a length for each token of the prompt.
        unsafe { self.gpu.launch(&Kernel::new("rms_norm", "lengths"), work, &params) }
    }

    fn search(&mut self, queries: &Tensor, first_query_block: usize) -> Result<(), Error> {
        self.find(queries, first_query_block)
    }

    fn search_ahead(&mut self, queries: &Tensor, first_query_block: usize) -> Result<(), Error> {
        self.find_ahead(queries, first_query_block)
    }

    fn attend(&mut self, queries: &Tensor, first_query_block: usize) -> Result<Tensor, Error> {
        let start = Stopwatch::start(&self.gpu)?;
        if let Some(proximity) = &mut self.proximity {
            let n_blocks = self.shape.query_blocks(first_query_block, queries.n_rows).len();
            let n_keys = n_blocks * self.budgets.sum() * self.shape.blocks.block_size_k;
            proximity.expect(&self.gpu, n_keys)?;
        }
        let (output, lse) = self.attention_recorded(queries, first_query_block)?;
        if let Some(sinks) = &self.sinks {
            sinks.record(&self.gpu, &self.shape, &lse, first_query_block, queries.n_rows)?;
        }
        self.attending.stop(&self.gpu, start)?;
        Ok(output)
    }

    fn proximity(
        &mut self,
        weight: &Tensor,
        before: &Tensor,
        after: &Tensor,
        first: usize,
    ) -> Result<(), Error> {
        let around = Around { mask: self.mask(), values: &self.values, weight, before, after };
        self.proximity
            .as_mut()
            .map_or(Ok(()), |proximity| proximity.add(&self.gpu, &self.shape, around, first))
    }

    fn keep(&mut self, mask: BlockMask) -> Result<(), Error> {
        self.found = None;
        self.kept = self.gpu.upload(&mask.kept)?;
        self.set(mask.budgets)
    }

    fn attend_without(&mut self, queries: &Tensor, first: usize, hidden: &Hidden) -> Result<Tensor, Error> {
        let exact = self.shape.config.exact;
        if hidden.is_empty() {
            return self.attention(queries, first, exact);
        }
        self.attention_without(queries, first, hidden)
    }

    fn attend_dense(
        &mut self,
        queries: &Tensor,
        first: usize,
        measured: Option<(&BlockMask, &mut [f64])>,
    ) -> Result<Tensor, Error> {
        let Some((mask, kept_mass)) = measured else { return self.attention(queries, first, true) };
        let (output, lse_dense) = self.attention_dense(queries, first)?;
        if !self.has_mask {
            self.kept = self.gpu.upload(&mask.kept)?;
            self.set(mask.budgets.clone())?;
            self.has_mask = true;
        }
        let (_, lse_kept) = self.attention_sparse(queries, first)?;
        let recall = self.gpu.zeros::<f32>(self.shape.n_heads)?;
        let params = RecallParams {
            lse_kept: self.gpu.pointer(&lse_kept),
            lse_dense: self.gpu.pointer(&lse_dense),
            sinks: self.sinks.as_ref().map(|sinks| sinks.pointer(&self.gpu)),
            recall: self.gpu.pointer(&recall),
            n_rows: queries.n_rows as i32,
        };
        // SAFETY: as the header of kernels/recall.cu says.
        unsafe {
            self.gpu.launch(&Kernel::new("recall", "recall"), Work::new(self.shape.n_heads, 1), &params)?
        };
        let recall = self.gpu.download(&recall, self.shape.n_heads)?;
        kept_mass.iter_mut().zip(recall).for_each(|(sum, mass)| *sum += mass as f64);
        Ok(output)
    }

    fn into_record(self) -> Result<impl Collect + 'static, Error> {
        let (gpu, shape) = (self.gpu.clone(), self.shape.clone());
        let sampled = self.sampled.as_ref().filter(|_| !shape.config.exact);
        let recall = sampled.map(|sampled| sampled.recall(&gpu, &shape, &self.settings, self.mask()));
        let written =
            self.written.as_ref().map(|written| written.means_of_blocks(&gpu, &shape, &self.received));
        let vertical = self.anchors.as_ref().map(|anchors| anchors.vertical(&gpu, &shape));
        let (recall, written, vertical) = (recall.transpose()?, written.transpose()?, vertical.transpose()?);
        let Layer { budgets, kept, mass, received, focus, proximity, sinks, lengths, n_measured, .. } = self;
        let Layer { n_read, n_read_exactly, mut searching, mut attending, .. } = self;
        let done = gpu.mark()?;
        Ok(move || {
            let collect = |from: &Array<f32>, len| gpu.collect(&done, from, len);
            let AttentionShape { blocks, n_heads, .. } = shape;
            // For now, of this card's rows alone.
            let of_rows = Blocks { n_tokens: shape.own_rows().len(), ..blocks };
            let mut mask = BlockMask { blocks: of_rows, budgets, kept: Vec::new() };
            let n_query_blocks = shape.own_query_blocks().len();
            let n_kept = n_query_blocks * mask.budgets.sum();
            mask.kept = gpu.collect(&done, &kept, n_kept)?;
            let mass = collect(&mass, n_kept)?;
            let recall = match recall {
                Some(of_blocks) => Sampled::means(&gpu.collect(&done, &of_blocks, of_blocks.len())?, n_heads),
                None => Vec::new(),
            };
            let n_rows = n_heads * n_query_blocks;
            let on_sink = sinks.map_or(Ok(Vec::new()), |sinks| collect(&sinks.mass, n_rows))?;
            let some =
                |from: Option<Array<f32>>| from.map_or(Ok(Vec::new()), |from| collect(&from, from.len()));
            let n_focus_keys = shape.focus.len() * mask.budgets.sum() * blocks.block_size_k;
            let mut record = LayerRecord {
                recall,
                on_sink,
                experts: Vec::new(),
                mass,
                written: some(written)?,
                vertical: some(vertical)?,
                proximity: proximity
                    .map_or(Ok(Vec::new()), |proximity| proximity.into_shares(&gpu, &done, &shape, &mask))?,
                residual: shape.means_of_query_blocks(&collect(&lengths, n_measured)?).collect(),
                received: collect(&received, n_heads * blocks.n_tokens)?,
                focus: collect(&focus, n_focus_keys)?,
                mask: BlockMask { blocks, ..mask },
            };
            if shape.config.exact && shape.parts.peers().is_none() {
                record.recall = record.share_on_kept();
            }
            let n_read = gpu.collect(&done, &n_read, 1)?[0];
            let costs = StageCosts {
                search: searching.spent(&gpu)?,
                attention: attending.spent(&gpu)?,
                keys_read: n_read_exactly.map(|n| n + n_read),
            };
            Ok((record, costs))
        })
    }
}

impl Layer {
    /// Waits for the searches so far; returns how many keys and nodes they read.
    pub(super) fn keys_read(&self) -> Result<u64, Error> {
        Ok(self.n_read_exactly.unwrap_or(0) + self.gpu.download(&self.n_read, 1)?[0])
    }

    /// Uploads the mask of a search that reads no key, if the prompt has grown; returns whether it is such a search.
    pub(super) fn keep_baseline(&mut self) -> Result<bool, Error> {
        let AttentionShape { blocks, config, n_heads, .. } = &self.shape;
        if self.n_masked == blocks.n_tokens {
            return Ok(true);
        }
        let Some(mask) = baseline::mask(*blocks, config, *n_heads) else { return Ok(false) };
        self.kept = self.gpu.upload(&mask.kept_of(self.shape.own_query_blocks()))?;
        self.n_masked = blocks.n_tokens;
        Ok(true)
    }

    /// Takes the budgets of the mask.
    fn set(&mut self, budgets: Budgets) -> Result<(), Error> {
        let head = |head| [budgets.top_k(head) as u32, budgets.row(head, 0, 1).start as u32];
        self.budgets_on_card = self.gpu.upload(&(0..budgets.n_heads()).flat_map(head).collect::<Vec<_>>())?;
        self.settings = self.settings.clone().with_budget(&self.shape.config, budgets.most());
        self.budgets = budgets;
        Ok(())
    }

    /// Returns the mask of this layer.
    pub(super) fn mask(&self) -> Mask {
        Mask {
            kept: self.gpu.pointer(&self.kept),
            budgets: Some(self.gpu.pointer(&self.budgets_on_card)),
            n_query_blocks: self.shape.own_query_blocks().len() as i32,
            first_query_block: self.shape.own_query_blocks().start as i32,
        }
    }
}
