//! Parameters of kernels/experts.cu and kernels/grouped.cu, as params.rs has those of the others.

use super::pointer::DevicePointer;

/// bf16 numbers, as bits.
type Bf16s = DevicePointer<u16>;
type Floats = DevicePointer<f32>;

#[repr(C)]
pub struct RouteParams {
    pub logits: Floats,
    pub bias: Option<Bf16s>,
    pub correction: Option<Floats>,
    pub chosen: DevicePointer<u32>,
    pub weights: Floats,
    pub places: DevicePointer<u32>,
    pub counts: DevicePointer<u32>,
    pub n_rows: i32,
    pub n_experts: i32,
    pub top_k: i32,
    pub sigmoid: i32,
    pub normalised: i32,
    pub n_groups: i32,
    pub top_groups: i32,
    pub scale: f32,
}

#[repr(C)]
pub struct ListParams {
    pub chosen: DevicePointer<u32>,
    pub weights: Floats,
    pub places: DevicePointer<u32>,
    pub counts: DevicePointer<u32>,
    pub rows: DevicePointer<u32>,
    pub of_rows: Floats,
    pub n: i32,
    pub top_k: i32,
}

#[repr(C)]
pub struct GatherParams {
    pub x: Bf16s,
    pub rows: DevicePointer<u32>,
    pub out: Bf16s,
    pub width: i32,
}

#[repr(C)]
pub struct ScatterParams {
    pub sum: Bf16s,
    pub part: Bf16s,
    pub rows: DevicePointer<u32>,
    pub weights: Floats,
    pub width: i32,
}

#[repr(C)]
pub struct SumParams {
    pub part: Bf16s,
    pub places: DevicePointer<u32>,
    pub weights: Floats,
    pub out: Bf16s,
    pub width: i32,
    pub top_k: i32,
}

/// Of kernels/grouped.cu.
#[repr(C)]
pub struct GroupedParams {
    pub x: Bf16s,
    pub rows: Option<DevicePointer<u32>>,
    pub counts: DevicePointer<u32>,
    /// Addresses.
    pub weights: DevicePointer<u64>,
    pub biases: Option<DevicePointer<u64>>,
    pub out: Bf16s,
    pub n_experts: i32,
    pub n_in: i32,
    pub n_out: i32,
    pub limit: f32,
}

#[repr(C)]
pub struct SigmoidParams {
    pub y: Bf16s,
    pub x: Bf16s,
    pub gate: Bf16s,
    pub width: i32,
    pub inner: i32,
}
