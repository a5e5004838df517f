// score_warps: how search_hierarchical scores items, with products of one warp. Any card from sm_80.
//
// A warp holds 16 queries in registers as columns; rows of items stream through shared memory, 16 at a time, so the maximum
// over queries needs only the four lanes of a quad. Of nodes with two rows, eight nodes' first rows come before their second
// ones: a lane has both.
// Shared bytes 2 * STAGE; block 32 * WARPS.

constexpr int TILE = HEAD_DIM > 128 ? 32 : 64;          // rows in flight at a time
constexpr int WARPS_Q = BLOCK_Q / 16;
constexpr int WARPS_N = smaller(8 / WARPS_Q, TILE / 16);
constexpr int THREADS = 32 * WARPS_Q * WARPS_N;
constexpr int MIN_BLOCKS = HEAD_DIM > 128 ? 1 : 2;      // on a multiprocessor
constexpr int STEPS = HEAD_DIM / 16;
constexpr int ROW = HEAD_DIM * 2 + 16;                  // bytes; the pad keeps ldmatrix free of bank conflicts
constexpr int STAGE = TILE * (ROW * (SPREAD ? 2 : 1) + (CLUSTERS ? 4 : 0));

// 16 columns of B; rows past the prompt repeat its last query, which changes no maximum. Column j of a lane is query
// j / 2 * 8 + lane % 4 * 2 + j % 2.
struct Queries {
    u32 pairs[STEPS][4];
    float length[4], norm[4];
    int first, last;
};

DEVICE int query_of(const Queries& q, int j) { return min(q.first + j / 2 * 8 + threadIdx.x % 4 * 2 + j % 2, q.last); }

DEVICE void load_queries(Queries& q, const u16* queries, Sight sight, int row0, u8* shared) {
    int lane = threadIdx.x % 32, warp_q = threadIdx.x / 32 % WARPS_Q;
    q.first = sight.q0 + warp_q * 16, q.last = sight.q1 - 1;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        int token = min(q.first + half * 8 + lane / 4, q.last) - row0;
        const u32* row = (const u32*)(queries + ((u64)token * gridDim.y + blockIdx.y) * HEAD_DIM) + lane % 4;
        float squares = 0.0f;
#pragma unroll
        for (int k = 0; k < STEPS; k++) {
#pragma unroll
            for (int i = 0; i < 2; i++) {
                u32 pair = row[k * 8 + i * 4];
                q.pairs[k][half * 2 + i] = pair;
                squares += low_bf16(pair) * low_bf16(pair) + high_bf16(pair) * high_bf16(pair);
            }
        }
        squares += __shfl_xor_sync(~0u, squares, 1);
        squares += __shfl_xor_sync(~0u, squares, 2);
#pragma unroll
        for (int j = 0; j < 2; j++) q.length[half * 2 + j] = sqrtf(__shfl_sync(~0u, squares, (lane % 4 * 2 + j) * 4));
    }
#pragma unroll
    for (int j = 0; j < 4; j++) q.norm[j] = 0.0f;
}

// Row `row` of all rows: its item, and which of the item's rows it is.
template <Pass PASS>
DEVICE int2 item_of(int row) {
    if (PASS != KEYS_ROUND && CLUSTERS) return make_int2(row / 16 * 8 + row % 8, row / 8 % 2);
    return make_int2(row / rows_of(PASS), row % rows_of(PASS));
}

template <Pass PASS>
DEVICE void load_tile(const Search& s, const u32* items, int first, int count, u32 stage) {
    constexpr int CHUNKS = HEAD_DIM / 8;
    for (int i = threadIdx.x; i < TILE * CHUNKS; i += THREADS) {
        int2 at = item_of<PASS>(first + i / CHUNKS);
        const u16* from = row_of<PASS>(s, items[min(at.x, count - 1)], at.y) + i % CHUNKS * 8;
        u32 to = stage + i / CHUNKS * ROW + i % CHUNKS * 16;
        copy_16(to, from);
        if (SPREAD && PASS != KEYS_ROUND) copy_16(to + TILE * ROW, s.variances + (from - s.means));
    }
    if (CLUSTERS && PASS != KEYS_ROUND && threadIdx.x < TILE) {
        int2 at = item_of<PASS>(first + threadIdx.x);
        copy_4(stage + TILE * ROW + threadIdx.x * 4, s.spreads + 2 * place_of(s, items[min(at.x, count - 1)]) + at.y);
    }
    copies_commit();
}

// Products of 16 rows with this warp's 16 queries: [query half][row half, query] as the tensor cores leave them.
DEVICE void multiply_16(float (&c)[2][4], u32 rows, const Queries& q, bool squared) {
#pragma unroll
    for (int k = 0; k < STEPS; k++) {
        u32 a[4];
        load_matrices(a, rows + k * 32);
#pragma unroll
        for (int half = 0; half < 2; half++) {
            u32 b0 = q.pairs[k][half * 2], b1 = q.pairs[k][half * 2 + 1];
            multiply(c[half], a, squared ? square_bf16(b0) : b0, squared ? square_bf16(b1) : b1);
        }
    }
}

// Scores of rows lane/4 (r = 0) and lane/4 + 8 (r = 1) with query j; of nodes with two rows the larger one, for both r.
template <Pass PASS>
DEVICE void score_16(float (&scores)[2][4], const Search& s, u32 stage, int row, const Queries& q) {
    int lane = threadIdx.x % 32;
    u32 rows = stage + (row + lane % 16) * ROW + lane / 16 * 16;
    float products[2][4] = {}, variances[2][4] = {};
    multiply_16(products, rows, q, false);
    if (SPREAD && PASS != KEYS_ROUND) multiply_16(variances, rows + TILE * ROW, q, true);
#pragma unroll
    for (int j = 0; j < 4; j++) {
#pragma unroll
        for (int r = 0; r < 2; r++) {
            scores[r][j] = products[j / 2][r * 2 + j % 2];
            if (PASS == KEYS_ROUND) continue;
            if (SPREAD) scores[r][j] += s.reach * sqrt_fast(variances[j / 2][r * 2 + j % 2]);
            if (CLUSTERS) scores[r][j] += q.length[j] * load_float(stage + TILE * ROW + (row + r * 8 + lane / 4) * 4);
        }
        if (PASS != KEYS_ROUND && CLUSTERS) scores[0][j] = scores[1][j] = fmaxf(scores[0][j], scores[1][j]);
    }
}

// The largest of a node's scores over all queries, less their norms; a key's over the queries that see it.
template <Pass PASS>
DEVICE void keep_largest(const float (&scores)[2][4], const Search& s, const u32* items, int row, int count, const Queries& q, u32* out) {
    int lane = threadIdx.x % 32;
#pragma unroll
    for (int r = 0; r < (PASS != KEYS_ROUND && CLUSTERS ? 1 : 2); r++) {
        int2 at = item_of<PASS>(row + r * 8 + lane / 4);
        float best = -infinity();
#pragma unroll
        for (int j = 0; j < 4; j++) {
            bool seen = PASS != KEYS_ROUND || sees(query_of(q, j), items[min(at.x, count - 1)] * BLOCK_K + at.y, s.window);
            best = fmaxf(best, seen ? scores[r][j] - (PASS == KEYS_ROUND ? 0.0f : q.norm[j]) : -infinity());
        }
#pragma unroll
        for (int apart = 1; apart < (PASS == KEYS_ROUND ? 32 : 4); apart *= 2) best = fmaxf(best, __shfl_xor_sync(~0u, best, apart));
        bool speaks = PASS == KEYS_ROUND ? lane == 0 : lane % 4 == 0;
        if (speaks && at.x < count) atomicMax(&out[at.x], ordered(best));
    }
}

// Norms of this warp's queries over all nodes that compete, from what each of its lanes and each warp beside it has seen.
DEVICE void join_norms(Queries& q, Norm (&norms)[4], u8* shared) {
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    Norm* all = (Norm*)shared;
#pragma unroll
    for (int j = 0; j < 4; j++) {
        for (int apart = 4; apart < 32; apart *= 2) norms[j] = joined(norms[j], apart);
        if (lane < 4) all[warp * 16 + j * 4 + lane] = norms[j];
    }
    __syncthreads();
#pragma unroll
    for (int j = 0; j < 4; j++) {
        Norm norm = no_norm();
        for (int n = 0; n < WARPS_N; n++) norm = joined(norm, all[(n * WARPS_Q + warp % WARPS_Q) * 16 + j * 4 + lane % 4]);
        q.norm[j] = value_of(norm);
    }
    __syncthreads();
}

// Scores items by their rows, or takes the queries' norms.
template <Pass PASS>
DEVICE void score(const Search& s, const u32* items, int count, Queries& q, u8* shared, u32* out) {
    int lane = threadIdx.x % 32, warp_n = threadIdx.x / 32 / WARPS_Q;
    int n_rows = PASS != KEYS_ROUND && CLUSTERS ? (count + 7) / 8 * 16 : count * rows_of(PASS);
    u32 stages = shared_address(shared);
    Norm norms[4] = {no_norm(), no_norm(), no_norm(), no_norm()};
    load_tile<PASS>(s, items, 0, count, stages);
    for (int first = 0, tile = 0; first < n_rows; first += TILE, tile++) {
        if (first + TILE < n_rows) load_tile<PASS>(s, items, first + TILE, count, stages + (tile + 1) % 2 * STAGE);
        else copies_commit();
        copies_wait<1>();
        __syncthreads();
        for (int m = warp_n * 16; m < TILE && first + m < n_rows; m += WARPS_N * 16) {
            float scores[2][4];
            score_16<PASS>(scores, s, stages + tile % 2 * STAGE, m, q);
            if (PASS == NORMS) {
                int node = item_of<PASS>(first + m + lane / 4).x;
                bool counts = node < count && is_inside(s, items[min(node, count - 1)]);
#pragma unroll
                for (int j = 0; j < 4; j++) norms[j] = joined(norms[j], counts ? Norm{scores[0][j], 1.0f} : no_norm());
            } else {
                keep_largest<PASS>(scores, s, items, first + m, count, q, out);
            }
        }
        __syncthreads();
    }
    if (PASS == NORMS) join_norms(q, norms, shared);
}
