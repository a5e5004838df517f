// attention_sm90: attention.cu on Hopper, with the copy engine, warpgroup products and warps that only copy.
//
// Same results and the same rows as attention.cu. One warpgroup copies tiles of keys and values into a ring
// of stages; one warpgroup per 64 queries multiplies. The products of the next tile's scores run while this
// tile's softmax is computed.
//
// queries, keys, values: maps of queries [n_rows, n_heads, HEAD_DIM], keys and values [n_tokens, n_kv_heads,
// HEAD_DIM] bf16; boxes of 64 rows for queries, BLOCK_K rows for keys and values
// mask, out, lse, sinks, rows and sizes: as in attention.cu
// grid (query blocks of these rows, n_heads)
// Compile with -D HEAD_DIM (64 or 128), BLOCK_Q (64 or 128), BLOCK_K (8 to 64), SOFT_CAP (attention_rows.cu)
// for sm_90a.
// Reference: attention.cu and tests/cuda/reference.py, attention

#ifdef __CUDA_ARCH_FEAT_SM90_ALL

constexpr int GROUPS = BLOCK_Q / 64;           // warpgroups that multiply
constexpr int THREADS = 128 * (GROUPS + 1);
constexpr int TILE = GROUPS == 1 ? 64 : 128;   // keys in a stage
constexpr int STAGES = 2;
constexpr int SLOTS = TILE / BLOCK_K;          // key blocks in a stage
constexpr int HALVES = HEAD_DIM / 64;          // tiles of 64 columns in a head
constexpr int TILE_BYTES = TILE * 128;         // of one of them
constexpr int QUERY_BYTES = BLOCK_Q * HEAD_DIM * 2;
constexpr int STAGE_BYTES = TILE * HEAD_DIM * 2;
constexpr int SCORES = TILE / 2;               // accumulators of a thread
constexpr int OUTS = HEAD_DIM / 2;
constexpr int SHARED = 1024 + QUERY_BYTES + 2 * STAGES * STAGE_BYTES;  // 1024 to align the first tile

GEOMETRY(attention_sparse, THREADS, 1, 1, SHARED, 0);
GEOMETRY(attention_dense, THREADS, 1, 1, SHARED, 0);

typedef AttentionParams<TensorMap> Params;
static_assert(sizeof(Params) == 512, "as in src/engine/cuda/params.rs");

// Shared addresses of the stages and of the barriers that say full and empty.
struct Ring {
    u32 query, keys, values, query_full, keys_full, values_full, keys_empty, values_empty;
};

// Of a thread's two queries, eight apart.
struct Softmax {
    float largest[2], sum[2], shrink[2];  // `shrink` rescales what was summed before the last tile
};

// ---- copies

DEVICE void copy_tile(Row row, int tile, u32 to, const TensorMap* map, int kv_head, u32 full) {
    barrier_expect(full, STAGE_BYTES);
    for (int i = 0; i < SLOTS; i++) {
        // Slots past the row repeat its last block.
        int key = row.block(min(tile * SLOTS + i, row.count - 1)) * BLOCK_K;
#pragma unroll
        for (int half = 0; half < HALVES; half++) {
            copy_box(to + half * TILE_BYTES + i * BLOCK_K * 128, map, half * 64, kv_head, key, full);
        }
    }
}

DEVICE void copy_all(const Params& p, Row row, int n_tiles, Ring ring, int query_row) {
    int kv_head = kv_head_of(p.sizes.n_kv_heads);
    barrier_expect(ring.query_full, QUERY_BYTES);
    for (int part = 0; part < GROUPS * HALVES; part++) {  // [group][half][64 rows]
        int half = part % HALVES, group = part / HALVES;
        copy_box(ring.query + part * 8192, &p.queries, half * 64, blockIdx.y, query_row + group * 64,
                 ring.query_full);
    }
    for (int tile = 0; tile < n_tiles; tile++) {
        int stage = tile % STAGES, phase = tile / STAGES & 1;
        barrier_wait(ring.keys_empty + stage * 8, phase ^ 1);
        copy_tile(row, tile, ring.keys + stage * STAGE_BYTES, &p.keys, kv_head, ring.keys_full + stage * 8);
        barrier_wait(ring.values_empty + stage * 8, phase ^ 1);
        copy_tile(row, tile, ring.values + stage * STAGE_BYTES, &p.values, kv_head,
                  ring.values_full + stage * 8);
    }
}

// ---- phases of a tile

// S = Q K^T of one tile: issued, not waited for.
DEVICE void begin_scores(float (&s)[SCORES], u32 query, u32 keys) {
    hold(s);
    wgmma_begin();
#pragma unroll
    for (int k = 0; k < HEAD_DIM / 16; k++) {
        u64 of_query = descriptor(query + k / 4 * 8192 + k % 4 * 32, 16);
        u64 of_keys = descriptor(keys + k / 4 * TILE_BYTES + k % 4 * 32, 16);
        wgmma(s, of_query, of_keys, k > 0);
    }
    wgmma_commit();
}

// O += P V of one tile: issued, not waited for.
DEVICE void begin_values(float (&o)[OUTS], const u32 (&p)[TILE / 16][4], u32 values) {
    hold(o);
    wgmma_begin();
#pragma unroll
    for (int k = 0; k < TILE / 16; k++) wgmma(o, p[k], descriptor(values + k * 2048, TILE_BYTES));
    wgmma_commit();
}

// Turns scores into probabilities relative to the largest so far.
DEVICE void online_softmax(float (&s)[SCORES], Softmax& state, float scale) {
#pragma unroll
    for (int r = 0; r < 2; r++) {
        float top = state.largest[r];
#pragma unroll
        for (int n = 0; n < TILE / 8; n++) top = fmaxf(top, fmaxf(s[n * 4 + 2 * r], s[n * 4 + 2 * r + 1]));
        top = quad_max(top);
        float base = top == -infinity() ? 0.0f : top * scale, added = 0.0f;
        state.shrink[r] = exp2_fast(state.largest[r] * scale - base);
        state.largest[r] = top;
#pragma unroll
        for (int n = 0; n < TILE / 8; n++) {
#pragma unroll
            for (int j = n * 4 + 2 * r; j < n * 4 + 2 * r + 2; j++) {
                s[j] = exp2_fast(fmaf(s[j], scale, -base));
                added += s[j];
            }
        }
        state.sum[r] = state.sum[r] * state.shrink[r] + added;
    }
}

// From scores that are there to probabilities.
DEVICE void softmax_tile(float (&s)[SCORES], Softmax& state, Row row, Sight sight, int tile, int query,
                         int window) {
    cap_scores(s);
    if (at_edge<SLOTS>(row, sight, tile, window)) {
        auto score = [&](int n, int i) -> float& { return s[n * 4 + i]; };
        hide<TILE>(row, tile, query, window, score, [](int, int) { return false; });
    }
    online_softmax(s, state, LOG2E / sqrtf((float)HEAD_DIM));
}

DEVICE void pack(u32 (&p)[TILE / 16][4], const float (&s)[SCORES]) {
#pragma unroll
    for (int k = 0; k < TILE / 16; k++) {
#pragma unroll
        for (int i = 0; i < 4; i++) p[k][i] = pack_bf16(s[k * 8 + i * 2], s[k * 8 + i * 2 + 1]);
    }
}

// ---- before and after the tiles

DEVICE Ring make_ring(u8* shared, u64* barriers) {
    Ring ring;
    ring.query = (shared_address(shared) + 1023) / 1024 * 1024;
    ring.keys = ring.query + QUERY_BYTES;
    ring.values = ring.keys + STAGES * STAGE_BYTES;
    ring.query_full = shared_address(barriers);
    ring.keys_full = ring.query_full + 8;
    ring.values_full = ring.keys_full + 8 * STAGES;
    ring.keys_empty = ring.values_full + 8 * STAGES;
    ring.values_empty = ring.keys_empty + 8 * STAGES;
    if (threadIdx.x == 0) {
        barrier_init(ring.query_full, 1);
        for (int i = 0; i < 2 * STAGES; i++) barrier_init(ring.keys_full + i * 8, 1);
        for (int i = 0; i < 2 * STAGES; i++) {
            barrier_init(ring.keys_empty + i * 8, 4 * GROUPS);  // one arrival a warp
        }
        barriers_ready();
    }
    __syncthreads();
    return ring;
}

DEVICE void write_rows(const float (&o)[OUTS], const Softmax& state, const Params& p, Sight sight,
                       int query) {
    const float scale = LOG2E / sqrtf((float)HEAD_DIM);
    int row0 = p.rows.first_block * BLOCK_Q, lane = threadIdx.x % 32;
#pragma unroll
    for (int r = 0; r < 2; r++) {
        float total = quad_sum(state.sum[r]);
        int token = query + r * 8;
        if (token >= sight.end_query) continue;
        if (p.lse && lane % 4 == 0) {
            p.lse[(u64)blockIdx.y * p.rows.n_rows + token - row0] =
                log_sum_exp(state.largest[r], total, scale);
        }
        u32* to = (u32*)(p.out + ((u64)(token - row0) * gridDim.y + blockIdx.y) * HEAD_DIM) + lane % 4;
        float inverse = 1.0f / total;
#pragma unroll
        for (int n = 0; n < HEAD_DIM / 8; n++) {
            to[n * 4] = pack_bf16(o[n * 4 + 2 * r] * inverse, o[n * 4 + 2 * r + 1] * inverse);
        }
    }
}

// The work of a warpgroup for its 64 queries; `query` is this lane's first.
DEVICE void multiply_all(const Params& p, Row row, Sight sight, int n_tiles, Ring ring, u32 my_query,
                         int query) {
    int lane = threadIdx.x % 32, window = p.sizes.window;
    float sink = sink_of(p.sinks), count = count_of_sink(p.sinks);
    Softmax state = {{sink, sink}, {count, count}, {}};
    float s[SCORES], o[OUTS] = {};
    u32 packed[TILE / 16][4];

    barrier_wait(ring.query_full, 0);
    barrier_wait(ring.keys_full, 0);
    begin_scores(s, my_query, ring.keys);
    wgmma_wait<0>();
    hold(s);
    if (lane == 0) barrier_arrive(ring.keys_empty);
    softmax_tile(s, state, row, sight, 0, query, window);
    pack(packed, s);
    for (int tile = 1; tile < n_tiles; tile++) {
        int stage = tile % STAGES, before = (tile - 1) % STAGES;
        barrier_wait(ring.keys_full + stage * 8, tile / STAGES & 1);
        begin_scores(s, my_query, ring.keys + stage * STAGE_BYTES);
        barrier_wait(ring.values_full + before * 8, (tile - 1) / STAGES & 1);
        begin_values(o, packed, ring.values + before * STAGE_BYTES);
        wgmma_wait<1>();
        hold(s);
        if (lane == 0) barrier_arrive(ring.keys_empty + stage * 8);
        softmax_tile(s, state, row, sight, tile, query, window);
        wgmma_wait<0>();
        hold(o);
        if (lane == 0) barrier_arrive(ring.values_empty + before * 8);
#pragma unroll
        for (int i = 0; i < OUTS; i++) o[i] *= state.shrink[i / 2 % 2];
        pack(packed, s);
    }
    barrier_wait(ring.values_full + (n_tiles - 1) % STAGES * 8, (n_tiles - 1) / STAGES & 1);
    begin_values(o, packed, ring.values + (n_tiles - 1) % STAGES * STAGE_BYTES);
    wgmma_wait<0>();
    hold(o);
    write_rows(o, state, p, sight, query);
}

DEVICE void attend(const Params& p, Row row, Sight sight) {
    extern __shared__ u8 shared[];
    __shared__ __align__(8) u64 barriers[1 + 4 * STAGES];
    Ring ring = make_ring(shared, barriers);
    int n_tiles = (row.count + SLOTS - 1) / SLOTS, group = threadIdx.x / 128 - 1;
    if (group < 0) {
        give_registers<24>();
        if (threadIdx.x == 0) {
            copy_all(p, row, n_tiles, ring, sight.first_query - p.rows.first_block * BLOCK_Q);
        }
        return;
    }
    take_registers<GROUPS == 1 ? 216 : 240>();
    int query = sight.first_query + group * 64 + threadIdx.x % 128 / 32 * 16 + threadIdx.x % 32 / 4;
    multiply_all(p, row, sight, n_tiles, ring, ring.query + group * 64 * HEAD_DIM * 2, query);
}

// ---- kernels

KERNEL void __launch_bounds__(THREADS, 3 - GROUPS) attention_sparse(const __grid_constant__ Params p) {
    int query_block = p.rows.first_block + blockIdx.x;
    Sight sight = sight_of(query_block, p.sizes);
    attend(p, kept_row(p.mask, query_block, sight), sight);
}

KERNEL void __launch_bounds__(THREADS, 3 - GROUPS) attention_dense(const __grid_constant__ Params p) {
    Sight sight = sight_of(p.rows.first_block + blockIdx.x, p.sizes);
    attend(p, visible_row(sight), sight);
}

#endif
