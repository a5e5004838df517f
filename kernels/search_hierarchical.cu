// search_hierarchical: the key blocks that each head and query block keeps, found by halving ranges of keys.
//
// One thread block finds one row of the mask; all rounds run in one launch, nothing depends on the host. Geometry and
// names are those of src/search/hierarchical.rs, the reference: visible blocks below `sink_blocks` and the last
// `local_blocks` are kept; the others, [c0, c1), compete for the remaining budget n. The frontier starts at the
// smallest level with at most 2 beam n nodes. At each level the best beam n nodes stay (n at level 0) and are replaced
// by their children. A node that is not inside [c0, c1) scores infinity. Ties: the lower node wins.
//
// score(node) = max over the block's queries of
//   ESTIMATE 0, 1: q . k of the node's first or middle key (start + length / 2)
//   ESTIMATE 2:    q . mean
//   ESTIMATE 3:    q . mean + sqrt(sum_d q_d^2 variance_d) sqrt(2 ln m), m keys in the node; q_d^2 rounded to bf16
//
// queries  [n_rows, n_heads, HEAD_DIM] bf16, row 0 is the first token of query block `first_block`
// rows     ESTIMATE 0, 1: keys [n_tokens, n_kv_heads, HEAD_DIM] bf16; 2, 3: mean [n_kv_heads, n_nodes, HEAD_DIM] bf16
// variance [n_kv_heads, n_nodes, HEAD_DIM] bf16, ESTIMATE 3 only, else null; nodes as pyramid.cu orders them
// kept     [n_heads, n_query_blocks, top_k] u32, ascending, filled up with 0xFFFFFFFF
// grid (query blocks of this chunk, n_heads), block 32 * WARPS
// shared bytes 2 * STAGE + 4 * (WARPS_Q + 4) * max_frontier; max_frontier >= 2 * beam * top_k, a multiple of 64
// local_blocks is at least ceil(BLOCK_Q / BLOCK_K); top_k >= sink_blocks + local_blocks
// Compile with -D HEAD_DIM, BLOCK_Q (16 to 128), BLOCK_K, ESTIMATE. Any card from sm_80.

constexpr int TILE = HEAD_DIM > 128 ? 32 : 64;         // nodes in flight at a time
constexpr int WARPS_Q = BLOCK_Q / 16;                  // 16 queries a warp, in registers
constexpr int WARPS_N = smaller(8 / WARPS_Q, TILE / 16);   // 16 nodes a warp at a time
constexpr int WARPS = WARPS_Q * WARPS_N;
constexpr int STEPS = HEAD_DIM / 16;
constexpr int ROW = HEAD_DIM * 2 + 16;                 // bytes; the pad keeps ldmatrix free of bank conflicts
constexpr bool SPREAD = ESTIMATE == 3;
constexpr int STAGE = TILE * ROW * (SPREAD ? 2 : 1);

struct Search {
    const u16 *rows, *variance;
    int n_tokens, n_kv_heads, n_nodes, level, c0, c1;
    u64 below;  // nodes below the current level
};

DEVICE u64 row_of(const Search& s, int node) {
    int kv_head = blockIdx.y / (gridDim.y / s.n_kv_heads);
    if (ESTIMATE >= 2) return ((u64)kv_head * s.n_nodes + s.below + node) * HEAD_DIM;
    int start = (node << s.level) * BLOCK_K, end = min(((node + 1) << s.level) * BLOCK_K, s.n_tokens);
    int key = ESTIMATE == 0 ? start : start + (end - start) / 2;
    return ((u64)key * s.n_kv_heads + kv_head) * HEAD_DIM;
}

DEVICE void load_tile(const Search& s, const u32* frontier, int first, int count, u32 stage) {
    constexpr int CHUNKS = HEAD_DIM / 8;
    for (int i = threadIdx.x; i < TILE * CHUNKS; i += 32 * WARPS) {
        int node = i / CHUNKS, chunk = i % CHUNKS;
        u64 at = row_of(s, frontier[min(first + node, count - 1)]) + chunk * 8;
        u32 to = stage + node * ROW + chunk * 16;
        copy_16(to, s.rows + at);
        if (SPREAD) copy_16(to + TILE * ROW, s.variance + at);
    }
    copies_commit();
}

// The largest estimate of 16 nodes over this warp's 16 queries: of nodes lane/4 and lane/4 + 8.
DEVICE float2 score_16(u32 nodes, const u32 (&query)[STEPS][4], float spread) {
    float means[2][4] = {}, variances[2][4] = {};
#pragma unroll
    for (int k = 0; k < STEPS; k++) {
        u32 a[4];
        load_matrices(a, nodes + k * 32);
        multiply(means[0], a, query[k][0], query[k][1]);
        multiply(means[1], a, query[k][2], query[k][3]);
        if (!SPREAD) continue;
        load_matrices(a, nodes + TILE * ROW + k * 32);
        multiply(variances[0], a, square_bf16(query[k][0]), square_bf16(query[k][1]));
        multiply(variances[1], a, square_bf16(query[k][2]), square_bf16(query[k][3]));
    }
    float best[2];
#pragma unroll
    for (int r = 0; r < 2; r++) {
        best[r] = -infinity();
#pragma unroll
        for (int j = 0; j < 4; j++) {
            float score = means[j / 2][r * 2 + j % 2];
            if (SPREAD) score += spread * sqrt_fast(variances[j / 2][r * 2 + j % 2]);
            best[r] = fmaxf(best[r], score);
        }
        best[r] = fmaxf(best[r], __shfl_xor_sync(~0u, best[r], 1));
        best[r] = fmaxf(best[r], __shfl_xor_sync(~0u, best[r], 2));
    }
    return make_float2(best[0], best[1]);
}

// partial[warp_q][i] = largest estimate of frontier node i over the warp's queries
DEVICE void score_frontier(const Search& s, const u32* frontier, int count, const u32 (&query)[STEPS][4], u32 stages,
                           float* partial, int max_frontier) {
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warp_q = warp % WARPS_Q, warp_n = warp / WARPS_Q;
    float spread = sqrtf(2.0f * logf((float)BLOCK_K * (float)(1 << s.level)));
    load_tile(s, frontier, 0, count, stages);
    for (int first = 0, tile = 0; first < count; first += TILE, tile++) {
        if (first + TILE < count) load_tile(s, frontier, first + TILE, count, stages + (tile + 1) % 2 * STAGE);
        else copies_commit();
        copies_wait<1>();
        __syncthreads();
        for (int m = warp_n * 16; m < TILE && first + m < count; m += WARPS_N * 16) {
            u32 nodes = stages + tile % 2 * STAGE + (m + lane % 16) * ROW + lane / 16 * 16;
            float2 best = score_16(nodes, query, spread);
            float* to = partial + warp_q * max_frontier + first + m + lane / 4;
            if (lane % 4 == 0) to[0] = best.x, to[8] = best.y;
        }
        __syncthreads();
    }
}

// stays[i] = whether node i is among the best `keep`
DEVICE void select(const Search& s, const u32* frontier, int count, int keep, const float* partial, float* score,
                   u32* stays, int max_frontier) {
    for (int i = threadIdx.x; i < count; i += 32 * WARPS) {
        int start = frontier[i] << s.level, end = (frontier[i] + 1) << s.level;
        float best = partial[i];
        for (int w = 1; w < WARPS_Q; w++) best = fmaxf(best, partial[w * max_frontier + i]);
        score[i] = start >= s.c0 && end <= s.c1 ? best : infinity();
    }
    __syncthreads();
    for (int i = threadIdx.x; i < count; i += 32 * WARPS) {
        float mine = score[i];
        int rank = 0;
        for (int j = 0; j < count; j++) rank += j < i ? score[j] >= mine : score[j] > mine;
        stays[i] = rank < keep;
    }
    __syncthreads();
}

// Replaces the nodes that stay by their children inside [c0, c1), or by themselves at level 0. One warp; returns how many.
DEVICE int descend(const Search& s, const u32* frontier, const u32* stays, int count, bool all, u32* next) {
    int n_next = 0, lane = threadIdx.x;
    u32 lower = (1u << lane) - 1;
    for (int base = 0; base < count; base += 32) {
        bool stay = base + lane < count && (all || stays[base + lane]);
        u32 node = base + lane < count ? frontier[base + lane] : 0;
        bool left = stay, right = false;
        if (s.level > 0) {
            left = stay && ((2 * node + 1) << (s.level - 1)) > s.c0;
            right = stay && ((2 * node + 1) << (s.level - 1)) < s.c1;
            node *= 2;
        }
        u32 lefts = __ballot_sync(~0u, left), rights = __ballot_sync(~0u, right);
        int at = n_next + __popc(lefts & lower) + __popc(rights & lower);
        if (left) next[at] = node;
        if (right) next[at + left] = node + 1;
        n_next += __popc(lefts) + __popc(rights);
    }
    return n_next;
}

KERNEL void __launch_bounds__(32 * WARPS)
    search_hierarchical(const u16* queries, const u16* rows, const u16* variance, u32* kept, int first_block,
                        int n_query_blocks, int n_tokens, int window, int n_kv_heads, int n_nodes, int sink_blocks,
                        int local_blocks, int top_k, int beam, int max_frontier) {
    extern __shared__ __align__(16) u8 shared[];
    float* partial = (float*)(shared + 2 * STAGE);
    float* score = partial + WARPS_Q * max_frontier;
    u32* stays = (u32*)(score + max_frontier);
    u32* frontiers = stays + max_frontier;
    __shared__ int n_next;

    int query_block = first_block + blockIdx.x, lane = threadIdx.x % 32, warp_q = threadIdx.x / 32 % WARPS_Q;
    Sight sight = sight_of(query_block, BLOCK_Q, BLOCK_K, n_tokens, window);
    Candidates c = candidates_of(sight, sink_blocks, local_blocks, top_k);
    u32* out = kept + ((u64)blockIdx.y * n_query_blocks + query_block) * top_k;
    int n_candidates = c.c1 - c.c0, n_found = min(n_candidates, c.budget), width = beam * c.budget, current = 0;

    if (n_candidates > c.budget && c.budget > 0) {
        u32 query[STEPS][4];  // this warp's queries: 16 columns of B; rows past the prompt repeat its last query
#pragma unroll
        for (int half = 0; half < 2; half++) {
            int token = min(sight.q0 + warp_q * 16 + half * 8 + lane / 4, n_tokens - 1) - first_block * BLOCK_Q;
            const u32* row = (const u32*)(queries + ((u64)token * gridDim.y + blockIdx.y) * HEAD_DIM) + lane % 4;
#pragma unroll
            for (int k = 0; k < STEPS; k++) query[k][half * 2] = row[k * 8], query[k][half * 2 + 1] = row[k * 8 + 4];
        }
        int n_key_blocks = (n_tokens + BLOCK_K - 1) / BLOCK_K;
        Search s = {rows, variance, n_tokens, n_kv_heads, n_nodes, 0, c.c0, c.c1, 0};
        for (; ((c.c1 - 1) >> s.level) - (c.c0 >> s.level) + 1 > 2 * width; s.level++) {
            s.below += (n_key_blocks + (1 << s.level) - 1) >> s.level;
        }
        int count = ((c.c1 - 1) >> s.level) - (c.c0 >> s.level) + 1;
        for (int i = threadIdx.x; i < count; i += 32 * WARPS) frontiers[i] = (c.c0 >> s.level) + i;
        __syncthreads();
        for (;;) {
            int keep = s.level ? width : c.budget;
            u32 *frontier = frontiers + current * max_frontier, *next = frontiers + (current ^ 1) * max_frontier;
            if (count > keep) {
                score_frontier(s, frontier, count, query, shared_address(shared), partial, max_frontier);
                select(s, frontier, count, keep, partial, score, stays, max_frontier);
            }
            if (threadIdx.x < 32) {
                int n = descend(s, frontier, stays, count, count <= keep, next);
                if (lane == 0) n_next = n;
            }
            __syncthreads();
            count = n_next;
            current ^= 1;
            if (s.level == 0) break;
            s.level--;
            s.below -= (n_key_blocks + (1 << s.level) - 1) >> s.level;
            __syncthreads();
        }
    }
    const u32* found = frontiers + current * max_frontier;
    int n_sinks = c.c0 - sight.v0;
    for (int i = threadIdx.x; i < top_k; i += 32 * WARPS) {
        u32 block = NONE;
        if (i < n_sinks) block = sight.v0 + i;
        else if (i < n_sinks + n_found) block = n_candidates > c.budget ? found[i - n_sinks] : c.c0 + i - n_sinks;
        else if (i - n_sinks - n_found < sight.v1 - c.c1) block = c.c1 + i - n_sinks - n_found;
        out[i] = block;
    }
}
