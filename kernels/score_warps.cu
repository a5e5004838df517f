// score_warps: how the searches score items, with products of one warp. Any card from sm_80.
//
// A warp holds 16 queries in registers as columns; rows of items stream through shared memory, 16 at a time,
// so the maximum over queries needs only the four lanes of a quad. Of nodes with two rows, eight nodes' first
// rows come before their second ones: a lane has both. A key block's rows go to one warp, that adds up what
// they get of each query.

constexpr int TILE = HEAD_DIM > 128 ? 32 : 64;          // rows in flight at a time
constexpr int WARPS_Q = BLOCK_Q / 16;
constexpr int WARPS_N = smaller(8 / WARPS_Q, TILE / 16);
constexpr int THREADS = 32 * WARPS_Q * WARPS_N;
constexpr int MIN_BLOCKS = HEAD_DIM > 128 ? 1 : 2;      // on a multiprocessor
constexpr int STEPS = HEAD_DIM / 16;
constexpr int ROW = HEAD_DIM * 2 + 16;  // bytes; the pad keeps ldmatrix free of bank conflicts
constexpr int STAGE = TILE * (ROW * (SPREAD ? 2 : 1) + (CLUSTERS ? 4 : 0));
constexpr int SCORING = 2 * STAGE;                      // shared bytes

// 16 columns of B; rows past the prompt repeat its last query, which changes no maximum. Column j of a lane
// is query j / 2 * 8 + lane % 4 * 2 + j % 2.
struct Queries {
    u32 pairs[STEPS][4];
    float length[4], norm[4];
    Norm running[4];  // of the rows that this lane has seen since norms were settled
    int first, last;
};

DEVICE int query_of(const Queries& q, int j) {
    return min(q.first + j / 2 * 8 + threadIdx.x % 4 * 2 + j % 2, q.last);
}

DEVICE void load_queries(Queries& q, const u16* queries, Sight sight, int row0, u8* shared) {
    int lane = threadIdx.x % 32, warp_q = threadIdx.x / 32 % WARPS_Q;
    q.first = sight.first_query + warp_q * 16, q.last = sight.end_query - 1;
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
        squares = quad_sum(squares);
#pragma unroll
        for (int j = 0; j < 2; j++) {
            q.length[half * 2 + j] = sqrtf(__shfl_sync(~0u, squares, (lane % 4 * 2 + j) * 4));
        }
    }
#pragma unroll
    for (int j = 0; j < 4; j++) q.norm[j] = 0.0f, q.running[j] = no_norm();
}

// Row `row` of all rows: its item, and which of the item's rows it is.
template <Pass PASS>
DEVICE int2 item_of(int row) {
    if (!of_keys(PASS) && CLUSTERS) return make_int2(row / 16 * 8 + row % 8, row / 8 % 2);
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
        if (SPREAD && !of_keys(PASS)) copy_16(to + TILE * ROW, s.nodes.variances + (from - s.nodes.means));
    }
    if (CLUSTERS && !of_keys(PASS) && threadIdx.x < TILE) {
        int2 at = item_of<PASS>(first + threadIdx.x);
        u64 node = place_of(s, items[min(at.x, count - 1)]);
        copy_4(stage + TILE * ROW + threadIdx.x * 4, s.nodes.spreads + 2 * node + at.y);
    }
    copies_commit();
}

// Products of 16 rows with this warp's 16 queries: [query half][row half, query] as the tensor cores leave
// them.
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

// Scores of rows lane/4 (r = 0) and lane/4 + 8 (r = 1) with query j; of nodes with two rows the larger one,
// for both r.
template <Pass PASS>
DEVICE void score_16(float (&scores)[2][4], const Search& s, u32 stage, int row, const Queries& q) {
    int lane = threadIdx.x % 32;
    u32 rows = stage + (row + lane % 16) * ROW + lane / 16 * 16;
    float products[2][4] = {}, variances[2][4] = {};
    multiply_16(products, rows, q, false);
    if (SPREAD && !of_keys(PASS)) multiply_16(variances, rows + TILE * ROW, q, true);
#pragma unroll
    for (int j = 0; j < 4; j++) {
#pragma unroll
        for (int r = 0; r < 2; r++) {
            scores[r][j] = products[j / 2][r * 2 + j % 2];
            if (of_keys(PASS)) {
                scores[r][j] = soft_cap(scores[r][j]);
                continue;
            }
            if (SPREAD) scores[r][j] += s.reach * sqrt_fast(variances[j / 2][r * 2 + j % 2]);
            if (CLUSTERS) {
                scores[r][j] += q.length[j] * load_float(stage + TILE * ROW + (row + r * 8 + lane / 4) * 4);
            }
        }
        if (!of_keys(PASS) && CLUSTERS) scores[0][j] = scores[1][j] = fmaxf(scores[0][j], scores[1][j]);
    }
}

// Whether query j sees the key in row r of these 16.
DEVICE bool sees_key(const Search& s, const Queries& q, const u32* items, int row, int count, int j) {
    int2 at = item_of<KEY_SCORES>(row);
    return at.x < count && sees(query_of(q, j), items[min(at.x, count - 1)] * BLOCK_K + at.y, s.sizes.window);
}

// Adds what rows lane/4 and lane/4 + 8 have to the queries' norms.
template <Pass PASS>
DEVICE void add_to_norms(const float (&scores)[2][4], const Search& s, const u32* items, int row, int count,
                         Queries& q) {
    int node = item_of<PASS>(row + threadIdx.x % 32 / 4).x;
    bool competes = node < count && is_inside(s, items[min(node, count - 1)]);
#pragma unroll
    for (int j = 0; j < 4; j++) {
        bool counts[2] = {competes, false};  // of nodes, both rows have the same score
#pragma unroll
        for (int r = 0; r < 2 && of_keys(PASS); r++) {
            counts[r] = sees_key(s, q, items, row + threadIdx.x % 32 / 4 + r * 8, count, j);
        }
        float most = q.running[j].most, sum = 0.0f;
#pragma unroll
        for (int r = 0; r < 2; r++) most = counts[r] ? fmaxf(most, scores[r][j]) : most;
#pragma unroll
        for (int r = 0; r < 2; r++) sum += counts[r] ? ratio(scores[r][j], most) : 0.0f;
        q.running[j] = {most, q.running[j].sum * ratio(q.running[j].most, most) + sum};
    }
}

// Norms become those of all rows since the last time, from what each lane and each warp beside this one has
// seen.
DEVICE void settle_norms(Queries& q, u8* shared) {
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    Norm* all = (Norm*)shared;
#pragma unroll
    for (int j = 0; j < 4; j++) {
        Norm norm = q.running[j];
        for (int apart = 4; apart < 32; apart *= 2) norm = joined(norm, apart);
        if (lane < 4) all[warp * 16 + j * 4 + lane] = norm;
        q.running[j] = no_norm();
    }
    __syncthreads();
#pragma unroll
    for (int j = 0; j < 4; j++) {
        Norm norm = no_norm();
        for (int n = 0; n < WARPS_N; n++) {
            norm = joined(norm, all[(n * WARPS_Q + warp % WARPS_Q) * 16 + j * 4 + lane % 4]);
        }
        q.norm[j] = value_of(norm);
    }
    __syncthreads();
}

// The largest of a node's scores over all queries, less their norms.
DEVICE void keep_largest(const float (&scores)[2][4], int row, int count, const Queries& q, u32* out) {
    int lane = threadIdx.x % 32;
#pragma unroll
    for (int r = 0; r < (CLUSTERS ? 1 : 2); r++) {
        int node = item_of<NODE_SCORES>(row + r * 8 + lane / 4).x;
        float best = -infinity();
#pragma unroll
        for (int j = 0; j < 4; j++) best = fmaxf(best, scores[r][j] - q.norm[j]);
        best = quad_max(best);
        if (lane % 4 == 0 && node < count) atomicMax(&out[node], ordered(best));
    }
}

// Of eight rows that a warp's quads have, those that are of one block.
constexpr int SIDE_BY_SIDE = smaller(BLOCK_K, 8);

// Over the quads that have rows of the same block.
DEVICE float sum_over_block(float x) {
#pragma unroll
    for (int apart = 4; apart < 4 * SIDE_BY_SIDE; apart *= 2) x += exchanged(x, apart);
    return x;
}

// Whether this lane writes what its quads have summed up of a block.
DEVICE bool speaks_for_block() { return threadIdx.x % (4 * SIDE_BY_SIDE) == 0; }

// The largest over all queries of what this lane's rows of a block get of each, added up over the rows.
DEVICE void keep_share(float (&share)[4], int block, int count, u32* out) {
    float best = 0.0f;
#pragma unroll
    for (int j = 0; j < 4; j++) {
        share[j] = sum_over_block(share[j]);
        best = fmaxf(best, share[j]);
        share[j] = 0.0f;
    }
    best = quad_max(best);
    if (speaks_for_block() && block < count) atomicMax(&out[block], ordered(best));
}

// 1 as a mean mass: sums of masses are whole numbers, so that their order changes nothing.
constexpr float WHOLE = 2147483648.0f;

// The mean over all queries of what this lane's rows of a block get of each, added up over the rows and the
// warps.
DEVICE void add_mass(float (&share)[4], int block, int count, const Queries& q, u32* out) {
    float sum = 0.0f;
#pragma unroll
    for (int j = 0; j < 4; j++) {
        share[j] = sum_over_block(share[j]);
        if (q.first + j / 2 * 8 + threadIdx.x % 4 * 2 + j % 2 <= q.last) sum += share[j];
        share[j] = 0.0f;
    }
    sum = quad_sum(sum);
    int n_queries = q.last % BLOCK_Q + 1;
    if (speaks_for_block() && block < count) atomicAdd(&out[block], (u32)(sum * (WHOLE / n_queries)));
}

// Adds what these 16 rows get to `share`, that of the block under way, and keeps it when the block is done.
template <Pass PASS>
DEVICE void add_to_shares(float (&share)[4], const float (&scores)[2][4], const Search& s, const u32* items,
                          int row, int count, const Queries& q, u32* out) {
#pragma unroll
    for (int r = 0; r < 2; r++) {
#pragma unroll
        for (int j = 0; j < 4; j++) {
            bool counts = sees_key(s, q, items, row + threadIdx.x % 32 / 4 + r * 8, count, j);
            share[j] += counts ? ratio(scores[r][j], q.norm[j]) : 0.0f;
        }
        int first = row + r * 8, block = (first + threadIdx.x % 32 / 4) / BLOCK_K;
        if ((first + 8) % BLOCK_K > 0) continue;
        if (PASS == KEY_SCORES) keep_share(share, block, count, out);
        else add_mass(share, block, count, q, out);
    }
}

// A pass over items; scores come to `out`, as integers in their order, where they are larger than what is
// there.
template <Pass PASS>
DEVICE void pass(const Search& s, const u32* items, int count, Queries& q, u8* shared, u32* out) {
    constexpr int GROUP =
        of_keys(PASS) && BLOCK_K > 16 ? smaller(BLOCK_K, TILE) : 16;  // rows of a warp at a time
    int warp_n = threadIdx.x / 32 / WARPS_Q;
    int n_rows = !of_keys(PASS) && CLUSTERS ? (count + 7) / 8 * 16 : count * rows_of(PASS);
    u32 stages = shared_address(shared);
    float share[4] = {};
    load_tile<PASS>(s, items, 0, count, stages);
    for (int first = 0, tile = 0; first < n_rows; first += TILE, tile++) {
        if (first + TILE < n_rows)
            load_tile<PASS>(s, items, first + TILE, count, stages + (tile + 1) % 2 * STAGE);
        else copies_commit();
        copies_wait<1>();
        __syncthreads();
        // 16 rows at a time; after a group the warp goes on with its next one.
        auto step = [](int m) { return m % GROUP == GROUP - 16 ? WARPS_N * GROUP - GROUP + 16 : 16; };
        for (int m = warp_n * GROUP; m < TILE && first + m < n_rows; m += step(m)) {
            float scores[2][4];
            score_16<PASS>(scores, s, stages + tile % 2 * STAGE, m, q);
            if (PASS == NODE_SCORES) keep_largest(scores, first + m, count, q, out);
            else if (PASS == KEY_SCORES || PASS == KEY_MASSES)
                add_to_shares<PASS>(share, scores, s, items, first + m, count, q, out);
            else add_to_norms<PASS>(scores, s, items, first + m, count, q);
        }
        __syncthreads();
    }
}
