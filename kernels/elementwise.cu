// elementwise: operations number by number.
//
// swiglu:    out[i] = silu(x[i]) * y[i] (activations.cu)
// geglu:     out[i] = gelu(x[i]) * y[i]
// clamped_swiglu: out[i] = g / (1 + exp(-1.702 g)) * (u + 1), g = min(x[i], limit), u = y[i] between -limit and limit
// add:       out[i] = x[i] + y[i]
// add_bias:  x[i] += bias[i % width]
// append:    rows of keys and values after those that are there, from row `row` or *first_row on
// is_finite: *found = 1 if one of x is NaN, infinite or at least 2^56, too large for its square (untouched
// otherwise)
//
// x, y, out, keys, values [8 * n_vectors] bf16; bias [width] bf16, width a multiple of 8; sums rounded to bf16
// to_keys, to_values rows of `width` vectors
// grid ceil(n_vectors / THREADS)
// Reference: tests/cuda/reference.py, swiglu, clamped_swiglu

constexpr int THREADS = 256;

GEOMETRY(swiglu, THREADS, THREADS, 1, 0, 0);
GEOMETRY(geglu, THREADS, THREADS, 1, 0, 0);
GEOMETRY(clamped_swiglu, THREADS, THREADS, 1, 0, 0);
GEOMETRY(add, THREADS, THREADS, 1, 0, 0);
GEOMETRY(add_bias, THREADS, THREADS, 1, 0, 0);
GEOMETRY(append, THREADS, THREADS, 1, 0, 0);
GEOMETRY(is_finite, THREADS, THREADS, 1, 0, 0);

// Of swiglu, geglu and add.
struct PairParams {
    const uint4 *x, *y;
    uint4* out;
    u64 n_vectors;
};
static_assert(sizeof(PairParams) == 32, "as in src/engine/cuda/params.rs");

struct ClampedParams {
    const uint4 *x, *y;
    uint4* out;
    u64 n_vectors;
    float limit;
};
static_assert(sizeof(ClampedParams) == 40, "as in src/engine/cuda/params.rs");

struct BiasParams {
    uint4* x;
    const uint4* bias;
    u64 n_vectors;
    int width;
};
static_assert(sizeof(BiasParams) == 32, "as in src/engine/cuda/params.rs");

struct AppendParams {
    const uint4 *keys, *values;
    uint4 *to_keys, *to_values;
    const u32* first_row;  // or null
    u64 n_vectors;
    int row, width;
};
static_assert(sizeof(AppendParams) == 56, "as in src/engine/cuda/params.rs");

struct FiniteParams {
    const uint4* x;
    u32* found;
    u64 n_vectors;
};
static_assert(sizeof(FiniteParams) == 24, "as in src/engine/cuda/params.rs");

DEVICE u64 my_vector() { return (u64)blockIdx.x * THREADS + threadIdx.x; }

template <typename Gated>
DEVICE u32 gated_pair(u32 gate, u32 up, Gated gated) {
    return pack_bf16(gated(low_bf16(gate), low_bf16(up)), gated(high_bf16(gate), high_bf16(up)));
}

// Of vector i of x and y.
template <typename Params, typename Gated>
DEVICE void gated_vector(const Params& p, u64 i, Gated gated) {
    if (i >= p.n_vectors) return;
    uint4 g = p.x[i], u = p.y[i];
    p.out[i] = make_uint4(gated_pair(g.x, u.x, gated), gated_pair(g.y, u.y, gated), gated_pair(g.z, u.z, gated),
                          gated_pair(g.w, u.w, gated));
}

DEVICE u32 add_pair(u32 a, u32 b) {
    return pack_bf16(low_bf16(a) + low_bf16(b), high_bf16(a) + high_bf16(b));
}

DEVICE uint4 add_vector(uint4 a, uint4 b) {
    return make_uint4(add_pair(a.x, b.x), add_pair(a.y, b.y), add_pair(a.z, b.z), add_pair(a.w, b.w));
}

// Whether either bf16 is NaN, infinite or at least 2^56 (`TOO_LARGE` in device.rs).
DEVICE bool odd_pair(u32 a) { return (a & 0x7F80u) >= 0x5B80u || (a & 0x7F800000u) >= 0x5B800000u; }

KERNEL void swiglu(const __grid_constant__ PairParams p) {
    gated_vector(p, my_vector(), [](float gate, float up) { return gated_silu(gate, up, 0.0f); });
}

KERNEL void geglu(const __grid_constant__ PairParams p) {
    gated_vector(p, my_vector(), [](float gate, float up) { return gated_gelu(gate, up, 0.0f); });
}

KERNEL void clamped_swiglu(const __grid_constant__ ClampedParams p) {
    gated_vector(p, my_vector(), [&](float gate, float up) { return gated_clamped(gate, up, p.limit); });
}

KERNEL void add(const __grid_constant__ PairParams p) {
    u64 i = my_vector();
    if (i < p.n_vectors) p.out[i] = add_vector(p.x[i], p.y[i]);
}

KERNEL void add_bias(const __grid_constant__ BiasParams p) {
    u64 i = my_vector();
    if (i < p.n_vectors) p.x[i] = add_vector(p.x[i], p.bias[i % (p.width / 8)]);
}

KERNEL void is_finite(const __grid_constant__ FiniteParams p) {
    u64 i = my_vector();
    if (i >= p.n_vectors) return;
    uint4 v = p.x[i];
    if (odd_pair(v.x) || odd_pair(v.y) || odd_pair(v.z) || odd_pair(v.w)) *p.found = 1;
}

KERNEL void append(const __grid_constant__ AppendParams p) {
    u64 i = my_vector(), before = (u64)(p.first_row ? *p.first_row : p.row) * p.width;
    if (i < p.n_vectors) p.to_keys[before + i] = p.keys[i], p.to_values[before + i] = p.values[i];
}
