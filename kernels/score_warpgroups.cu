// score_warpgroups: how the hierarchical search scores items on Hopper, with products of a warpgroup.
//
// Queries (and their squares) stay in shared memory as rows, COLUMNS rows of items at a time are the columns;
// a node's two rows are neighbours. Two thread blocks share a multiprocessor: one multiplies while the other
// fetches. HEAD_DIM 64 or 128, BLOCK_Q 64 or 128.

// As many as leave room for two thread blocks, and for keys in the registers: 88 are the most beside two
// products at head dim 128. Keys are scored where it is a multiple of BLOCK_K.
constexpr int COLUMNS = RESCORE ? 64 : SPREAD ? 88 : 128;
constexpr int THREADS = 2 * BLOCK_Q;
constexpr int MIN_BLOCKS = 2;                           // on a multiprocessor
constexpr int HALVES = HEAD_DIM / 64;                   // tiles of 64 values in a head
constexpr int QUERY_TILE = BLOCK_Q * 128;               // bytes of one of them
constexpr int ITEM_TILE = COLUMNS * 128;
constexpr int KINDS = SPREAD ? 2 : 1;                   // products: means, variances
constexpr int OCTETS = COLUMNS / 8;                     // groups of eight columns
constexpr int SCORING =
    1024 + KINDS * HALVES * (QUERY_TILE + ITEM_TILE) + (CLUSTERS ? 4 * COLUMNS : 0);  // shared bytes

#ifdef __CUDA_ARCH_FEAT_SM90_ALL

// Shared addresses, and of this thread's two queries, eight apart: length, norm, position.
struct Queries {
    u32 queries, squares, rows, variances, spreads;
    float length[2], norm[2];
    Norm running[2];  // of the rows that this thread has seen since norms were settled
    int position[2];
};

// Where 16 bytes of a row lie in a tile of 128-byte rows with the 128-byte swizzle.
DEVICE u32 swizzled(int row, int chunk, int tile_bytes) {
    return chunk / 8 * tile_bytes + row * 128 + ((chunk ^ row) & 7) * 16;
}

DEVICE void store_16(u32 to_shared, uint4 v) {
    asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};"
                 ::"r"(to_shared), "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w)
                 : "memory");
}

// Sum of the squares of eight values.
DEVICE float squares_of(uint4 v) {
    float sum = 0.0f;
    u32 pairs[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
        sum += low_bf16(pairs[i]) * low_bf16(pairs[i]) + high_bf16(pairs[i]) * high_bf16(pairs[i]);
    }
    return sum;
}

DEVICE void load_queries(Queries& q, const u16* queries, Sight sight, int row0, u8* shared) {
    q.queries = (shared_address(shared) + 1023) / 1024 * 1024;
    q.squares = q.queries + HALVES * QUERY_TILE;
    q.rows = q.queries + KINDS * HALVES * QUERY_TILE;
    q.variances = q.rows + HALVES * ITEM_TILE;
    q.spreads = q.rows + KINDS * HALVES * ITEM_TILE;
    constexpr int CHUNKS = HEAD_DIM / 8;
    // Rows past the prompt repeat its last query.
    auto row = [&](int i) {
        int token = min(sight.first_query + i, sight.end_query - 1);
        return (const uint4*)(queries + ((u64)(token - row0) * gridDim.y + blockIdx.y) * HEAD_DIM);
    };
#pragma unroll 4
    for (int i = threadIdx.x; i < BLOCK_Q * CHUNKS; i += THREADS) {
        uint4 v = row(i / CHUNKS)[i % CHUNKS];
        u32 at = swizzled(i / CHUNKS, i % CHUNKS, QUERY_TILE);
        store_16(q.queries + at, v);
        uint4 squares = make_uint4(square_bf16(v.x), square_bf16(v.y), square_bf16(v.z), square_bf16(v.w));
        if (SPREAD) store_16(q.squares + at, squares);
    }
#pragma unroll
    for (int r = 0; r < 2; r++) {
        int mine = threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4 + r * 8;
        float squares = 0.0f;
        for (int i = threadIdx.x % 4; CLUSTERS && i < CHUNKS; i += 4) squares += squares_of(row(mine)[i]);
        q.length[r] = sqrtf(quad_sum(squares));
        q.norm[r] = 0.0f, q.running[r] = no_norm();
        q.position[r] = min(sight.first_query + mine, sight.end_query - 1);
    }
}

template <Pass PASS>
DEVICE void load_items(const Search& s, const u32* items, int first, int count, const Queries& q) {
    constexpr int CHUNKS = HEAD_DIM / 8, ROWS = rows_of(PASS);
#pragma unroll 4
    for (int i = threadIdx.x; i < COLUMNS * CHUNKS; i += THREADS) {
        int row = first + i / CHUNKS;
        u32 index = index_of_row<PASS>(s, items[min(row / ROWS, count - 1)], row % ROWS);
        const u16* from = rows_of_pass<PASS>(s) + (u64)index * row_stride<PASS>(s) + i % CHUNKS * 8;
        u32 at = swizzled(i / CHUNKS, i % CHUNKS, ITEM_TILE);
        copy_16(q.rows + at, from);
        if (SPREAD && !of_keys(PASS)) copy_16(q.variances + at, s.nodes.variances + (from - s.nodes.means));
    }
    if (CLUSTERS && !of_keys(PASS) && threadIdx.x < COLUMNS) {
        int row = first + threadIdx.x;
        const float2* spreads = spreads_of(s) + items[min(row / ROWS, count - 1)];
        copy_4(q.spreads + threadIdx.x * 4, (const float*)spreads + row % ROWS);
    }
    copies_commit();
    copies_wait<0>();
    // The products read what these threads wrote.
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// d[query, column] of this warpgroup's 64 queries.
DEVICE void multiply_items(float (&d)[COLUMNS / 2], u32 queries, u32 rows) {
    queries += threadIdx.x / 128 * 8192;
#pragma unroll
    for (int k = 0; k < HEAD_DIM / 16; k++) {
        u64 of_queries = descriptor(queries + k / 4 * QUERY_TILE + k % 4 * 32, 16);
        u64 of_rows = descriptor(rows + k / 4 * ITEM_TILE + k % 4 * 32, 16);
        wgmma(d, of_queries, of_rows, k > 0);
    }
}

// Maxima over the eight lanes that hold other queries of the same columns. Each step halves the values of a
// lane: in the end value i is what was value 8 i + (lane's bits 4, 3, 2).
template <int N, int STEP, int SIZE>
DEVICE void reduce(float (&best)[SIZE]) {
    bool upper = threadIdx.x & STEP;
#pragma unroll
    for (int i = 0; i < (N + 1) / 2; i++) {
        float even = best[2 * i], odd = 2 * i + 1 < N ? best[2 * i + 1] : -infinity();
        float other = exchanged(upper ? even : odd, STEP);
        best[i] = fmaxf(upper ? odd : even, other);
    }
    if constexpr (STEP < 16) reduce<(N + 1) / 2, STEP * 2>(best);
}

// Which of the values before `reduce` value i of this lane is now.
DEVICE int member(int i) {
    int lane = threadIdx.x % 32;
    return i * 8 + (lane >> 4 & 1) * 4 + (lane >> 3 & 1) * 2 + (lane >> 2 & 1);
}

// A thread's products: of octet o, query r and column c of two neighbours.
DEVICE constexpr int product(int o, int r, int c) { return o * 4 + r * 2 + c; }

// Nodes of one row, two of them in the two columns of each octet.
DEVICE void keep_largest_nodes(const float (&means)[COLUMNS / 2], const float (&variances)[COLUMNS / 2],
                               const Search& s, int first, int count, u32* out) {
    float best[2 * OCTETS];
#pragma unroll
    for (int i = 0; i < 2 * OCTETS; i++) {
        float two[2];
#pragma unroll
        for (int r = 0; r < 2; r++) {
            int at = product(i / 2, r, i % 2);
            two[r] = SPREAD ? fmaf(s.reach, sqrt_fast(variances[at]), means[at]) : means[at];
        }
        best[i] = fmaxf(two[0], two[1]);
    }
    reduce<2 * OCTETS, 4>(best);
#pragma unroll
    for (int i = 0; i < (2 * OCTETS + 7) / 8; i++) {
        int value = member(i), node = first + value / 2 * 8 + threadIdx.x % 4 * 2 + value % 2;
        if (value < 2 * OCTETS && node < count) atomicMax(&out[node], ordered(best[i]));
    }
}

// The estimate of query r for the node in octet o: the larger one of its two rows'.
DEVICE float estimate_of(const float (&means)[COLUMNS / 2], const Queries& q, int o, int r) {
    float two[2];
#pragma unroll
    for (int c = 0; c < 2; c++) {
        float spread = load_float(q.spreads + (o * 8 + threadIdx.x % 4 * 2 + c) * 4);
        two[c] = fmaf(q.length[r], spread, means[product(o, r, c)]);
    }
    return fmaxf(two[0], two[1]);
}

// Nodes of two rows, one in each octet.
DEVICE void keep_largest_clusters(const float (&means)[COLUMNS / 2], const Queries& q, int first, int count,
                                  u32* out) {
    float best[OCTETS];
#pragma unroll
    for (int o = 0; o < OCTETS; o++) {
        best[o] = fmaxf(estimate_of(means, q, o, 0) - q.norm[0], estimate_of(means, q, o, 1) - q.norm[1]);
    }
    reduce<OCTETS, 4>(best);
#pragma unroll
    for (int i = 0; i < (OCTETS + 7) / 8; i++) {
        int node = first / 2 + member(i) * 4 + threadIdx.x % 4;
        if (member(i) < OCTETS && node < count) atomicMax(&out[node], ordered(best[i]));
    }
}

// Whether query r sees the key in column c of octet o.
DEVICE bool sees_key(const Search& s, const Queries& q, const u32* items, int first, int count, int o, int r,
                     int c) {
    int row = first + o * 8 + threadIdx.x % 4 * 2 + c;
    int key = items[min(row / BLOCK_K, count - 1)] * BLOCK_K + row % BLOCK_K;
    return row / BLOCK_K < count && sees(q.position[r], key, s.sizes.window);
}

// Key blocks: the largest over all queries of what a block's keys get of each, added up.
DEVICE void keep_shares(const float (&products)[COLUMNS / 2], const Search& s, const Queries& q,
                        const u32* items, int first, int count, u32* out) {
    constexpr int BLOCKS = COLUMNS / BLOCK_K;
    float best[BLOCKS];
#pragma unroll
    for (int b = 0; b < BLOCKS; b++) {
        best[b] = 0.0f;
#pragma unroll
        for (int r = 0; r < 2; r++) {
            float share = 0.0f;
#pragma unroll
            for (int i = 0; i < BLOCK_K / 4; i++) {
                int o = b * (BLOCK_K / 8) + i / 2, c = i % 2;
                bool counts = sees_key(s, q, items, first, count, o, r, c);
                share += counts ? ratio(products[product(o, r, c)], q.norm[r]) : 0.0f;
            }
            best[b] = fmaxf(best[b], quad_sum(share));
        }
    }
    reduce<BLOCKS, 4>(best);
#pragma unroll
    for (int i = 0; i < (BLOCKS + 7) / 8; i++) {
        int block = first / BLOCK_K + member(i);
        if (threadIdx.x % 4 == 0 && member(i) < BLOCKS && block < count) {
            atomicMax(&out[block], ordered(best[i]));
        }
    }
}

// Adds to the norm of query r the values that count, `value(i)` of `counts(i)`.
template <int N, typename Value, typename Counts>
DEVICE void add_to_norm(Norm& norm, Value value, Counts counts) {
    float most = norm.most, sum = 0.0f;
#pragma unroll
    for (int i = 0; i < N; i++) most = counts(i) ? fmaxf(most, value(i)) : most;
#pragma unroll
    for (int i = 0; i < N; i++) sum += counts(i) ? ratio(value(i), most) : 0.0f;
    norm = {most, norm.sum * ratio(norm.most, most) + sum};
}

// Adds what these columns have to the norms of this thread's queries.
template <Pass PASS>
DEVICE void add_to_norms(const float (&products)[COLUMNS / 2], const Search& s, Queries& q, const u32* items,
                         int first, int count) {
#pragma unroll
    for (int r = 0; r < 2; r++) {
        if (of_keys(PASS)) {
            add_to_norm<2 * OCTETS>(
                q.running[r], [&](int i) { return products[product(i / 2, r, i % 2)]; },
                [&](int i) { return sees_key(s, q, items, first, count, i / 2, r, i % 2); });
        } else {
            add_to_norm<OCTETS>(
                q.running[r], [&](int o) { return estimate_of(products, q, o, r); },
                [&](int o) {
                    int node = first / 2 + o * 4 + threadIdx.x % 4;
                    return node < count && is_inside(s, items[min(node, count - 1)]);
                });
        }
    }
}

// Norms become those of all rows since the last time: a quad holds the same queries.
DEVICE void settle_norms(Queries& q, u8*) {
#pragma unroll
    for (int r = 0; r < 2; r++) {
        q.norm[r] = value_of(joined(joined(q.running[r], 1), 2));
        q.running[r] = no_norm();
    }
}

// A pass over items; scores come to `out`, as integers in their order, where they are larger than what is
// there.
template <Pass PASS>
DEVICE void pass(const Search& s, const u32* items, int count, Queries& q, u8* shared, u32* out) {
    for (int first = 0; first < count * rows_of(PASS); first += COLUMNS) {
        load_items<PASS>(s, items, first, count, q);
        __syncthreads();
        float products[COLUMNS / 2], variances[COLUMNS / 2];
        hold(products);
        if (SPREAD) hold(variances);
        wgmma_begin();
        multiply_items(products, q.queries, q.rows);
        if (SPREAD && !of_keys(PASS)) multiply_items(variances, q.squares, q.variances);
        wgmma_commit();
        wgmma_wait<0>();
        hold(products);
        if (SPREAD) hold(variances);
        if constexpr (PASS == KEY_SCORES) keep_shares(products, s, q, items, first, count, out);
        else if constexpr (PASS == KEY_NORMS || PASS == NODE_NORMS)
            add_to_norms<PASS>(products, s, q, items, first, count);
        else if constexpr (CLUSTERS) keep_largest_clusters(products, q, first, count, out);
        else keep_largest_nodes(products, variances, s, first, count, out);
        __syncthreads();
    }
}

// Takes the norms of the queries over all items, then scores the first `n_scored`.
template <bool OF_KEYS>
DEVICE void rank(const Search& s, const u32* items, int count, int n_scored, Queries& q, u8* shared, u32* out) {
    pass<OF_KEYS ? KEY_NORMS : NODE_NORMS>(s, items, count, q, shared, out);
    settle_norms(q, shared);
    pass<OF_KEYS ? KEY_SCORES : NODE_SCORES>(s, items, n_scored, q, shared, out);
}

#endif
