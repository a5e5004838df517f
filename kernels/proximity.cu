// proximity: how near what each kept block writes comes to what its query block's residual stream becomes, by
// L1.
//
// y = mean of after[q], x = mean of before[q] over the query block's rows
// part = W_O sum over keys of share[key] value[key] / rows
// out = max(|y|_1 - |y - part|_1, 0); stays = max(|y|_1 - |y - x|_1, 0)
//
// shares [n_heads, query blocks of these rows, top_k * BLOCK_K] f32: sum over the block's queries of p, 0
//        past the prompt
// values [n_tokens, n_kv_heads, HEAD_DIM] bf16
// weight [hidden, n_heads * HEAD_DIM] bf16, the output layer
// before, after [n_rows, hidden] bf16
// out    [n_heads, n_query_blocks, top_k] f32, zeroed by the caller; stays [n_query_blocks] f32
// grid (query blocks of these rows, n_heads)
// Compile with -D HEAD_DIM, BLOCK_Q, BLOCK_K. Any card from sm_80.
// Reference: src/engine/cpu/proximity.rs; tests/cuda.rs compares

constexpr int THREADS = 256;
constexpr int SLOTS = 16;  // kept blocks for which a row of the weight is read once

GEOMETRY(proximity, THREADS, 1, 1, 0, 0);

struct ProximityParams {
    const float* shares;
    Mask mask;
    const u16 *values, *weight, *before, *after;
    float *out, *stays;
    Rows rows;
    Sizes sizes;
    int hidden;
};
static_assert(sizeof(ProximityParams) == 104, "as in src/engine/cuda/params.rs");

DEVICE float mean_of(const u16* rows, int n, int hidden, int r) {
    float sum = 0.0f;
    for (int q = 0; q < n; q++) sum += from_bf16(rows[(u64)q * hidden + r]);
    return sum / n;
}

DEVICE void add_all(float* to, float x) {
    x = warp_sum(x);
    if (threadIdx.x % 32 == 0) atomicAdd(to, x);
}

// Means over the query block's rows of what SLOTS kept blocks from `slot0` on give to the head.
DEVICE void sum_values(float (&summed)[SLOTS][HEAD_DIM], const ProximityParams& p, const u32* kept,
                       const float* share, int slot0, int n_rows) {
    int n_kv_heads = p.sizes.n_kv_heads, kv_head = kv_head_of(n_kv_heads), n_tokens = p.sizes.n_tokens;
    for (int i = threadIdx.x; i < SLOTS * HEAD_DIM; i += THREADS) {
        int slot = slot0 + i / HEAD_DIM, d = i % HEAD_DIM;
        u32 block = slot < top_k_of(p.mask) ? kept[slot] : NONE;
        float sum = 0.0f;
        for (int k = 0; k < BLOCK_K && block != NONE && (int)block * BLOCK_K + k < n_tokens; k++) {
            u64 row = (u64)((int)block * BLOCK_K + k) * n_kv_heads + kv_head;
            sum += share[slot * BLOCK_K + k] * from_bf16(p.values[row * HEAD_DIM + d]);
        }
        summed[i / HEAD_DIM][d] = sum / n_rows;
    }
}

// Adds to `near` how near each of SLOTS parts comes to the mean of `after`.
DEVICE void add_parts(float (&near)[SLOTS], const float (&summed)[SLOTS][HEAD_DIM], const ProximityParams& p,
                      const u16* after, int n_rows) {
    int hidden = p.hidden, width = gridDim.y * HEAD_DIM;
    const u16* weight = p.weight + blockIdx.y * HEAD_DIM;
    float mine[SLOTS] = {};
    for (int r = threadIdx.x; r < hidden; r += THREADS) {
        float y = mean_of(after, n_rows, hidden, r), part[SLOTS] = {};
        const u16* w = weight + (u64)r * width;
#pragma unroll 8
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
}

// How near the mean of `before` comes to that of `after`.
DEVICE void write_stays(float* stays, const u16* before, const u16* after, int n_rows, int hidden) {
    __shared__ float near;
    if (threadIdx.x == 0) near = 0.0f;
    __syncthreads();
    float mine = 0.0f;
    for (int r = threadIdx.x; r < hidden; r += THREADS) {
        float y = mean_of(after, n_rows, hidden, r);
        mine += fabsf(y) - fabsf(y - mean_of(before, n_rows, hidden, r));
    }
    add_all(&near, mine);
    __syncthreads();
    if (threadIdx.x == 0) *stays = fmaxf(near, 0.0f);
}

KERNEL void __launch_bounds__(THREADS) proximity(const __grid_constant__ ProximityParams p) {
    __shared__ float summed[SLOTS][HEAD_DIM], near[SLOTS];
    int row0 = blockIdx.x * BLOCK_Q, n_rows = min(BLOCK_Q, p.rows.n_rows - row0), top_k = top_k_of(p.mask);
    int query_block = p.rows.first_block + blockIdx.x;
    u64 at = row_of_mask(p.mask, query_block);
    const u32* kept = p.mask.kept + at;
    const float* share = p.shares + row_of_head(p.mask, blockIdx.x, gridDim.x) * BLOCK_K;
    const u16 *before = p.before + (u64)row0 * p.hidden, *after = p.after + (u64)row0 * p.hidden;
    for (int slot0 = 0; slot0 < top_k && kept[slot0] != NONE; slot0 += SLOTS) {
        sum_values(summed, p, kept, share, slot0, n_rows);
        if (threadIdx.x < SLOTS) near[threadIdx.x] = 0.0f;
        __syncthreads();
        add_parts(near, summed, p, after, n_rows);
        __syncthreads();
        int slot = slot0 + threadIdx.x;
        bool is_kept = threadIdx.x < SLOTS && slot < top_k && kept[slot] != NONE;
        if (is_kept) p.out[at + slot] = fmaxf(near[threadIdx.x], 0.0f);
        __syncthreads();
    }
    if (blockIdx.y == 0) write_stays(p.stays + query_block - p.mask.first_query_block, before, after, n_rows, p.hidden);
}
