// rope: rotary positions for queries or keys, after an optional norm of each head.
//
// With a norm: x = x / sqrt(mean_d x[d]^2 + eps) * norm_weight[d], rounded to bf16.
// For d < n_rotated / 2, with angle = position * frequency[d]:
//   out[d]                 = x[d] cos - x[d + n_rotated / 2] sin
//   out[d + n_rotated / 2] = x[d + n_rotated / 2] cos + x[d] sin
// times `turn`, and everything times `scale`.
// The angle is reduced in double precision: a float holds the angle of token 1,000,000 only to 0.06.
//
// x, out      [n_rows, n_heads, HEAD_DIM] bf16; out may be x
// norm_weight [HEAD_DIM] bf16 or null
// frequency   [n_rotated / 2] f64
// position of row r = first_position + r, or with starts [ceil(n_rows / stretch)] u32, else null, starts[r /
// stretch] + r % stretch
// n_rotated <= HEAD_DIM, even
// grid (n_rows, n_heads / HEADS, rounded up): a warp takes one head after the other
// Compile with -D HEAD_DIM=64, 96, 128 or 256.
// Reference: tests/cuda/reference.py, rope

constexpr int WARPS = 4;
constexpr int OF_WARP = 4;  // heads, whose rows come together
constexpr int HEADS = WARPS * OF_WARP;
constexpr int THREADS = 32 * WARPS;
constexpr int PER_LANE = HEAD_DIM / 32;

GEOMETRY(rope, THREADS, 1, HEADS, 0, 0);

struct RopeParams {
    const u16 *x, *norm_weight;
    const double* frequency;
    const u32* starts;
    u16* out;
    int n_heads, n_rotated, first_position, stretch;
    float eps, turn, scale;
};
static_assert(sizeof(RopeParams) == 72, "as in src/engine/cuda/params.rs");

KERNEL void rope(const __grid_constant__ RopeParams p) {
    __shared__ float cosine[HEAD_DIM / 2], sine[HEAD_DIM / 2], values[WARPS][HEAD_DIM];
    const u16 *x = p.x, *norm_weight = p.norm_weight;
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, first = blockIdx.y * HEADS + warp;
    int n_heads = p.n_heads, n_rotated = p.n_rotated, half = n_rotated / 2;
    const double two_pi = 6.283185307179586;
    int r = blockIdx.x, position = p.starts ? (int)p.starts[r / p.stretch] + r % p.stretch : p.first_position + r;
    u16 loaded[OF_WARP][PER_LANE];
#pragma unroll
    for (int h = 0; h < OF_WARP; h++) {
        const u16* from = x + ((u64)r * n_heads + min(first + h * WARPS, n_heads - 1)) * HEAD_DIM + lane;
#pragma unroll
        for (int i = 0; i < PER_LANE; i++) loaded[h][i] = from[32 * i];
    }
    for (int d = threadIdx.x; d < half; d += THREADS) {
        double angle = (double)position * p.frequency[d];
        float reduced = (float)(angle - two_pi * floor(angle / two_pi));
        sincosf(reduced, &sine[d], &cosine[d]);
        sine[d] *= p.turn, cosine[d] *= p.turn;
    }
    __syncthreads();
    float* v = values[warp];
#pragma unroll
    for (int h = 0; h < OF_WARP; h++) {
        int head = first + h * WARPS;
        if (head >= n_heads) return;
        float sum = 0.0f;
#pragma unroll
        for (int i = 0; i < PER_LANE; i++) {
            float value = from_bf16(loaded[h][i]);
            v[lane + 32 * i] = value;
            sum += value * value;
        }
        if (norm_weight) {
            sum = warp_sum(sum);
            // NaN for a head too large to have a norm.
            float norm = 1.0f / sqrtf(sum / HEAD_DIM + p.eps) + 0.0f * sum;
            for (int d = lane; d < HEAD_DIM; d += 32) {
                v[d] = from_bf16(to_bf16(v[d] * norm * from_bf16(norm_weight[d])));
            }
        }
        __syncwarp();
        u16* out = p.out + ((u64)r * n_heads + head) * HEAD_DIM;
        for (int d = lane; d < HEAD_DIM; d += 32) {
            float y = v[d];
            if (d < half) y = v[d] * cosine[d] - v[d + half] * sine[d];
            else if (d < n_rotated) y = v[d] * cosine[d - half] + v[d - half] * sine[d - half];
            out[d] = to_bf16(y * p.scale);
        }
        __syncwarp();
    }
}
