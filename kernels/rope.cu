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
// position of row r = first_position + r; n_rotated <= HEAD_DIM, even
// grid (n_rows, ceil(n_heads / 4)), block (32, 4): one warp a head, no dynamic shared memory
// Compile with -D HEAD_DIM=64, 96, 128 or 256.
// Reference: tests/cuda/reference.py, rope

constexpr int PER_LANE = HEAD_DIM / 32;

KERNEL void rope(const u16* x, const u16* norm_weight, const double* frequency, u16* out, int n_heads, int n_rotated,
                 int first_position, float eps, float turn, float scale) {
    __shared__ float cosine[HEAD_DIM / 2], sine[HEAD_DIM / 2], values[4][HEAD_DIM];
    int lane = threadIdx.x, head = blockIdx.y * 4 + threadIdx.y, half = n_rotated / 2;
    const double two_pi = 6.283185307179586;
    for (int d = threadIdx.y * 32 + lane; d < half; d += 128) {
        double angle = (double)(first_position + (int)blockIdx.x) * frequency[d];
        float reduced = (float)(angle - two_pi * floor(angle / two_pi));
        sincosf(reduced, &sine[d], &cosine[d]);
        sine[d] *= turn, cosine[d] *= turn;
    }
    float* v = values[threadIdx.y];
    u64 row = ((u64)blockIdx.x * n_heads + head) * HEAD_DIM;
    float sum = 0.0f;
    for (int i = 0; i < PER_LANE && head < n_heads; i++) {
        float value = from_bf16(x[row + lane + 32 * i]);
        v[lane + 32 * i] = value;
        sum += value * value;
    }
    for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(~0u, sum, step);
    // NaN for a head too large to have a norm.
    float norm = 1.0f / sqrtf(sum / HEAD_DIM + eps) + 0.0f * sum;
    for (int d = lane; d < HEAD_DIM && norm_weight; d += 32) {
        v[d] = from_bf16(to_bf16(v[d] * norm * from_bf16(norm_weight[d])));
    }
    __syncthreads();
    for (int d = lane; d < HEAD_DIM && head < n_heads; d += 32) {
        float y = v[d];
        if (d < half) y = v[d] * cosine[d] - v[d + half] * sine[d];
        else if (d < n_rotated) y = v[d] * cosine[d - half] + v[d - half] * sine[d - half];
        out[row + d] = to_bf16(y * scale);
    }
}
