// rms_norm: root-mean-square norm of each row. lengths: its Euclidean length.
//
// out[t, d] = x[t, d] / sqrt(mean_d x[t, d]^2 + eps) * weight[d]
// length[t] = sqrt(sum_d x[t, d]^2)
//
// x, out [n_rows, hidden] bf16
// weight [hidden] bf16
// length [n_rows] f32
// grid n_rows. hidden is a multiple of 8.
// Reference: tests/cuda/reference.py, rms_norm

constexpr int THREADS = 256;

GEOMETRY(rms_norm, THREADS, 1, 1, 0, 0);
GEOMETRY(lengths, THREADS, 1, 1, 0, 0);

struct RmsNormParams {
    const u16* x;
    const uint4* weight;
    u16* out;
    int hidden;
    float eps;
};
static_assert(sizeof(RmsNormParams) == 32, "as in src/engine/cuda/params.rs");

struct LengthsParams {
    const u16* x;
    float* length;
    int hidden;
};
static_assert(sizeof(LengthsParams) == 24, "as in src/engine/cuda/params.rs");

DEVICE float block_sum(float value) {
    __shared__ float partial[THREADS / 32];
    value = warp_sum(value);
    if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = value;
    __syncthreads();
    float sum = 0.0f;
    for (int i = 0; i < THREADS / 32; i++) sum += partial[i];
    return sum;
}

DEVICE float squares(u32 a) { return low_bf16(a) * low_bf16(a) + high_bf16(a) * high_bf16(a); }

DEVICE u32 scale_pair(u32 x, u32 weight, float scale) {
    return pack_bf16(low_bf16(x) * scale * low_bf16(weight), high_bf16(x) * scale * high_bf16(weight));
}

DEVICE float sum_of_squares(const uint4* row, int hidden) {
    float sum = 0.0f;
    for (int i = threadIdx.x; i < hidden / 8; i += THREADS) {
        uint4 v = row[i];
        sum += squares(v.x) + squares(v.y) + squares(v.z) + squares(v.w);
    }
    return block_sum(sum);
}

KERNEL void lengths(const __grid_constant__ LengthsParams p) {
    float sum = sum_of_squares((const uint4*)(p.x + (u64)blockIdx.x * p.hidden), p.hidden);
    if (threadIdx.x == 0) p.length[blockIdx.x] = sqrtf(sum);
}

KERNEL void rms_norm(const __grid_constant__ RmsNormParams p) {
    int hidden = p.hidden;
    const uint4* row = (const uint4*)(p.x + (u64)blockIdx.x * hidden);
    float sum = sum_of_squares(row, hidden);
    // NaN for a row too large to have a norm: it must be found, and not become 0.
    float scale = 1.0f / sqrtf(sum / hidden + p.eps) + 0.0f * sum;
    uint4* to = (uint4*)(p.out + (u64)blockIdx.x * hidden);
    for (int i = threadIdx.x; i < hidden / 8; i += THREADS) {
        uint4 v = row[i], w = p.weight[i];
        to[i] = make_uint4(scale_pair(v.x, w.x, scale), scale_pair(v.y, w.y, scale),
                           scale_pair(v.z, w.z, scale), scale_pair(v.w, w.w, scale));
    }
}
