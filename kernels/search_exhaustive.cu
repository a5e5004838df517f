// search_exhaustive: the key blocks with the largest query . key, every pair read: the reference. O(T^2) time.
//
// exhaustive_scores: score(block) = max over the visible pairs of the query block's queries and the key block's keys of
// q . k. exhaustive_select: always kept blocks as in search_hierarchical.cu, then the best of the others; ties: the lower
// block wins. Reference: src/search/exhaustive.rs.
//
// queries [n_rows, n_heads, HEAD_DIM] bf16, row 0 is the first token of query block `first_block`
// keys    [n_tokens, n_kv_heads, HEAD_DIM] bf16
// scores  [n_heads, query blocks of this chunk, n_key_blocks] f32, of candidates only
// kept    [n_heads, n_query_blocks, top_k] u32, ascending, filled up with 0xFFFFFFFF
// grid both (query blocks of this chunk, n_heads); block scores 32 * WARPS, select 256
// shared bytes scores 2 * STAGE + 4 * WARPS_Q * TILE; select none beyond the static
// Compile with -D HEAD_DIM, BLOCK_Q (16 to 128), BLOCK_K (8 to 64). Any card from sm_80.

constexpr int TILE = HEAD_DIM > 128 ? 32 : 64;  // keys in flight at a time; may hold several key blocks or half of one
constexpr int WARPS_Q = BLOCK_Q / 16;
constexpr int WARPS_N = smaller(8 / WARPS_Q, TILE / 16);
constexpr int WARPS = WARPS_Q * WARPS_N;
constexpr int STEPS = HEAD_DIM / 16;
constexpr int ROW = HEAD_DIM * 2 + 16;
constexpr int STAGE = TILE * ROW;

DEVICE void load_tile(const u16* keys, int first, int n_tokens, int n_kv_heads, u32 stage) {
    constexpr int CHUNKS = HEAD_DIM / 8;
    int kv_head = blockIdx.y / (gridDim.y / n_kv_heads);
    for (int i = threadIdx.x; i < TILE * CHUNKS; i += 32 * WARPS) {
        int key = min(first + i / CHUNKS, n_tokens - 1);
        copy_16(stage + i / CHUNKS * ROW + i % CHUNKS * 16, keys + ((u64)key * n_kv_heads + kv_head) * HEAD_DIM + i % CHUNKS * 8);
    }
    copies_commit();
}

KERNEL void __launch_bounds__(32 * WARPS)
    exhaustive_scores(const u16* queries, const u16* keys, float* scores, int first_block, int n_tokens, int window,
                      int n_kv_heads, int sink_blocks, int local_blocks, int top_k) {
    extern __shared__ __align__(16) u8 shared[];
    u32 stages = shared_address(shared);
    float* partial = (float*)(shared + 2 * STAGE);  // [WARPS_Q, TILE]
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warp_q = warp % WARPS_Q, warp_n = warp / WARPS_Q;
    int n_key_blocks = (n_tokens + BLOCK_K - 1) / BLOCK_K;
    Sight sight = sight_of(first_block + blockIdx.x, BLOCK_Q, BLOCK_K, n_tokens, window);
    Candidates c = candidates_of(sight, sink_blocks, local_blocks, top_k);
    float* out = scores + ((u64)blockIdx.y * gridDim.x + blockIdx.x) * n_key_blocks;
    if (c.c1 - c.c0 <= c.budget || c.budget <= 0) return;

    u32 query[STEPS][4];
#pragma unroll
    for (int half = 0; half < 2; half++) {
        int token = min(sight.q0 + warp_q * 16 + half * 8 + lane / 4, n_tokens - 1) - first_block * BLOCK_Q;
        const u32* row = (const u32*)(queries + ((u64)token * gridDim.y + blockIdx.y) * HEAD_DIM) + lane % 4;
#pragma unroll
        for (int k = 0; k < STEPS; k++) query[k][half * 2] = row[k * 8], query[k][half * 2 + 1] = row[k * 8 + 4];
    }
    int start = c.c0 * BLOCK_K, end = c.c1 * BLOCK_K, tile = 0;
    float running = -infinity();  // of a key block larger than a tile
    load_tile(keys, start, n_tokens, n_kv_heads, stages);
    for (int first = start; first < end; first += TILE, tile++) {
        if (first + TILE < end) load_tile(keys, first + TILE, n_tokens, n_kv_heads, stages + (tile + 1) % 2 * STAGE);
        else copies_commit();
        copies_wait<1>();
        __syncthreads();
        for (int m = warp_n * 16; m < TILE; m += WARPS_N * 16) {
            float dots[2][4] = {};
            u32 at = stages + tile % 2 * STAGE + (m + lane % 16) * ROW + lane / 16 * 16;
#pragma unroll
            for (int k = 0; k < STEPS; k++) {
                u32 a[4];
                load_matrices(a, at + k * 32);
                multiply(dots[0], a, query[k][0], query[k][1]);
                multiply(dots[1], a, query[k][2], query[k][3]);
            }
#pragma unroll
            for (int r = 0; r < 2; r++) {
                float best = -infinity();
                int key = first + m + lane / 4 + r * 8;
#pragma unroll
                for (int j = 0; j < 4; j++) {
                    int q = min(sight.q0 + warp_q * 16 + j / 2 * 8 + lane % 4 * 2 + j % 2, sight.q1 - 1);
                    if (sees(q, key, window)) best = fmaxf(best, dots[j / 2][r * 2 + j % 2]);
                }
                best = fmaxf(best, __shfl_xor_sync(~0u, best, 1));
                best = fmaxf(best, __shfl_xor_sync(~0u, best, 2));
                if (lane % 4 == 0) partial[warp_q * TILE + m + lane / 4 + r * 8] = best;
            }
        }
        __syncthreads();
        constexpr int PART = BLOCK_K < TILE ? BLOCK_K : TILE;  // keys of one key block in this tile
        for (int b = threadIdx.x; b < TILE / PART; b += 32 * WARPS) {
            float best = BLOCK_K > TILE && (first - start) % BLOCK_K ? running : -infinity();
            for (int w = 0; w < WARPS_Q; w++) {
                for (int i = 0; i < PART; i++) best = fmaxf(best, partial[w * TILE + b * PART + i]);
            }
            running = best;
            int block = (first + b * PART) / BLOCK_K;
            if (block < c.c1) out[block] = best;
        }
        __syncthreads();
    }
}

// The `budget`-th largest of the candidates' scores, byte by byte, and how many of its equals may stay.
DEVICE u32 threshold_of(const float* scores, Candidates c, u32& n_equals) {
    __shared__ u32 histogram[256], chosen, remaining;
    u32 prefix = 0, wanted = c.budget;
    for (int shift = 24; shift >= 0; shift -= 8) {
        histogram[threadIdx.x] = 0;
        __syncthreads();
        for (int b = c.c0 + threadIdx.x; b < c.c1; b += 256) {
            u32 bits = ordered(scores[b]);
            if (shift == 24 || bits >> (shift + 8) == prefix) atomicAdd(&histogram[bits >> shift & 255], 1u);
        }
        __syncthreads();
        if (threadIdx.x == 0) {
            int byte = 255;
            for (; byte > 0 && histogram[byte] < wanted; byte--) wanted -= histogram[byte];
            chosen = byte;
            remaining = wanted;
        }
        __syncthreads();
        prefix = prefix << 8 | chosen;
        wanted = remaining;
    }
    n_equals = wanted;
    return prefix;
}

KERNEL void exhaustive_select(const float* scores, u32* kept, int first_block, int n_query_blocks, int n_tokens, int window,
                              int sink_blocks, int local_blocks, int top_k) {
    int n_key_blocks = (n_tokens + BLOCK_K - 1) / BLOCK_K, query_block = first_block + blockIdx.x;
    Sight sight = sight_of(query_block, BLOCK_Q, BLOCK_K, n_tokens, window);
    Candidates c = candidates_of(sight, sink_blocks, local_blocks, top_k);
    const float* row = scores + ((u64)blockIdx.y * gridDim.x + blockIdx.x) * n_key_blocks;
    u32* out = kept + ((u64)blockIdx.y * n_query_blocks + query_block) * top_k;
    bool all = c.c1 - c.c0 <= c.budget;
    u32 threshold = 0, n_equals = 0;
    if (!all && c.budget > 0) threshold = threshold_of(row, c, n_equals);
    if (threadIdx.x >= 32) return;
    int lane = threadIdx.x, n_out = c.c0 - sight.v0;
    u32 lower = (1u << lane) - 1, n_equals_seen = 0;
    for (int i = lane; i < n_out; i += 32) out[i] = sight.v0 + i;
    for (int base = c.c0; base < c.c1 && (all || c.budget > 0); base += 32) {
        int b = base + lane;
        u32 bits = b < c.c1 && !all ? ordered(row[b]) : 0;
        u32 equals = __ballot_sync(~0u, b < c.c1 && !all && bits == threshold);
        bool equal_stays = bits == threshold && n_equals_seen + __popc(equals & lower) < n_equals;
        bool stays = b < c.c1 && (all || bits > threshold || equal_stays);
        u32 staying = __ballot_sync(~0u, stays);
        if (stays) out[n_out + __popc(staying & lower)] = b;
        n_out += __popc(staying);
        n_equals_seen += __popc(equals);
    }
    for (int i = lane; n_out + i < top_k; i += 32) out[n_out + i] = c.c1 + i < sight.v1 ? c.c1 + i : NONE;
}
