// score_warps: how search_hierarchical scores the nodes of its frontier, with products of one warp. Any card from sm_80.
//
// A warp holds 16 queries in registers as columns; nodes stream through shared memory as rows, 16 at a time, so the
// maximum over queries needs only the four lanes of a quad.
// Shared bytes 2 * STAGE; block 32 * WARPS.

constexpr int TILE = HEAD_DIM > 128 ? 32 : 64;          // nodes in flight at a time
constexpr int WARPS_Q = BLOCK_Q / 16;
constexpr int WARPS_N = smaller(8 / WARPS_Q, TILE / 16);
constexpr int THREADS = 32 * WARPS_Q * WARPS_N;
constexpr int MIN_BLOCKS = HEAD_DIM > 128 ? 1 : 2;      // on a multiprocessor
constexpr int STEPS = HEAD_DIM / 16;
constexpr int ROW = HEAD_DIM * 2 + 16;                  // bytes; the pad keeps ldmatrix free of bank conflicts
constexpr int STAGE = TILE * ROW * (SPREAD ? 2 : 1);

// 16 columns of B; rows past the prompt repeat its last query, which changes no maximum.
struct Queries {
    u32 pairs[STEPS][4];
};

DEVICE void load_queries(Queries& q, const u16* queries, Sight sight, int row0, u8* shared) {
    int lane = threadIdx.x % 32, warp_q = threadIdx.x / 32 % WARPS_Q;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        int token = min(sight.q0 + warp_q * 16 + half * 8 + lane / 4, sight.q1 - 1) - row0;
        const u32* row = (const u32*)(queries + ((u64)token * gridDim.y + blockIdx.y) * HEAD_DIM) + lane % 4;
#pragma unroll
        for (int k = 0; k < STEPS; k++) q.pairs[k][half * 2] = row[k * 8], q.pairs[k][half * 2 + 1] = row[k * 8 + 4];
    }
}

DEVICE void load_tile(const Search& s, const u32* frontier, int first, int count, u32 stage) {
    constexpr int CHUNKS = HEAD_DIM / 8;
    for (int i = threadIdx.x; i < TILE * CHUNKS; i += THREADS) {
        int node = i / CHUNKS, chunk = i % CHUNKS;
        u64 at = row_of(s, frontier[min(first + node, count - 1)]) + chunk * 8;
        u32 to = stage + node * ROW + chunk * 16;
        copy_16(to, s.rows + at);
        if (SPREAD) copy_16(to + TILE * ROW, s.variance + at);
    }
    copies_commit();
}

// The largest estimate of 16 nodes over this warp's 16 queries: of nodes lane/4 and lane/4 + 8.
DEVICE float2 score_16(u32 nodes, const Queries& q, float spread) {
    float means[2][4] = {}, variances[2][4] = {}, best[2];
#pragma unroll
    for (int k = 0; k < STEPS; k++) {
        u32 a[4];
        load_matrices(a, nodes + k * 32);
        multiply(means[0], a, q.pairs[k][0], q.pairs[k][1]);
        multiply(means[1], a, q.pairs[k][2], q.pairs[k][3]);
        if (!SPREAD) continue;
        load_matrices(a, nodes + TILE * ROW + k * 32);
        multiply(variances[0], a, square_bf16(q.pairs[k][0]), square_bf16(q.pairs[k][1]));
        multiply(variances[1], a, square_bf16(q.pairs[k][2]), square_bf16(q.pairs[k][3]));
    }
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

DEVICE void score_frontier(const Search& s, const u32* frontier, int count, const Queries& q, u8* shared, u32* scores) {
    int lane = threadIdx.x % 32, warp_n = threadIdx.x / 32 / WARPS_Q;
    u32 stages = shared_address(shared);
    float spread = spread_of(s);
    load_tile(s, frontier, 0, count, stages);
    for (int first = 0, tile = 0; first < count; first += TILE, tile++) {
        if (first + TILE < count) load_tile(s, frontier, first + TILE, count, stages + (tile + 1) % 2 * STAGE);
        else copies_commit();
        copies_wait<1>();
        __syncthreads();
        for (int m = warp_n * 16; m < TILE && first + m < count; m += WARPS_N * 16) {
            float2 best = score_16(stages + tile % 2 * STAGE + (m + lane % 16) * ROW + lane / 16 * 16, q, spread);
            int node = first + m + lane / 4;
            if (lane % 4 == 0 && node < count) atomicMax(&scores[node], ordered(best.x));
            if (lane % 4 == 0 && node + 8 < count) atomicMax(&scores[node + 8], ordered(best.y));
        }
        __syncthreads();
    }
}
