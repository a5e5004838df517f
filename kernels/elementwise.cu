// elementwise: what is done number by number.
//
// swiglu:    out[i] = silu(gate[i]) * up[i], silu(x) = x / (1 + exp(-x))
// geglu:     out[i] = gelu(gate[i]) * up[i], gelu(x) = x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3)))
// add:       out[i] = x[i] + y[i]
// add_bias:  x[i] += bias[i % width]
// is_finite: *found = 1 if one of x is NaN, infinite or at least 2^56, too large for its square (untouched otherwise)
//
// gate, up, x, y, out [8 * n_vectors] bf16; bias [width] bf16, width a multiple of 8; sums rounded to bf16
// grid ceil(n_vectors / 256), block 256, no shared memory
// Reference: tests/cuda/reference.py, swiglu

DEVICE u64 my_vector() { return (u64)blockIdx.x * blockDim.x + threadIdx.x; }
DEVICE float silu(float x) { return x / (1.0f + __expf(-x)); }

DEVICE u32 gate_pair(u32 gate, u32 up) {
    return pack_bf16(silu(low_bf16(gate)) * low_bf16(up), silu(high_bf16(gate)) * high_bf16(up));
}

// 1/2 (1 + tanh(y)) = 1 / (1 + exp(-2 y))
DEVICE float gelu(float x) { return x / (1.0f + __expf(-1.5957691216f * (x + 0.044715f * x * x * x))); }

DEVICE u32 gelu_pair(u32 gate, u32 up) {
    return pack_bf16(gelu(low_bf16(gate)) * low_bf16(up), gelu(high_bf16(gate)) * high_bf16(up));
}

DEVICE u32 add_pair(u32 a, u32 b) { return pack_bf16(low_bf16(a) + low_bf16(b), high_bf16(a) + high_bf16(b)); }

DEVICE uint4 add_vector(uint4 a, uint4 b) {
    return make_uint4(add_pair(a.x, b.x), add_pair(a.y, b.y), add_pair(a.z, b.z), add_pair(a.w, b.w));
}

// Whether an exponent is all ones.
DEVICE bool odd_pair(u32 a) { return (a & 0x7F80u) >= 0x5B80u || (a & 0x7F800000u) >= 0x5B800000u; }

KERNEL void swiglu(const uint4* gate, const uint4* up, uint4* out, u64 n_vectors) {
    u64 i = my_vector();
    if (i >= n_vectors) return;
    uint4 g = gate[i], u = up[i];
    out[i] = make_uint4(gate_pair(g.x, u.x), gate_pair(g.y, u.y), gate_pair(g.z, u.z), gate_pair(g.w, u.w));
}

KERNEL void geglu(const uint4* gate, const uint4* up, uint4* out, u64 n_vectors) {
    u64 i = my_vector();
    if (i >= n_vectors) return;
    uint4 g = gate[i], u = up[i];
    out[i] = make_uint4(gelu_pair(g.x, u.x), gelu_pair(g.y, u.y), gelu_pair(g.z, u.z), gelu_pair(g.w, u.w));
}

KERNEL void add(const uint4* x, const uint4* y, uint4* out, u64 n_vectors) {
    u64 i = my_vector();
    if (i < n_vectors) out[i] = add_vector(x[i], y[i]);
}

KERNEL void add_bias(uint4* x, const uint4* bias, int width, u64 n_vectors) {
    u64 i = my_vector();
    if (i < n_vectors) x[i] = add_vector(x[i], bias[i % (width / 8)]);
}

KERNEL void is_finite(const uint4* x, u32* found, u64 n_vectors) {
    u64 i = my_vector();
    if (i >= n_vectors) return;
    uint4 v = x[i];
    if (odd_pair(v.x) || odd_pair(v.y) || odd_pair(v.z) || odd_pair(v.w)) *found = 1;
}
