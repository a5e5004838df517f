// attention_record_sm90: attention_record.cu on Hopper, with the copy engine and warpgroup products.
//
// Same results. One warp copies tiles of 64 keys into a ring, one warpgroup multiplies. Three such thread
// blocks share a multiprocessor, so that one multiplies while another computes exponentials. A thread holds
// two keys and a quarter of the queries: the sum over queries needs only the four lanes of a quad.
//
// queries, keys: maps of queries [n_rows, n_heads, HEAD_DIM] and keys [n_tokens, n_kv_heads, HEAD_DIM] bf16;
// boxes of 64 rows for queries, BLOCK_K rows for keys
// All else: as in attention_record.cu
// grid (query blocks of these rows, n_heads); a thread block holds top_k kept blocks, or where ALL_KEYS is 1
// none
// Compile with -D HEAD_DIM (64 or 128), BLOCK_Q (64 or 128), BLOCK_K (8 to 64), ANCHORS, ALL_KEYS (0 or 1),
// SOFT_CAP (attention_rows.cu) for sm_90a.
// Reference: attention_record.cu and tests/cuda/reference.py, record

#ifdef __CUDA_ARCH_FEAT_SM90_ALL

constexpr int TILE = 64;                 // keys in a stage
constexpr int STAGES = 2;
constexpr int SLOTS = TILE / BLOCK_K;
constexpr int THREADS = 160;             // four warps that multiply, one that copies
constexpr int HALVES = HEAD_DIM / 64;    // tiles of 64 columns in a head
constexpr int TILE_BYTES = TILE * 128;   // of one of them
constexpr int QUERY_TILE = BLOCK_Q * 128;
constexpr int STAGE_BYTES = TILE * HEAD_DIM * 2;
constexpr int DOTS = BLOCK_Q / 2;        // accumulators of a thread
constexpr int COLUMNS = BLOCK_Q / 4;     // queries of a thread
constexpr int PIECES = TILE / 8;         // of a tile, whose mass is added up by itself
constexpr int ALIGNED = 1024;            // to align the first tile

// A kept block and its pieces, and the pieces that the last tile has past the row.
GEOMETRY(attention_record, THREADS, 1, 1, ALIGNED + HALVES * QUERY_TILE + STAGES * STAGE_BYTES + 4 * PIECES,
         4 + 4 * PIECES / SLOTS);

typedef RecordParams<TensorMap> Params;
static_assert(sizeof(Params) == 384, "as in src/engine/cuda/params.rs");

// Shared addresses of the stages and of the barriers that say full and empty.
struct Ring {
    u32 query, keys, query_full, full, empty;
};

// The kept blocks of a row in shared memory, or without a mask all from `first` on.
struct Kept {
    u32* blocks;
    int first, count;
    DEVICE int block(int slot) const { return ALL_KEYS ? first + slot : (int)blocks[slot]; }
};

// ---- copies

DEVICE void copy_all(const Params& p, Kept row, int n_tiles, Ring ring, int query_row) {
    int kv_head = kv_head_of(p.sizes.n_kv_heads);
    barrier_expect(ring.query_full, BLOCK_Q * HEAD_DIM * 2);
    for (int part = 0; part < BLOCK_Q / 64 * HALVES; part++) {  // [half][BLOCK_Q rows]
        int half = part % HALVES, rows = part / HALVES * 64;
        u32 to = ring.query + half * QUERY_TILE + rows * 128;
        copy_box(to, &p.queries, half * 64, blockIdx.y, query_row + rows, ring.query_full);
    }
    for (int tile = 0; tile < n_tiles; tile++) {
        int stage = tile % STAGES;
        barrier_wait(ring.empty + stage * 8, tile / STAGES & 1 ^ 1);
        barrier_expect(ring.full + stage * 8, STAGE_BYTES);
        for (int i = 0; i < SLOTS * HALVES; i++) {
            int slot = min(tile * SLOTS + i / HALVES, row.count - 1), half = i % HALVES;
            u32 to = ring.keys + stage * STAGE_BYTES + half * TILE_BYTES + i / HALVES * BLOCK_K * 128;
            copy_box(to, &p.keys, half * 64, kv_head, row.block(slot) * BLOCK_K, ring.full + stage * 8);
        }
    }
}

// ---- columns: a thread's queries are first + 8 n and the next

struct Columns {
    int first;
    float base[COLUMNS];  // log2-sum-exp, infinite past the prompt
};

DEVICE int token_of(const Columns& c, int j) { return c.first + j / 2 * 8 + j % 2; }

DEVICE void load_columns(Columns& c, const Params& p, Sight sight) {
    const float* lse = p.lse + (u64)blockIdx.y * p.rows.n_rows;
    int row0 = p.rows.first_block * BLOCK_Q;
    c.first = sight.first_query + threadIdx.x % 4 * 2;
#pragma unroll
    for (int j = 0; j < COLUMNS; j++) {
        int token = token_of(c, j);
        bool valid = token < sight.end_query;
        c.base[j] = valid ? lse[token - row0] * LOG2E : infinity();
    }
}

// Two queries of a thread, next to each other: where the keys that count for each end, and its weight.
struct __align__(16) Pair {
    int limit[2];
    float weight[2];
};

DEVICE void load_pairs(Pair* pairs, const Params& p, Sight sight) {
    for (int i = threadIdx.x; i < BLOCK_Q; i += THREADS) {
        int token = min(sight.first_query + i, p.sizes.n_tokens - 1);
        pairs[i / 2].limit[i % 2] = p.anchors.limit[token];
        pairs[i / 2].weight[i % 2] = p.anchors.weight[token];
    }
}

// ---- phases of a tile

// A thread's two keys of a tile: i and i + 8.
struct Keys {
    int i, slot[2], key[2];
};

DEVICE Keys keys_of(Kept row, int tile) {
    Keys k;
    k.i = threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4;
#pragma unroll
    for (int r = 0; r < 2; r++) {
        k.slot[r] = tile * SLOTS + (k.i + r * 8) / BLOCK_K;
        k.key[r] = key_of(row, k.slot[r], (k.i + r * 8) % BLOCK_K);
    }
    return k;
}

// dots[key, query] of one tile.
DEVICE void multiply_tile(float (&dots)[DOTS], Ring ring, int tile) {
    u32 stage = ring.keys + tile % STAGES * STAGE_BYTES;
    barrier_wait(ring.full + tile % STAGES * 8, tile / STAGES & 1);
    hold(dots);
    wgmma_begin();
#pragma unroll
    for (int k = 0; k < HEAD_DIM / 16; k++) {
        u64 of_keys = descriptor(stage + k / 4 * TILE_BYTES + k % 4 * 32, 16);
        u64 of_queries = descriptor(ring.query + k / 4 * QUERY_TILE + k % 4 * 32, 16);
        wgmma(dots, of_keys, of_queries, k > 0);
    }
    wgmma_commit();
    wgmma_wait<0>();
    hold(dots);
}

// Turns the dots of one key into probabilities; returns their sum over the quad's queries.
template <bool EDGE>
DEVICE float sum_row(float (&dots)[DOTS], const Columns& c, int r, int key, int window) {
    const float scale = LOG2E / sqrtf((float)HEAD_DIM);
    float sum[2] = {};
#pragma unroll
    for (int j = 0; j < COLUMNS; j++) {
        float& p = dots[j / 2 * 4 + r * 2 + j % 2];
        p = exp2_fast(fmaf(soft_cap(p), scale, -c.base[j]));
        if (EDGE && !sees(token_of(c, j), key, window)) p = 0.0f;
        sum[j % 2] += p;
    }
    return quad_sum(sum[0] + sum[1]);
}

// `focus` and `top_k` are copies: read from the parameters once for every query, they would cost registers;
// `focus.rows` are this head's.
DEVICE void write_focus(Focus focus, int top_k, const float (&dots)[DOTS], const Columns& c, const Keys& k,
                        int r, int end) {
    float* to = focus.rows + (u64)k.slot[r] * BLOCK_K + (k.i + r * 8) % BLOCK_K;
#pragma unroll
    for (int j = 0; j < COLUMNS; j++) {
        int token = token_of(c, j), row = token - focus.first;
        if (token >= focus.first && token < end) {
            to[(u64)row * (top_k * BLOCK_K)] = dots[j / 2 * 4 + r * 2 + j % 2];
        }
    }
}

// Brings what a key got of the quad's queries where it belongs.
DEVICE void write_key(const Params& p, float sum, const Keys& k, int r, int tile, float* pieces) {
    int lane = threadIdx.x % 32, key = k.key[r];
    if (lane % 4 == 0 && key < p.sizes.n_tokens) {
        if (p.received) atomicAdd(&p.received[(u64)blockIdx.y * p.sizes.n_tokens + key], sum);
        if (p.shares) {
            u64 shares = row_of_head(p.mask, blockIdx.x, gridDim.x) * BLOCK_K;
            p.shares[shares + tile * TILE + k.i + r * 8] = sum;
        }
    }
    if (ALL_KEYS) return;
    sum = sum_across_quads(sum);
    if (lane == 0) pieces[tile * PIECES + threadIdx.x / 32 * 2 + r] = sum;
}

// What the two keys of a thread get of all queries far enough behind them, from their probabilities.
DEVICE void anchor_rows(float (&sums)[2], const float (&dots)[DOTS], const Keys& k, const Pair* pairs) {
    // Limits do not decrease, but for tokens between sentences, which weigh nothing as queries.
    bool all = __all_sync(~0u, max(k.key[0], k.key[1]) < pairs[0].limit[0]);
    sums[0] = sums[1] = 0.0f;
#pragma unroll
    for (int j = 0; j < COLUMNS; j++) {
        const Pair& pair = pairs[j / 2 * 4 + threadIdx.x % 4];
#pragma unroll
        for (int r = 0; r < 2; r++) {
            float p = dots[j / 2 * 4 + r * 2 + j % 2];
            if (all || k.key[r] < pair.limit[j % 2]) sums[r] = fmaf(p, pair.weight[j % 2], sums[r]);
        }
    }
    sums[0] = quad_sum(sums[0]), sums[1] = quad_sum(sums[1]);
}

DEVICE void write_anchors(const Params& p, const float (&dots)[DOTS], const Keys& k, const Pair* pairs) {
    float sums[2];
    anchor_rows(sums, dots, k, pairs);
    for (int r = 0; r < 2 && threadIdx.x % 4 == 0; r++) {
        if (k.key[r] >= p.sizes.n_tokens) continue;
        atomicAdd(&p.anchors.received[(u64)blockIdx.y * p.sizes.n_tokens + k.key[r]], sums[r]);
    }
}

// ---- what the warps do

DEVICE Ring make_ring(u8* shared, u64* barriers) {
    Ring ring;
    ring.query = (shared_address(shared) + ALIGNED - 1) / ALIGNED * ALIGNED;
    ring.keys = ring.query + HALVES * QUERY_TILE;
    ring.query_full = shared_address(barriers);
    ring.full = ring.query_full + 8;
    ring.empty = ring.full + 8 * STAGES;
    return ring;
}

DEVICE void init_barriers(Ring ring) {
    barrier_init(ring.query_full, 1);
    for (int i = 0; i < STAGES; i++) barrier_init(ring.full + i * 8, 1);
    for (int i = 0; i < STAGES; i++) barrier_init(ring.empty + i * 8, 4);  // one arrival a warp
    barriers_ready();
}

// Copies a row of the mask to shared memory; all threads.
DEVICE Kept load_row(const Mask& mask, int query_block, u32* blocks) {
    const u32* from = mask.kept + row_of_mask(mask, query_block);
    int count = 0, top_k = top_k_of(mask);
    for (int i = threadIdx.x; i < (top_k + THREADS - 1) / THREADS * THREADS; i += THREADS) {
        u32 block = i < top_k ? from[i] : NONE;
        if (i < top_k) blocks[i] = block;
        count += __syncthreads_count(block != NONE);
    }
    return {blocks, 0, count};
}

DEVICE void record_all(const Params& p, Kept row, Sight sight, int n_tiles, Ring ring, const Pair* pairs,
                       float* pieces) {
    Focus focus = p.focus;
    if (!ALL_KEYS) focus.rows += row_of_head(p.mask, 0, focus.end - focus.first) * BLOCK_K;
    const int window = p.sizes.window, top_k = ALL_KEYS ? 0 : top_k_of(p.mask);
    Columns columns;
    load_columns(columns, p, sight);
    bool has_focus = !ALL_KEYS && sight.first_query < focus.end && sight.end_query > focus.first;
    barrier_wait(ring.query_full, 0);
    for (int tile = 0; tile < n_tiles; tile++) {
        Keys keys = keys_of(row, tile);
        float dots[DOTS];
        multiply_tile(dots, ring, tile);
        if (threadIdx.x % 32 == 0) barrier_arrive(ring.empty + tile % STAGES * 8);
        bool edge = at_edge<SLOTS>(row, sight, tile, window);
#pragma unroll
        for (int r = 0; r < 2; r++) {
            float sum = edge ? sum_row<true>(dots, columns, r, keys.key[r], window)
                             : sum_row<false>(dots, columns, r, keys.key[r], window);
            if (has_focus && keys.slot[r] < row.count) {
                write_focus(focus, top_k, dots, columns, keys, r, min(focus.end, sight.end_query));
            }
            write_key(p, sum, keys, r, tile, pieces);
        }
        if (ANCHORS) write_anchors(p, dots, keys, pairs);
    }
}

KERNEL void __launch_bounds__(THREADS, BLOCK_Q == 64 ? 4 : 3)
    attention_record(const __grid_constant__ Params p) {
    extern __shared__ u8 shared[];
    __shared__ __align__(8) u64 barriers[1 + 2 * STAGES];
    __shared__ Pair pairs[ANCHORS ? BLOCK_Q / 2 : 1];
    Ring ring = make_ring(shared, barriers);
    int top_k = ALL_KEYS ? 0 : top_k_of(p.mask);
    u32* blocks = (u32*)(shared + (ring.keys - shared_address(shared)) + STAGES * STAGE_BYTES);
    float* pieces = (float*)(blocks + top_k);

    int query_block = p.rows.first_block + blockIdx.x;
    Sight sight = sight_of(query_block, p.sizes);
    Row all = visible_row(sight);
    Kept row = ALL_KEYS ? Kept{nullptr, all.first, all.count} : load_row(p.mask, query_block, blocks);
    int n_tiles = (row.count + SLOTS - 1) / SLOTS;
    if (ANCHORS) load_pairs(pairs, p, sight);
    if (threadIdx.x == 0) init_barriers(ring);
    __syncthreads();
    if (threadIdx.x / 32 == 4) {
        int query_row = sight.first_query - p.rows.first_block * BLOCK_Q;
        if (threadIdx.x % 32 == 0) copy_all(p, row, n_tiles, ring, query_row);
    } else {
        record_all(p, row, sight, n_tiles, ring, pairs, pieces);
    }
    if (ALL_KEYS) return;
    __syncthreads();
    float* mass = p.mass + row_of_mask(p.mask, query_block);
    for (int slot = threadIdx.x; slot < top_k; slot += THREADS) {
        float sum = 0.0f;
        for (int i = 0; i < BLOCK_K / 8 && slot < row.count; i++) sum += pieces[slot * (BLOCK_K / 8) + i];
        mass[slot] = sum / (sight.end_query - sight.first_query);
    }
}

#endif
