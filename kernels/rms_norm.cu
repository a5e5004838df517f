// rms_norm: root-mean-square norm of each row, after adding what the last block returned.
//
// x[t, :] += delta[t, :] (rounded to bf16; skipped when delta is null), then
// out[t, d] = x[t, d] / sqrt(mean_d x[t, d]^2 + eps) * (weight[d] + offset)
//
// x      [n_rows, hidden] bf16, changed in place when delta is given
// delta  [n_rows, hidden] bf16 or null
// weight [hidden] bf16; `offset` is 1 for families that store weight - 1, else 0
// out    [n_rows, hidden] bf16 or null (then only x changes)
// grid n_rows, block 256, no dynamic shared memory. hidden is a multiple of 8.
// Reference: tests/cuda/reference.py, rms_norm

DEVICE float block_sum(float value) {
    __shared__ float partial[32];
    for (int step = 16; step > 0; step /= 2) value += __shfl_xor_sync(~0u, value, step);
    if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = value;
    __syncthreads();
    float sum = 0.0f;
    for (int i = 0; i < blockDim.x / 32; i++) sum += partial[i];
    return sum;
}

DEVICE u32 add_pairs(u32 a, u32 b) { return pack_bf16(low_bf16(a) + low_bf16(b), high_bf16(a) + high_bf16(b)); }
DEVICE float squares(u32 a) { return low_bf16(a) * low_bf16(a) + high_bf16(a) * high_bf16(a); }

DEVICE u32 scale_pair(u32 x, u32 weight, float scale, float offset) {
    return pack_bf16(low_bf16(x) * scale * (low_bf16(weight) + offset), high_bf16(x) * scale * (high_bf16(weight) + offset));
}

KERNEL void rms_norm(u16* x, const u16* delta, const u16* weight, u16* out, int hidden, float eps, float offset) {
    uint4* row = (uint4*)(x + (u64)blockIdx.x * hidden);
    const uint4* added = (const uint4*)(delta + (u64)blockIdx.x * hidden);
    float sum = 0.0f;
    for (int i = threadIdx.x; i < hidden / 8; i += blockDim.x) {
        uint4 v = row[i];
        if (delta) {
            uint4 d = added[i];
            v = make_uint4(add_pairs(v.x, d.x), add_pairs(v.y, d.y), add_pairs(v.z, d.z), add_pairs(v.w, d.w));
            row[i] = v;
        }
        sum += squares(v.x) + squares(v.y) + squares(v.z) + squares(v.w);
    }
    if (!out) return;
    float scale = 1.0f / sqrtf(block_sum(sum) / hidden + eps);
    uint4* to = (uint4*)(out + (u64)blockIdx.x * hidden);
    for (int i = threadIdx.x; i < hidden / 8; i += blockDim.x) {
        uint4 v = row[i], w = ((const uint4*)weight)[i];
        to[i] = make_uint4(scale_pair(v.x, w.x, scale, offset), scale_pair(v.y, w.y, scale, offset),
                           scale_pair(v.z, w.z, scale, offset), scale_pair(v.w, w.w, scale, offset));
    }
}
