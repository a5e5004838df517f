// score_warps: how the searches score items, with products of one warp. Any card from sm_80.
//
// A warp holds up to 32 queries in registers, the rows of A. Eight rows of items, a batch, are the columns of B.
// They come from memory to the registers that multiply them: a quad takes 64 bytes of a row, a lane 16, for two
// steps of 16 dimensions. Queries are taken apart in the same way, so that products add up the same pairs in
// another order. Warps that hold the same queries share the items; none waits for another before a pass ends.
//
// A lane has products of the queries `place_of(0)` to `place_of(OF_LANE - 1)` with columns 2 (lane % 4) and the next.

constexpr int M_TILES = BLOCK_Q > 16 && HEAD_DIM <= 128 ? 2 : 1;  // of 16 queries
constexpr int OF_LANE = 2 * M_TILES;
constexpr int WARPS_Q = BLOCK_Q / 16 / M_TILES;
constexpr int WARPS_N = WARPS_Q < 4 ? 4 / WARPS_Q : 1;
constexpr int WARPS = WARPS_Q * WARPS_N;
constexpr int THREADS = 32 * WARPS;
constexpr int MIN_BLOCKS = 16 / WARPS;                        // on a multiprocessor
constexpr int STEPS = HEAD_DIM / 16;
constexpr int BATCHES = SPREAD || HEAD_DIM > 128 ? 1 : 2;         // in flight at a time

struct Queries {
    u32 rows[STEPS][M_TILES][4];
    float length[OF_LANE], norm[OF_LANE];
    Norm running[OF_LANE];  // of the rows that this lane has seen since norms were settled
    int first, last;
};

// Query j of a lane in its query block.
DEVICE int place_of(int j) {
    return threadIdx.x / 32 % WARPS_Q * 16 * M_TILES + j * 8 + threadIdx.x % 32 / 4;
}

DEVICE uint4 load_16(const u16* from) {
    uint4 v;
    asm("ld.global.nc.v4.u32 {%0,%1,%2,%3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(from));
    return v;
}

// Sum of the squares of two values.
DEVICE float squares_of(u32 pair) { return low_bf16(pair) * low_bf16(pair) + high_bf16(pair) * high_bf16(pair); }

// Rows past the prompt repeat its last query, which changes no maximum.
DEVICE void load_queries(Queries& q, const u16* queries, Sight sight, int row0, u8*) {
    q.first = sight.first_query + threadIdx.x / 32 % WARPS_Q * 16 * M_TILES, q.last = sight.end_query - 1;
#pragma unroll
    for (int j = 0; j < OF_LANE; j++) {
        int token = min(sight.first_query + place_of(j), q.last) - row0;
        const u16* row = queries + ((u64)token * gridDim.y + blockIdx.y) * HEAD_DIM + threadIdx.x % 4 * 8;
        float squares = 0.0f;
#pragma unroll
        for (int k = 0; k < STEPS; k += 2) {
            uint4 v = load_16(row + k * 16);
            q.rows[k][j / 2][j % 2] = v.x, q.rows[k][j / 2][2 + j % 2] = v.y;
            q.rows[k + 1][j / 2][j % 2] = v.z, q.rows[k + 1][j / 2][2 + j % 2] = v.w;
            squares += squares_of(v.x) + squares_of(v.y) + squares_of(v.z) + squares_of(v.w);
        }
        q.length[j] = sqrtf(quad_sum(squares));
        q.norm[j] = 0.0f, q.running[j] = no_norm();
    }
}

// ---- products

// This lane's part of one row of a batch.
struct Row {
    u32 pairs[STEPS][2];
    DEVICE void load(const u16* row) {
#pragma unroll
        for (int k = 0; k < STEPS; k += 2) {
            uint4 v = load_16(row + k * 16 + threadIdx.x % 4 * 8);
            pairs[k][0] = v.x, pairs[k][1] = v.y, pairs[k + 1][0] = v.z, pairs[k + 1][1] = v.w;
        }
    }
};

struct Products {
    float of[M_TILES][4];
    DEVICE float operator()(int j, int column) const { return of[j / 2][j % 2 * 2 + column]; }
};

DEVICE Products multiply_rows(const Queries& q, const Row& row, bool squared) {
    Products p = {};
#pragma unroll
    for (int k = 0; k < STEPS; k++) {
#pragma unroll
        for (int m = 0; m < M_TILES; m++) {
            u32 a[4];
#pragma unroll
            for (int i = 0; i < 4; i++) a[i] = squared ? square_bf16(q.rows[k][m][i]) : q.rows[k][m][i];
            multiply(p.of[m], a, row.pairs[k][0], row.pairs[k][1]);
        }
    }
    return p;
}

// Where row `row` of all rows of a pass lies; those after the last repeat it.
template <Pass PASS>
DEVICE const u16* place_of_row(const Search& s, const u32* items, int count, int row) {
    return row_of<PASS>(s, items[min(row / rows_of(PASS), count - 1)], row % rows_of(PASS));
}

// ---- nodes

constexpr int NODES = CLUSTERS ? 4 : 8;           // of a batch
constexpr int NODES_OF_LANE = CLUSTERS ? 1 : 2;

// What the search would have of a lane's node n and its query j.
struct Estimates {
    float of[OF_LANE][NODES_OF_LANE];
};

DEVICE Estimates estimates_of(const Search& s, const Queries& q, const Row& row, const u16* place, u32 node) {
    Products p = multiply_rows(q, row, false), squares;
    float2 spread;
    if (CLUSTERS) spread = *(const float2*)(s.nodes.spreads + 2 * place_of(s, node));
    if (SPREAD) {
        Row variances;
        variances.load(s.nodes.variances + (place - s.nodes.means));
        squares = multiply_rows(q, variances, true);
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

// The largest over the queries of a warp, which the quads hold: lanes with the same place in their quad get the same.
DEVICE float max_across_quads(float x) {
#pragma unroll
    for (int apart = 4; apart < 32; apart *= 2) x = fmaxf(x, exchanged(x, apart));
    return x;
}

template <Pass PASS>
DEVICE void take_nodes(const Search& s, const u32* items, int count, int batch, const Row& row, const u16* place,
                       Queries& q, float* held, u32* out) {
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
                held[node * BLOCK_Q + place_of(j)] = competes ? e.of[j][n] : no_norm().most;
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

// What a lane's queries have got of the block under way.
struct Under {
    float most[OF_LANE], sum[OF_LANE];
};

// Products of a lane's keys, from `key` on, or of those that a query does not see the least there is.
DEVICE Products seen_products(const Search& s, const Queries& q, const Row& row, int key) {
    Products p = multiply_rows(q, row, false);
    int window = s.sizes.window;
    bool all = key + 1 <= q.first && (window <= 0 || key > q.last - window);
#pragma unroll
    for (int i = 0; i < 2 * OF_LANE; i++) {
        float& x = p.of[i / 4][i % 4];
        x = soft_cap(x);
        if (all) continue;
        int query = min(q.first + i / 2 * 8 + (int)threadIdx.x % 32 / 4, q.last);
        if (!sees(query, key + i % 2, window)) x = no_norm().most;
    }
    return p;
}

// Adds a lane's two keys to its block under way; `is_first` if they are the first ones of the block.
template <Pass PASS>
DEVICE void add_keys(Under& under, const Products& p, Queries& q, bool counts, bool is_first) {
#pragma unroll
    for (int j = 0; j < OF_LANE; j++) {
        float first = p(j, 0), second = p(j, 1);
        if (PASS == KEY_NORMS) {
            float most = fmaxf(q.running[j].most, fmaxf(first, second));
            float sum = ratio(first, most) + ratio(second, most);
            if (counts) q.running[j] = {most, q.running[j].sum * ratio(q.running[j].most, most) + sum};
            continue;
        }
        float most = PASS == KEYS_HELD ? block_max(fmaxf(first, second)) : q.norm[j];
        if (PASS == KEYS_HELD && BLOCK_K > 8 && !is_first) most = fmaxf(most, under.most[j]);
        float before = is_first ? 0.0f : under.sum[j];
        if (PASS == KEYS_HELD && BLOCK_K > 8 && !is_first) before *= ratio(under.most[j], most);
        under.most[j] = most, under.sum[j] = before + ratio(first, most) + ratio(second, most);
    }
}

// The logarithm of what a block's keys give each query, as a norm.
DEVICE void hold_block(Under& under, int block, int count, float* held) {
    int lane = threadIdx.x % LANES;
#pragma unroll
    for (int j = 0; j < OF_LANE; j++) under.sum[j] = block_sum(under.sum[j]);
#pragma unroll
    for (int base = 0; base < OF_LANE; base += LANES) {
        float most = under.most[base], sum = under.sum[base];
#pragma unroll
        for (int i = 1; i < LANES && base + i < OF_LANE; i++) {
            if (lane == i) most = under.most[base + i], sum = under.sum[base + i];
        }
        if (base + lane < OF_LANE && block < count) {
            held[block * BLOCK_Q + place_of(base + lane)] = value_of(Norm{most, sum});
        }
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
DEVICE void take_keys(const Search& s, const u32* items, int count, int batch, const Row& row, Under& under, Queries& q,
                      float* held, u32* out) {
    int at = batch * 8 + threadIdx.x % 4 * 2, block = at / BLOCK_K;
    int key = items[min(block, count - 1)] * BLOCK_K + at % BLOCK_K;
    add_keys<PASS>(under, seen_products(s, q, row, key), q, block < count, batch * 8 % BLOCK_K == 0);
    if ((batch * 8 + 8) % BLOCK_K > 0) return;
    if (PASS == KEYS_HELD) hold_block(under, block, count, held);
    else if (PASS != KEY_NORMS) keep_block<PASS>(under, block, count, q, out);
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
    for (int group = warp_n * GROUP; group < n_batches; group += WARPS_N * GROUP) {
        Under under;
        for (int first = group; first < group + GROUP && first < n_batches; first += BATCHES) {
            Row rows[BATCHES];
            const u16* places[BATCHES];
#pragma unroll
            for (int b = 0; b < BATCHES; b++) {
                places[b] = place_of_row<PASS>(s, items, count, (first + b) * 8 + threadIdx.x % 32 / 4);
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

// Norms become those of all rows since the last time, from what each lane of a quad and each warp with the same
// queries has seen.
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
