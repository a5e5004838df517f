// rms_norm, rms_norm_of_few: root-mean-square norm of each row. lengths: its Euclidean length.
//
// out[t, d] = x[t, d] / sqrt(mean_d x[t, d]^2 + eps) * weight[d]
// length[t] = sqrt(sum_d x[t, d]^2)
//
// x, out [n_rows, hidden] bf16
// weight [hidden] bf16
// length [n_rows] f32
// grid n_rows / ROWS, rounded up: a warp a row; rms_norm_of_few n_rows: a thread block a row. hidden is a multiple of 8.
// Reference: tests/cuda/reference.py, rms_norm

constexpr int ROWS = 8;  // of a thread block
constexpr int THREADS = 32 * ROWS;

GEOMETRY(rms_norm, THREADS, ROWS, 1, 0, 0);
GEOMETRY(rms_norm_of_few, THREADS, 1, 1, 0, 0);
GEOMETRY(lengths, THREADS, ROWS, 1, 0, 0);

struct RmsNormParams {
    const u16* x;
    const uint4* weight;
    u16* out;
    int n_rows, hidden;
    float eps;
};
static_assert(sizeof(RmsNormParams) == 40, "as in src/engine/cuda/params.rs");

struct LengthsParams {
    const u16* x;
    float* length;
    int n_rows, hidden;
};
static_assert(sizeof(LengthsParams) == 24, "as in src/engine/cuda/params.rs");

DEVICE float squares(u32 a) { return low_bf16(a) * low_bf16(a) + high_bf16(a) * high_bf16(a); }
DEVICE float squares(uint4 v) { return squares(v.x) + squares(v.y) + squares(v.z) + squares(v.w); }

DEVICE u32 scale_pair(u32 x, u32 weight, float scale) {
    return pack_bf16(low_bf16(x) * scale * low_bf16(weight), high_bf16(x) * scale * high_bf16(weight));
}

// By the lanes of a warp.
DEVICE float sum_of_squares(const uint4* row, int hidden) {
    float sum = 0.0f;
#pragma unroll 4
    for (int i = threadIdx.x % 32; i < hidden / 8; i += 32) sum += squares(row[i]);
    return warp_sum(sum);
}

DEVICE int row_of_warp() { return blockIdx.x * ROWS + threadIdx.x / 32; }

KERNEL void lengths(const __grid_constant__ LengthsParams p) {
    int row = row_of_warp();
    if (row >= p.n_rows) return;
    float sum = sum_of_squares((const uint4*)(p.x + (u64)row * p.hidden), p.hidden);
    if (threadIdx.x % 32 == 0) p.length[row] = sqrtf(sum);
}

// Thread `first` of `n` that share a row, whose squares add up to `sum`.
DEVICE void write_row(const RmsNormParams& p, u64 n_row, float sum, int first, int n) {
    // NaN for a row too large to have a norm: it must be found, and not become 0.
    float scale = 1.0f / sqrtf(sum / p.hidden + p.eps) + 0.0f * sum;
    const uint4* row = (const uint4*)(p.x + n_row * p.hidden);
    uint4* to = (uint4*)(p.out + n_row * p.hidden);
#pragma unroll 4
    for (int i = first; i < p.hidden / 8; i += n) {
        uint4 v = row[i], w = p.weight[i];
        to[i] = make_uint4(scale_pair(v.x, w.x, scale), scale_pair(v.y, w.y, scale),
                           scale_pair(v.z, w.z, scale), scale_pair(v.w, w.w, scale));
    }
}

KERNEL void rms_norm(const __grid_constant__ RmsNormParams p) {
    int row = row_of_warp();
    if (row >= p.n_rows) return;
    float sum = sum_of_squares((const uint4*)(p.x + (u64)row * p.hidden), p.hidden);
    write_row(p, row, sum, threadIdx.x % 32, 32);
}

KERNEL void rms_norm_of_few(const __grid_constant__ RmsNormParams p) {
    __shared__ float partial[THREADS / 32];
    const uint4* row = (const uint4*)(p.x + (u64)blockIdx.x * p.hidden);
    float sum = 0.0f;
    for (int i = threadIdx.x; i < p.hidden / 8; i += THREADS) sum += squares(row[i]);
    sum = warp_sum(sum);
    if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = sum;
    __syncthreads();
    sum = 0.0f;
    for (int i = 0; i < THREADS / 32; i++) sum += partial[i];
    write_row(p, blockIdx.x, sum, threadIdx.x, THREADS);
}
