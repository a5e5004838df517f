// score: how the searches score items, with the products of rows.cu. Stands after query_block.cu.

constexpr int BATCHES = SPREAD || HEAD_DIM > 128 ? 1 : 2;  // in flight at a time

struct Queries {
    QueryRows<M_TILES> rows;
    float length[OF_LANE], norm[OF_LANE];
    Norm running[OF_LANE];  // of the rows that this lane has seen since norms were settled
    int first, last;
};

// Sum of the squares of two values.
DEVICE float squares_of(u32 pair) {
    return low_bf16(pair) * low_bf16(pair) + high_bf16(pair) * high_bf16(pair);
}

// Rows past the prompt repeat its last query, which changes no maximum.
DEVICE void load_queries(Queries& q, const u16* queries, Sight sight, int row0, u8*) {
    q.first = sight.first_query + threadIdx.x / 32 % WARPS_Q * 16 * M_TILES, q.last = sight.end_query - 1;
#pragma unroll
    for (int j = 0; j < OF_LANE; j++) {
        int token = min(sight.first_query + place_of(j), q.last) - row0;
        const u16* row = queries + ((u64)token * gridDim.y + blockIdx.y) * HEAD_DIM;
        float squares = 0.0f;
        q.rows.load(j, row, [&](u32 pair) { squares += squares_of(pair); });
        q.length[j] = sqrtf(quad_sum(squares));
        q.norm[j] = 0.0f, q.running[j] = no_norm();
    }
}

// ---- nodes

constexpr int NODES = CLUSTERS ? 4 : 8;  // of a batch
constexpr int NODES_OF_LANE = CLUSTERS ? 1 : 2;

// What the search would have of a lane's node n and its query j.
struct Estimates {
    float of[OF_LANE][NODES_OF_LANE];
};

DEVICE Estimates estimates_of(const Search& s, const Queries& q, const RowPart& row, const u16* place,
                              u32 node) {
    float2 spread;
    if (CLUSTERS) spread = spreads_of(s)[node];
    Products p = multiply_rows(q.rows, row), squares;
    if (SPREAD) {
        RowPart variances;
        variances.load(s.nodes.variances + (place - s.nodes.means));
        squares = multiply_rows(q.rows, variances, true);
    }
    Estimates e;
#pragma unroll
    for (int j = 0; j < OF_LANE; j++) {
        if (CLUSTERS) e.of[j][0] = fmaf(q.length[j], spread.x, p(j, 0));
#pragma unroll
        for (int n = 0; n < 2; n++) {
            float& estimate = e.of[j][CLUSTERS ? 0 : n];
            if (CLUSTERS && n == 1) estimate = fmaxf(estimate, fmaf(q.length[j], spread.y, p(j, 1)));
            if (!CLUSTERS) estimate = SPREAD ? fmaf(s.reach, sqrt_fast(squares(j, n)), p(j, n)) : p(j, n);
        }
    }
    return e;
}

// The largest over the queries of a warp, which the quads hold: lanes with the same place in their quad get
// the same.
DEVICE float max_across_quads(float x) {
#pragma unroll
    for (int apart = 4; apart < 32; apart *= 2) x = fmaxf(x, exchanged(x, apart));
    return x;
}

template <Pass PASS>
DEVICE void take_nodes(const Search& s, const u32* items, int count, int batch, const RowPart& row,
                       const u16* place, Queries& q, float* held, u32* out) {
    int first = batch * NODES + threadIdx.x % 4 * NODES_OF_LANE;
    Estimates e = estimates_of(s, q, row, place, items[min(first, count - 1)]);
#pragma unroll
    for (int n = 0; n < NODES_OF_LANE; n++) {
        int node = first + n;
        bool competes = PASS == NODE_SCORES || (node < count && is_inside(s, items[min(node, count - 1)]));
        float best = -infinity();
#pragma unroll
        for (int j = 0; j < OF_LANE; j++) {
            best = fmaxf(best, e.of[j][n] - q.norm[j]);
            if (PASS == NODE_NORMS && competes) q.running[j] = joined(q.running[j], Norm{e.of[j][n], 1.0f});
            if (PASS == NODES_HELD && node < count) {
                held[node * BLOCK_Q + place_of(j)] = competes ? e.of[j][n] * TO_LOG2 : -infinity();
            }
        }
        if (PASS != NODE_SCORES) continue;
        best = max_across_quads(best);
        if (threadIdx.x % 32 < 4 && node < count) atomicMax(&out[node], ordered(best));
    }
}

// ---- keys

constexpr int LANES = BLOCK_K < 8 ? BLOCK_K / 2 : 4;  // of a quad, that have keys of the same block

DEVICE float block_sum(float x) { return LANES == 4 ? quad_sum(x) : x + exchanged(x, 1); }
DEVICE float block_max(float x) { return LANES == 4 ? quad_max(x) : fmaxf(x, exchanged(x, 1)); }

// 1 as a mean mass: sums of masses are whole numbers, so that their order changes nothing.
constexpr float WHOLE = 2147483648.0f;

// What a lane's queries have got of the block under way; of held ones relative to 2^most, any number that is
// near enough.
struct Under {
    float most[OF_LANE], sum[OF_LANE];
};

// The product of a key that its query does not see. A power of two: a multiple of it is exact, and so is its
// difference from itself.
constexpr float UNSEEN_PRODUCT = -1.2676506e30f;  // -2^100
static_assert(UNSEEN_PRODUCT == -1024.0f * 1024 * 1024 * 1024 * 1024 * 1024 * 1024 * 1024 * 1024 * 1024, "");

// Products of a lane's keys, from `key` on, or of those that a query does not see UNSEEN_PRODUCT.
DEVICE Products seen_products(const Search& s, const Queries& q, const RowPart& row, int key) {
    Products p = multiply_rows(q.rows, row);
#pragma unroll
    for (int i = 0; i < 2 * OF_LANE; i++) p.of[i / 4][i % 4] = soft_cap(p.of[i / 4][i % 4]);
    int window = s.sizes.window, first = window > 0 ? q.last - window + 1 : 0;  // of the keys that all see
    if (__all_sync(~0u, key >= first && key < q.first)) return p;
#pragma unroll
    for (int i = 0; i < 2 * OF_LANE; i++) {
        int query = min(q.first + i / 2 * 8 + (int)threadIdx.x % 32 / 4, q.last);
        if (!sees(query, key + i % 2, window)) p.of[i / 4][i % 4] = UNSEEN_PRODUCT;
    }
    return p;
}

// Makes `most` what the largest product so far asks for, all lanes of a block the same.
DEVICE void raise(Under& under, const Products& p) {
#pragma unroll
    for (int j = 0; j < OF_LANE; j++) {
        float most = fmaxf(under.most[j], block_max(fmaxf(p(j, 0), p(j, 1))) * TO_LOG2);
        under.sum[j] *= exp2_fast(under.most[j] - most);
        under.most[j] = most;
    }
}

// Adds a lane's two keys to the block under way; `is_first` if they are the first ones of the block.
DEVICE void add_held(Under& under, const Products& p, bool is_first) {
    float largest = -infinity();
#pragma unroll
    for (int j = 0; j < OF_LANE; j++) {
        if (is_first) under.sum[j] = 0.0f;
        largest = fmaxf(largest, fmaf(fmaxf(p(j, 0), p(j, 1)), TO_LOG2, -under.most[j]));
    }
    if (__any_sync(~0u, largest > 64.0f)) raise(under, p);
#pragma unroll
    for (int j = 0; j < OF_LANE; j++) {
        under.sum[j] += exp2_fast(fmaf(p(j, 0), TO_LOG2, -under.most[j]));
        under.sum[j] += exp2_fast(fmaf(p(j, 1), TO_LOG2, -under.most[j]));
    }
}

DEVICE void add_to_norms(const Products& p, Queries& q) {
#pragma unroll
    for (int j = 0; j < OF_LANE; j++) {
        float most = fmaxf(q.running[j].most, fmaxf(p(j, 0), p(j, 1)));
        float sum = ratio(p(j, 0), most) + ratio(p(j, 1), most);
        q.running[j] = {most, q.running[j].sum * ratio(q.running[j].most, most) + sum};
    }
}

DEVICE void add_shares(Under& under, const Products& p, const Queries& q, bool is_first) {
#pragma unroll
    for (int j = 0; j < OF_LANE; j++) {
        float share = ratio(p(j, 0), q.norm[j]) + ratio(p(j, 1), q.norm[j]);
        under.sum[j] = is_first ? share : under.sum[j] + share;
    }
}

// Holds what a block's keys give each query: the binary logarithm of the sum of their exponentials.
DEVICE void hold_block(Under& under, int block, int count, float* held) {
    fold<OF_LANE>(under.sum, 1);
    if (LANES == 4) fold<OF_LANE / 2>(under.sum, 2);
#pragma unroll
    for (int i = 0; i < OF_LANE / smaller(LANES, OF_LANE); i++) {
        int j = threadIdx.x % LANES % OF_LANE + i * LANES;
        float most = under.most[0];
#pragma unroll
        for (int other = 1; other < OF_LANE; other++) {
            if (j == other) most = under.most[other];
        }
        if (block < count) held[block * BLOCK_Q + place_of(j)] = most + log2_fast(under.sum[i]);
    }
}

// The largest share of a query's attention, or the mean of all queries', that falls on the block.
template <Pass PASS>
DEVICE void keep_block(Under& under, int block, int count, const Queries& q, u32* out) {
    float best = 0.0f, mean = 0.0f;
#pragma unroll
    for (int j = 0; j < OF_LANE; j++) {
        float share = block_sum(under.sum[j]);
        best = fmaxf(best, share);
        if (q.first + j * 8 + (int)threadIdx.x % 32 / 4 <= q.last) mean += share;
    }
    bool speaks = threadIdx.x % 32 < 4 && threadIdx.x % LANES == 0 && block < count;
    if (PASS == KEY_SCORES) {
        best = max_across_quads(best);
        if (speaks) atomicMax(&out[block], ordered(best));
    } else {
        mean = sum_across_quads(mean);
        int n_queries = q.last % BLOCK_Q + 1;
        if (speaks) atomicAdd(&out[block], (u32)(mean * (WHOLE / n_queries)));
    }
}

template <Pass PASS>
DEVICE void take_keys(const Search& s, const u32* items, int count, int batch, const RowPart& row,
                      Under& under, Queries& q, float* held, u32* out) {
    u32 at = batch * 8 + threadIdx.x % 4 * 2;
    int block = at / BLOCK_K, key = items[min(block, count - 1)] * BLOCK_K + at % BLOCK_K;
    bool is_first = batch * 8 % BLOCK_K == 0, is_last = (batch * 8 + 8) % BLOCK_K == 0 || BLOCK_K < 8;
    Products p = seen_products(s, q, row, key);
    if (PASS == KEY_NORMS) {
        if (block < count) add_to_norms(p, q);
    } else if (PASS == KEYS_HELD) {
        add_held(under, p, is_first);
        if (is_last) hold_block(under, block, count, held);
    } else {
        add_shares(under, p, q, is_first);
        if (is_last) keep_block<PASS>(under, block, count, q, out);
    }
}

// ---- passes

// Batches that one warp takes one after the other: those of a key block are not shared.
template <Pass PASS>
constexpr int group_of() {
    return of_keys(PASS) && BLOCK_K / 8 > BATCHES ? BLOCK_K / 8 : BATCHES;
}

// A pass over items; scores come to `out`, as integers in their order, where they are larger than what is
// there; what each query gives comes to `held`.
template <Pass PASS>
DEVICE void pass_holding(const Search& s, const u32* items, int count, Queries& q, float* held, u32* out) {
    constexpr int GROUP = group_of<PASS>();
    int n_batches = (count * rows_of(PASS) + 7) / 8, warp_n = threadIdx.x / 32 / WARPS_Q;
    const u16* all = rows_of_pass<PASS>(s) + threadIdx.x % 4 * 8;
    u32 stride = row_stride<PASS>(s);
    Under under = {};
#pragma unroll
    for (int j = 0; j < OF_LANE; j++) under.most[j] = no_norm().most;
    for (int group = warp_n * GROUP; group < n_batches; group += WARPS_N * GROUP) {
        for (int first = group; first < group + GROUP && first < n_batches; first += BATCHES) {
            RowPart rows[BATCHES];
            const u16* places[BATCHES];
#pragma unroll
            for (int b = 0; b < BATCHES; b++) {
                u32 row = (first + b) * 8 + threadIdx.x % 32 / 4,
                    item = items[min(row / rows_of(PASS), count - 1)];
                places[b] = all + (u64)index_of_row<PASS>(s, item, row % rows_of(PASS)) * stride;
                rows[b].load(places[b]);
            }
#pragma unroll
            for (int b = 0; b < BATCHES; b++) {
                if (of_keys(PASS)) take_keys<PASS>(s, items, count, first + b, rows[b], under, q, held, out);
                else take_nodes<PASS>(s, items, count, first + b, rows[b], places[b], q, held, out);
            }
        }
    }
    __syncthreads();
}

template <Pass PASS>
DEVICE void pass(const Search& s, const u32* items, int count, Queries& q, u8*, u32* out) {
    pass_holding<PASS>(s, items, count, q, nullptr, out);
}

// ---- norms

// Norms become those of all rows since the last time, from what each lane of a quad and each warp with the
// same queries has seen.
DEVICE void settle_norms(Queries& q, u8* shared) {
    Norm* all = (Norm*)shared;
#pragma unroll
    for (int j = 0; j < OF_LANE; j++) {
        Norm norm = joined(joined(q.running[j], 1), 2);
        if (threadIdx.x % 4 == 0) all[threadIdx.x / 32 / WARPS_Q * BLOCK_Q + place_of(j)] = norm;
        q.running[j] = no_norm();
    }
    __syncthreads();
#pragma unroll
    for (int j = 0; j < OF_LANE; j++) {
        Norm norm = no_norm();
        for (int n = 0; n < WARPS_N; n++) norm = joined(norm, all[n * BLOCK_Q + place_of(j)]);
        q.norm[j] = value_of(norm);
    }
    __syncthreads();
}
