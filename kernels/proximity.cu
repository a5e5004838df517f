// proximity: how near what each kept block writes comes to what its query block's residual stream becomes, by L1.
//
// y = mean of after[q], x = mean of before[q] over the query block's rows; part = W_O sum over keys of share[key] value[key] / rows
// out = max(|y|_1 - |y - part|_1, 0); stays = max(|y|_1 - |y - x|_1, 0)
//
// shares [n_heads, query blocks of this chunk, top_k * BLOCK_K] f32: sum over the block's queries of p, 0 past the prompt
// kept   [n_heads, n_query_blocks, top_k] u32 ascending, filled up with 0xFFFFFFFF
// values [n_tokens, n_kv_heads, HEAD_DIM] bf16
// weight [hidden, n_heads * HEAD_DIM] bf16, the output layer
// before, after [n_rows, hidden] bf16, row 0 is the first token of query block `first_block`
// out    [n_heads, n_query_blocks, top_k] f32, zeroed by the caller; stays [n_query_blocks] f32
// grid (query blocks of this chunk, n_heads), block THREADS, no dynamic shared memory
// Compile with -D HEAD_DIM, BLOCK_Q, BLOCK_K. Any card from sm_80.
// Reference: src/cpu/proximity.rs; tests/cuda.rs compares

constexpr int THREADS = 256;
constexpr int SLOTS = 16;  // kept blocks for which a row of the weight is read once

DEVICE float mean_of(const u16* rows, int n, int hidden, int r) {
    float sum = 0.0f;
    for (int q = 0; q < n; q++) sum += from_bf16(rows[(u64)q * hidden + r]);
    return sum / n;
}

DEVICE void add_all(float* to, float x) {
    for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(~0u, x, step);
    if (threadIdx.x % 32 == 0) atomicAdd(to, x);
}

KERNEL void __launch_bounds__(THREADS)
    proximity(const float* shares, const u32* kept, const u16* values, const u16* weight, const u16* before, const u16* after, float* out,
              float* stays, int first_block, int n_rows, int n_query_blocks, int n_tokens, int n_kv_heads, int top_k, int hidden) {
    __shared__ float summed[SLOTS][HEAD_DIM], near[SLOTS + 1];
    int row0 = blockIdx.x * BLOCK_Q, rows = min(BLOCK_Q, n_rows - row0), query_block = first_block + blockIdx.x;
    int kv_head = blockIdx.y / (gridDim.y / n_kv_heads), width = gridDim.y * HEAD_DIM;
    u64 at = ((u64)blockIdx.y * n_query_blocks + query_block) * top_k;
    const float* share = shares + ((u64)blockIdx.y * gridDim.x + blockIdx.x) * top_k * BLOCK_K;
    before += (u64)row0 * hidden, after += (u64)row0 * hidden;
    for (int slot0 = 0; slot0 < top_k && kept[at + slot0] != NONE; slot0 += SLOTS) {
        for (int i = threadIdx.x; i < SLOTS * HEAD_DIM; i += THREADS) {
            int slot = slot0 + i / HEAD_DIM, d = i % HEAD_DIM;
            u32 block = slot < top_k ? kept[at + slot] : NONE;
            float sum = 0.0f;
            for (int k = 0; k < BLOCK_K && block != NONE && (int)block * BLOCK_K + k < n_tokens; k++) {
                u64 row = (u64)((int)block * BLOCK_K + k) * n_kv_heads + kv_head;
                sum += share[slot * BLOCK_K + k] * from_bf16(values[row * HEAD_DIM + d]);
            }
            summed[i / HEAD_DIM][d] = sum / rows;
        }
        if (threadIdx.x < SLOTS) near[threadIdx.x] = 0.0f;
        __syncthreads();
        float mine[SLOTS] = {};
        for (int r = threadIdx.x; r < hidden; r += THREADS) {
            float y = mean_of(after, rows, hidden, r), part[SLOTS] = {};
            const u16* w = weight + (u64)r * width + blockIdx.y * HEAD_DIM;
            for (int d = 0; d < HEAD_DIM; d++) {
                float x = from_bf16(w[d]);
#pragma unroll
                for (int s = 0; s < SLOTS; s++) part[s] += x * summed[s][d];
            }
#pragma unroll
            for (int s = 0; s < SLOTS; s++) mine[s] += fabsf(y) - fabsf(y - part[s]);
        }
#pragma unroll
        for (int s = 0; s < SLOTS; s++) add_all(&near[s], mine[s]);
        __syncthreads();
        int slot = slot0 + threadIdx.x;
        if (threadIdx.x < SLOTS && slot < top_k && kept[at + slot] != NONE) out[at + slot] = fmaxf(near[threadIdx.x], 0.0f);
        __syncthreads();
    }
    if (blockIdx.y > 0) return;
    if (threadIdx.x == 0) near[SLOTS] = 0.0f;
    __syncthreads();
    float mine = 0.0f;
    for (int r = threadIdx.x; r < hidden; r += THREADS) {
        float y = mean_of(after, rows, hidden, r);
        mine += fabsf(y) - fabsf(y - mean_of(before, rows, hidden, r));
    }
    add_all(&near[SLOTS], mine);
    __syncthreads();
    if (threadIdx.x == 0) stays[query_block] = fmaxf(near[SLOTS], 0.0f);
}
