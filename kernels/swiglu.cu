// swiglu: the gate of a feed-forward block, and the residual sum.
//
// swiglu: out[r, i] = silu(gate_up[r, i]) * gate_up[r, width + i], silu(x) = x / (1 + exp(-x))
// add:    x[i] += y[i], rounded to bf16
//
// gate_up [n_rows, 2 * width] bf16: the gate's columns, then the other projection's
// out     [n_rows, width] bf16; width is a multiple of 8
// x, y    [8 * n_vectors] bf16
// grid swiglu (ceil(width / 8 / 256), n_rows), add ceil(n_vectors / 256); block 256, no shared memory
// Reference: tests/cuda/reference.py, swiglu

DEVICE float silu(float x) { return x / (1.0f + __expf(-x)); }

DEVICE u32 gate_pair(u32 gate, u32 up) {
    return pack_bf16(silu(low_bf16(gate)) * low_bf16(up), silu(high_bf16(gate)) * high_bf16(up));
}

DEVICE u32 add_pair(u32 a, u32 b) { return pack_bf16(low_bf16(a) + low_bf16(b), high_bf16(a) + high_bf16(b)); }

KERNEL void swiglu(const u16* gate_up, u16* out, int width) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= width / 8) return;
    const uint4* row = (const uint4*)(gate_up + (u64)blockIdx.y * 2 * width);
    uint4 g = row[i], u = row[width / 8 + i];
    ((uint4*)(out + (u64)blockIdx.y * width))[i] =
        make_uint4(gate_pair(g.x, u.x), gate_pair(g.y, u.y), gate_pair(g.z, u.z), gate_pair(g.w, u.w));
}

KERNEL void add(u16* x, const u16* y, u64 n_vectors) {
    u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n_vectors) return;
    uint4 a = ((const uint4*)x)[i], b = ((const uint4*)y)[i];
    ((uint4*)x)[i] = make_uint4(add_pair(a.x, b.x), add_pair(a.y, b.y), add_pair(a.z, b.z), add_pair(a.w, b.w));
}
