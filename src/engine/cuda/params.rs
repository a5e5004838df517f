//! Parameters of the kernels. Each takes one structure, which has the same name and fields in its file in
//! `kernels/`.

use super::pointer::DevicePointer;

/// bf16 numbers, as bits.
type Bf16s = DevicePointer<u16>;
type Floats = DevicePointer<f32>;

// ---- kernels/blocks.cu

#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Mask {
    pub kept: DevicePointer<u32>,
    pub budgets: Option<DevicePointer<u32>>,
    pub n_query_blocks: i32,
    pub first_query_block: i32,
}

#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Rows {
    pub first_block: i32,
    pub n_rows: i32,
}

#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Sizes {
    pub n_tokens: i32,
    pub n_kv_heads: i32,
    pub window: i32,
}

// ---- kernels/attention_rows.cu and kernels/attention.cu

/// `Tensor` is a pointer, or on Hopper a [`TensorMap`](super::pointer::TensorMap).
#[repr(C)]
pub struct AttentionParams<Tensor> {
    pub queries: Tensor,
    pub keys: Tensor,
    pub values: Tensor,
    pub mask: Mask,
    pub out: Bf16s,
    pub lse: Option<Floats>,
    pub sinks: Option<Floats>,
    pub rows: Rows,
    pub sizes: Sizes,
}

#[repr(C)]
pub struct Hidden {
    pub edges: DevicePointer<i32>,
    pub n_hidden: i32,
}

#[repr(C)]
pub struct AttentionWithoutParams {
    pub attention: AttentionParams<Bf16s>,
    pub hidden: Hidden,
}

#[repr(C)]
pub struct Parts {
    pub outs: Floats,
    pub lses: Floats,
    pub n_parts: i32,
}

#[repr(C)]
pub struct AttentionPartsParams {
    pub attention: AttentionParams<Bf16s>,
    pub parts: Parts,
    pub place: Option<DevicePointer<u32>>,
}

#[repr(C)]
pub struct Focus {
    pub rows: Floats,
    pub first: i32,
    pub end: i32,
}

#[repr(C)]
pub struct Anchors {
    pub limit: Option<DevicePointer<u32>>,
    pub weight: Option<Floats>,
    pub received: Option<Floats>,
}

/// `Tensor` is a pointer, or on Hopper a [`TensorMap`](super::pointer::TensorMap).
#[repr(C)]
pub struct RecordParams<Tensor> {
    pub queries: Tensor,
    pub keys: Tensor,
    pub mask: Mask,
    pub lse: Floats,
    pub mass: Floats,
    pub received: Option<Floats>,
    pub shares: Option<Floats>,
    pub focus: Focus,
    pub anchors: Anchors,
    pub rows: Rows,
    pub sizes: Sizes,
}

#[repr(C)]
pub struct AttentionRecordedParams {
    pub attention: AttentionParams<Bf16s>,
    pub record: RecordParams<Bf16s>,
    pub found: Option<Floats>,
}

// ---- kernels/search.cu and the searches

#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Rule {
    pub sink_blocks: i32,
    pub local_blocks: i32,
}

#[derive(Default)]
#[repr(C)]
pub struct Nodes {
    pub means: Option<Bf16s>,
    pub variances: Option<Bf16s>,
    pub spreads: Option<Floats>,
    pub n_nodes: i32,
}

#[repr(C)]
pub struct SearchParams {
    pub queries: Bf16s,
    pub keys: Bf16s,
    pub nodes: Nodes,
    pub mask: Mask,
    pub n_read: DevicePointer<u64>,
    pub found: Option<Floats>,
    pub sizes: Sizes,
    pub rule: Rule,
    pub first_block: i32,
    pub beam: i32,
    pub down: i32,
    pub max_frontier: i32,
}

#[repr(C)]
pub struct ExhaustiveParams {
    pub queries: Bf16s,
    pub keys: Bf16s,
    pub norms: Floats,
    pub scores: DevicePointer<u32>,
    pub place: Option<DevicePointer<u32>>,
    pub mask: Mask,
    pub sizes: Sizes,
    pub rule: Rule,
    pub n_segments: i32,
    pub first_block: i32,
}

#[repr(C)]
pub struct SampleParams {
    pub queries: Bf16s,
    pub keys: Bf16s,
    pub sample: DevicePointer<u32>,
    pub norms: Floats,
    pub masses: DevicePointer<u32>,
    pub sizes: Sizes,
    pub n_segments: i32,
}

#[repr(C)]
pub struct HistogramParams {
    pub masses: DevicePointer<u32>,
    pub sample: DevicePointer<u32>,
    pub counts: DevicePointer<u32>,
    pub sums: DevicePointer<u32>,
    pub sizes: Sizes,
    pub rule: Rule,
}

#[repr(C)]
pub struct SampleRecallParams {
    pub masses: DevicePointer<u32>,
    pub sample: DevicePointer<u32>,
    pub recall: DevicePointer<u32>,
    pub mask: Mask,
    pub sizes: Sizes,
}

// ---- nodes: kernels/pyramid.cu and kernels/clusters.cu

#[repr(C)]
pub struct PyramidParams {
    pub keys: Bf16s,
    pub means: Bf16s,
    pub variances: Bf16s,
    pub spans: Floats,
    pub n_tokens: i32,
    pub n_kv_heads: i32,
    pub n_spans: i32,
    pub n_nodes: i32,
}

#[repr(C)]
pub struct ClusterParams {
    pub keys: Bf16s,
    pub means: Bf16s,
    pub spreads: Floats,
    pub sums: Floats,
    pub n_tokens: i32,
    pub n_kv_heads: i32,
    pub n_nodes: i32,
    pub below: i32,
    pub n_children: i32,
}

// ---- the rest of a record: kernels/proximity.cu, written.cu, sentences.cu and recall.cu

#[repr(C)]
pub struct ProximityParams {
    pub shares: Floats,
    pub mask: Mask,
    pub values: Bf16s,
    pub weight: Bf16s,
    pub before: Bf16s,
    pub after: Bf16s,
    pub out: Floats,
    pub stays: Floats,
    pub rows: Rows,
    pub sizes: Sizes,
    pub hidden: i32,
}

#[repr(C)]
pub struct GramParams {
    pub weight: Bf16s,
    pub gram: Bf16s,
    pub hidden: i32,
}

#[repr(C)]
pub struct WrittenParams {
    pub values: Bf16s,
    pub gram: Bf16s,
    pub out: Floats,
    pub n_tokens: i32,
    pub n_kv_heads: i32,
}

#[repr(C)]
pub struct WrittenOfBlocksParams {
    pub lengths: Floats,
    pub received: Floats,
    pub means: Floats,
    pub n_tokens: i32,
    pub block_size: i32,
}

#[repr(C)]
pub struct SentenceParams {
    pub spans: DevicePointer<u32>,
    pub limit: DevicePointer<u32>,
    pub weight: Floats,
    pub n_sentences: i32,
    pub distance: i32,
}

#[repr(C)]
pub struct VerticalParams {
    pub anchors: Floats,
    pub spans: DevicePointer<u32>,
    pub out: Floats,
    pub n_tokens: i32,
    pub n_sentences: i32,
    pub distance: i32,
}

#[repr(C)]
pub struct RecallParams {
    pub lse_kept: Floats,
    pub lse_dense: Floats,
    pub sinks: Option<Floats>,
    pub recall: Floats,
    pub n_rows: i32,
}

#[repr(C)]
pub struct OnSinkParams {
    pub lse: Floats,
    pub sinks: Floats,
    pub mass: Floats,
    pub n_rows: i32,
    pub block_size: i32,
    pub first_block: i32,
    pub n_query_blocks: i32,
}

// ---- single operations: kernels/elementwise.cu, rms_norm.cu and rope.cu

#[repr(C)]
pub struct PairParams {
    pub x: Bf16s,
    pub y: Bf16s,
    pub out: Bf16s,
    pub n_vectors: u64,
}

#[repr(C)]
pub struct BiasParams {
    pub x: Bf16s,
    pub bias: Bf16s,
    pub n_vectors: u64,
    pub width: i32,
}

#[repr(C)]
pub struct AppendParams {
    pub keys: Bf16s,
    pub values: Bf16s,
    pub to_keys: Bf16s,
    pub to_values: Bf16s,
    pub first_row: Option<DevicePointer<u32>>,
    pub n_vectors: u64,
    pub row: i32,
    pub width: i32,
}

#[repr(C)]
pub struct FiniteParams {
    pub x: Bf16s,
    pub found: DevicePointer<u32>,
    pub n_vectors: u64,
}

#[repr(C)]
pub struct RmsNormParams {
    pub x: Bf16s,
    pub weight: Bf16s,
    pub out: Bf16s,
    pub n_rows: i32,
    pub hidden: i32,
    pub eps: f32,
}

#[repr(C)]
pub struct LengthsParams {
    pub x: Bf16s,
    pub length: Floats,
    pub n_rows: i32,
    pub hidden: i32,
}

#[repr(C)]
pub struct RopeParams {
    pub x: Bf16s,
    pub norm_weight: Option<Bf16s>,
    pub frequency: DevicePointer<f64>,
    pub starts: Option<DevicePointer<u32>>,
    pub out: Bf16s,
    pub n_heads: i32,
    pub n_rotated: i32,
    pub first_position: i32,
    pub stretch: i32,
    pub eps: f32,
    pub turn: f32,
    pub scale: f32,
}

#[repr(C)]
pub struct ClampedParams {
    pub x: Bf16s,
    pub y: Bf16s,
    pub out: Bf16s,
    pub n_vectors: u64,
    pub limit: f32,
}

// ---- kernels/dequantize.cu

#[repr(C)]
pub struct DequantizeParams {
    pub blocks: DevicePointer<u8>,
    pub out: Bf16s,
    pub n_vectors: u64,
    pub width: i32,
    pub head_dim: i32,
    pub factor: f32,
    pub offset: f32,
}
