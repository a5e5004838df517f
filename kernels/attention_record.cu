// attention_record: what the attention of one layer leaves behind, key by key, from the mask and each row's log-sum-exp.
//
// p(q, key) = exp(q . key / sqrt(HEAD_DIM) - lse[q]) over kept, visible keys. Keys are the rows of the products and
// queries the columns, so the sum over queries stays inside a thread. With the lse of dense attention instead, the same
// kernel gives the dense mass on kept keys.
//
// queries   [n_rows, n_heads, HEAD_DIM] bf16, row 0 is the first token of query block `first_block`
// keys      [n_tokens, n_kv_heads, HEAD_DIM] bf16
// kept      [n_heads, n_query_blocks, top_k] u32 ascending, filled up with 0xFFFFFFFF
// lse       [n_heads, n_rows] f32
// mass      [n_heads, n_query_blocks, top_k] f32: mean over the block's queries of the mass on a kept block; 0 fills up
// received  [n_heads, n_tokens] f32, added to: sum over queries of p. Order of addition is not fixed: last bits vary
// focus     [n_heads, focus1 - focus0, top_k * BLOCK_K] f32, zeroed by the caller: p of the focus tokens
// sentence  [n_tokens] u32, non-decreasing; weight [n_tokens] f32 (1 / tokens in the query's sentence); ANCHORS only
// anchors   [n_heads, n_tokens] f32, added to: sum of p weight[q] over queries with sentence[q] >= sentence[key] + distance
// shares    [n_heads, query blocks of this chunk, top_k * BLOCK_K] f32, zeroed by the caller, or null: sum over queries of p
// grid (query blocks of this chunk, n_heads), block 32 * WARPS
// shared bytes 2 * STAGE + 4 * (2 * TILE + top_k)
// Compile with -D HEAD_DIM, BLOCK_Q (16 to 128), BLOCK_K (8 to 64), ANCHORS (0 or 1), SOFT_CAP (prelude.cu). Any card from sm_80.
// Reference: tests/cuda/reference.py, record; src/attention.rs

constexpr int TILE = 64;                               // keys in flight at a time
constexpr int SLOTS = TILE / BLOCK_K;
constexpr int WARPS_Q = BLOCK_Q / 16;                  // 16 queries a warp, in registers
constexpr int WARPS_N = smaller(8 / WARPS_Q, TILE / 16);
constexpr int WARPS = WARPS_Q * WARPS_N;
constexpr int STEPS = HEAD_DIM / 16;
constexpr int ROW = HEAD_DIM * 2 + 16;
constexpr int STAGE = TILE * ROW;

DEVICE void load_tile(const u16* keys, const u32* row, int count, int tile, int n_tokens, int n_kv_heads, u32 stage) {
    constexpr int CHUNKS = HEAD_DIM / 8;
    int kv_head = blockIdx.y / (gridDim.y / n_kv_heads);
    for (int i = threadIdx.x; i < TILE * CHUNKS; i += 32 * WARPS) {
        int r = i / CHUNKS, slot = min(tile * SLOTS + r / BLOCK_K, count - 1);
        int key = min((int)row[slot] * BLOCK_K + r % BLOCK_K, n_tokens - 1);
        copy_16(stage + r * ROW + i % CHUNKS * 16, keys + ((u64)key * n_kv_heads + kv_head) * HEAD_DIM + i % CHUNKS * 8);
    }
    copies_commit();
}

DEVICE void dots_16(float (&dots)[2][4], u32 keys, const u32 (&query)[STEPS][4]) {
#pragma unroll
    for (int k = 0; k < STEPS; k++) {
        u32 a[4];
        load_matrices(a, keys + k * 32);
        multiply(dots[0], a, query[k][0], query[k][1]);
        multiply(dots[1], a, query[k][2], query[k][3]);
    }
}

DEVICE float quad_sum(float x) {
    x += __shfl_xor_sync(~0u, x, 1);
    return x + __shfl_xor_sync(~0u, x, 2);
}

KERNEL void __launch_bounds__(32 * WARPS)
    attention_record(const u16* queries, const u16* keys, const u32* kept, const float* lse, float* mass, float* received,
                     float* focus, const u32* sentence, const float* weight, float* anchors, float* shares, int first_block, int n_rows,
                     int n_query_blocks, int n_tokens, int window, int n_kv_heads, int top_k, int focus0, int focus1, int distance) {
    extern __shared__ __align__(16) u8 shared[];
    u32 stages = shared_address(shared);
    float *sums = (float*)(shared + 2 * STAGE), *anchor_sums = sums + TILE, *block_mass = anchor_sums + TILE;
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warp_q = warp % WARPS_Q, warp_n = warp / WARPS_Q;
    int query_block = first_block + blockIdx.x, row0 = first_block * BLOCK_Q;
    Sight sight = sight_of(query_block, BLOCK_Q, BLOCK_K, n_tokens, window);
    u64 at_row = ((u64)blockIdx.y * n_query_blocks + query_block) * top_k;
    const u32* row = kept + at_row;
    int count = top_k;
    while (count > 1 && row[count - 1] == NONE) count--;

    const float scale = LOG2E / sqrtf((float)HEAD_DIM);
    u32 query[STEPS][4];
    float base[4], share[4];  // of this lane's columns: log2-sum-exp, infinite past the prompt; weight for the anchors
    int token[4], of_sentence[4];
#pragma unroll
    for (int half = 0; half < 2; half++) {
        int t = min(sight.q0 + warp_q * 16 + half * 8 + lane / 4, n_tokens - 1) - row0;
        const u32* from = (const u32*)(queries + ((u64)t * gridDim.y + blockIdx.y) * HEAD_DIM) + lane % 4;
#pragma unroll
        for (int k = 0; k < STEPS; k++) query[k][half * 2] = from[k * 8], query[k][half * 2 + 1] = from[k * 8 + 4];
    }
#pragma unroll
    for (int j = 0; j < 4; j++) {
        token[j] = sight.q0 + warp_q * 16 + j / 2 * 8 + lane % 4 * 2 + j % 2;
        bool valid = token[j] < sight.q1;
        base[j] = valid ? lse[(u64)blockIdx.y * n_rows + token[j] - row0] * LOG2E : infinity();
        share[j] = ANCHORS && valid ? weight[token[j]] : 0.0f;
        of_sentence[j] = ANCHORS && valid ? (int)sentence[token[j]] - distance : -1;
    }
    for (int i = threadIdx.x; i < top_k; i += 32 * WARPS) block_mass[i] = 0.0f;
    int n_tiles = (count + SLOTS - 1) / SLOTS;
    load_tile(keys, row, count, 0, n_tokens, n_kv_heads, stages);
    for (int tile = 0; tile < n_tiles; tile++) {
        if (tile + 1 < n_tiles) load_tile(keys, row, count, tile + 1, n_tokens, n_kv_heads, stages + (tile + 1) % 2 * STAGE);
        else copies_commit();
        for (int i = threadIdx.x; i < 2 * TILE; i += 32 * WARPS) sums[i] = 0.0f;
        copies_wait<1>();
        __syncthreads();
        for (int m = warp_n * 16; m < TILE; m += WARPS_N * 16) {
            float dots[2][4] = {};
            dots_16(dots, stages + tile % 2 * STAGE + (m + lane % 16) * ROW + lane / 16 * 16, query);
#pragma unroll
            for (int r = 0; r < 2; r++) {
                int i = m + lane / 4 + r * 8, slot = tile * SLOTS + i / BLOCK_K;
                int key = slot < count ? (int)row[slot] * BLOCK_K + i % BLOCK_K : 0x7FFFFFF0;
                int key_sentence = ANCHORS && key < n_tokens ? (int)sentence[key] : 0x7FFFFFF0;
                float sum = 0.0f, anchor = 0.0f;
#pragma unroll
                for (int j = 0; j < 4; j++) {
                    float p = exp2_fast(fmaf(soft_cap(dots[j / 2][r * 2 + j % 2]), scale, -base[j]));
                    if (!sees(token[j], key, window)) p = 0.0f;
                    sum += p;
                    if (ANCHORS && key_sentence <= of_sentence[j]) anchor += p * share[j];
                    if (token[j] >= focus0 && token[j] < focus1 && token[j] < sight.q1 && slot < count) {
                        focus[(((u64)blockIdx.y * (focus1 - focus0) + token[j] - focus0) * top_k + slot) * BLOCK_K + i % BLOCK_K] = p;
                    }
                }
                sum = quad_sum(sum);
                if (ANCHORS) anchor = quad_sum(anchor);
                if (lane % 4 == 0) atomicAdd(&sums[i], sum);
                if (ANCHORS && lane % 4 == 0) atomicAdd(&anchor_sums[i], anchor);
            }
        }
        __syncthreads();
        for (int i = threadIdx.x; i < TILE; i += 32 * WARPS) {
            int slot = tile * SLOTS + i / BLOCK_K;
            int key = slot < count ? (int)row[slot] * BLOCK_K + i % BLOCK_K : n_tokens;
            if (key >= n_tokens) continue;
            atomicAdd(&received[(u64)blockIdx.y * n_tokens + key], sums[i]);
            if (ANCHORS) atomicAdd(&anchors[(u64)blockIdx.y * n_tokens + key], anchor_sums[i]);
            if (shares) shares[((u64)blockIdx.y * gridDim.x + blockIdx.x) * top_k * BLOCK_K + tile * TILE + i] = sums[i];
            atomicAdd(&block_mass[slot], sums[i]);
        }
        __syncthreads();
    }
    for (int i = threadIdx.x; i < top_k; i += 32 * WARPS) mass[at_row + i] = block_mass[i] / (sight.q1 - sight.q0);
}
