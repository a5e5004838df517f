// attention_sm90: attention.cu on Hopper, with the copy engine, warpgroup products and warps that only copy.
//
// Same results and the same rows as attention.cu. One warpgroup copies tiles of keys and values into a ring of stages; one
// warpgroup per 64 queries multiplies. The products of the next tile's scores run while this tile's softmax is computed.
//
// query_map, key_map, value_map: maps of queries [n_rows, n_heads, HEAD_DIM], keys and values [n_tokens, n_kv_heads, HEAD_DIM]
// bf16; boxes of 64 rows for queries, BLOCK_K rows for keys and values
// kept, out, lse and the integers: as in attention.cu (out is not null)
// grid (query blocks, n_heads), block 128 * (BLOCK_Q / 64 + 1)
// shared bytes 1024 + HEAD_DIM * 2 * (BLOCK_Q + 2 * STAGES * TILE)
// Compile with -D HEAD_DIM (64 or 128), BLOCK_Q (64 or 128), BLOCK_K (8 to 64), SOFT_CAP (prelude.cu) for sm_90a.
// Reference: attention.cu and tests/cuda/reference.py, attention

#ifdef __CUDA_ARCH_FEAT_SM90_ALL

constexpr int GROUPS = BLOCK_Q / 64;           // warpgroups that multiply
constexpr int TILE = GROUPS == 1 ? 64 : 128;   // keys in a stage
constexpr int STAGES = 2;
constexpr int SLOTS = TILE / BLOCK_K;          // key blocks in a stage
constexpr int HALVES = HEAD_DIM / 64;   // tiles of 64 columns in a head
constexpr int TILE_BYTES = TILE * 128;  // of one of them
constexpr int QUERY_BYTES = BLOCK_Q * HEAD_DIM * 2;
constexpr int STAGE_BYTES = TILE * HEAD_DIM * 2;
constexpr int SCORES = TILE / 2;        // accumulators of a thread
constexpr int OUTS = HEAD_DIM / 2;

// Key blocks of this row, by slot.
struct Row {
    const u32* kept;
    int first, count;
    DEVICE int block(int slot) const { return kept ? (int)kept[slot] : first + slot; }
};

// Shared addresses of the stages and of the barriers that say full and empty.
struct Ring {
    u32 query, keys, values, query_full, keys_full, values_full, keys_empty, values_empty;
};

DEVICE void copy_tile(Row row, int tile, u32 to, const TensorMap* map, int kv_head, u32 full) {
    barrier_expect(full, STAGE_BYTES);
    for (int i = 0; i < SLOTS; i++) {
        int key = row.block(min(tile * SLOTS + i, row.count - 1)) * BLOCK_K;  // slots past the row repeat its last block
#pragma unroll
        for (int half = 0; half < HALVES; half++) {
            copy_box(to + half * TILE_BYTES + i * BLOCK_K * 128, map, half * 64, kv_head, key, full);
        }
    }
}

DEVICE void copy_all(Row row, int n_tiles, Ring ring, const TensorMap* query_map, const TensorMap* key_map,
                     const TensorMap* value_map, int kv_head, int query_row) {
    barrier_expect(ring.query_full, QUERY_BYTES);
    for (int part = 0; part < GROUPS * HALVES; part++) {  // [group][half][64 rows]
        copy_box(ring.query + part * 8192, query_map, part % HALVES * 64, blockIdx.y, query_row + part / HALVES * 64, ring.query_full);
    }
    for (int tile = 0; tile < n_tiles; tile++) {
        int stage = tile % STAGES, phase = tile / STAGES & 1;
        barrier_wait(ring.keys_empty + stage * 8, phase ^ 1);
        copy_tile(row, tile, ring.keys + stage * STAGE_BYTES, key_map, kv_head, ring.keys_full + stage * 8);
        barrier_wait(ring.values_empty + stage * 8, phase ^ 1);
        copy_tile(row, tile, ring.values + stage * STAGE_BYTES, value_map, kv_head, ring.values_full + stage * 8);
    }
}

// S = Q K^T of one tile: issued, not waited for.
DEVICE void begin_scores(float (&s)[SCORES], u32 query, u32 keys) {
    hold(s);
    wgmma_begin();
#pragma unroll
    for (int k = 0; k < HEAD_DIM / 16; k++) {
        wgmma(s, descriptor(query + k / 4 * 8192 + k % 4 * 32, 16), descriptor(keys + k / 4 * TILE_BYTES + k % 4 * 32, 16), k > 0);
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

// Hides keys after their query, out of its window, or of slots past the row's end; most tiles have none.
DEVICE void hide_at_edge(float (&s)[SCORES], Row row, Sight sight, int tile, int query, int window) {
    int last = min((tile + 1) * SLOTS, row.count) - 1;
    bool edge = (tile + 1) * SLOTS > row.count || row.block(last) * BLOCK_K + BLOCK_K - 1 > sight.q0 ||
                (window > 0 && row.block(tile * SLOTS) * BLOCK_K <= sight.q0 + BLOCK_Q - 1 - window);
    if (!edge) return;
#pragma unroll
    for (int n = 0; n < TILE / 8; n++) {
        int slot = tile * SLOTS + n * 8 / BLOCK_K;
        int key = slot < row.count ? row.block(slot) * BLOCK_K + n * 8 % BLOCK_K + threadIdx.x % 4 * 2 : 0x7FFFFFF0;
#pragma unroll
        for (int j = 0; j < 4; j++) {
            if (!sees(query + j / 2 * 8, key + j % 2, window)) s[n * 4 + j] = -infinity();
        }
    }
}

DEVICE void cap_scores(float (&s)[SCORES]) {
#pragma unroll
    for (int i = 0; i < SCORES; i++) s[i] = soft_cap(s[i]);
}

// Scores become probabilities relative to the largest so far; `shrink` rescales what was summed before.
DEVICE void online_softmax(float (&s)[SCORES], float (&largest)[2], float (&sum)[2], float (&shrink)[2], float scale) {
#pragma unroll
    for (int r = 0; r < 2; r++) {
        float top = largest[r];
#pragma unroll
        for (int n = 0; n < TILE / 8; n++) top = fmaxf(top, fmaxf(s[n * 4 + 2 * r], s[n * 4 + 2 * r + 1]));
        top = fmaxf(top, __shfl_xor_sync(~0u, top, 1));
        top = fmaxf(top, __shfl_xor_sync(~0u, top, 2));
        float base = top == -infinity() ? 0.0f : top * scale, added = 0.0f;
        shrink[r] = exp2_fast(largest[r] * scale - base);
        largest[r] = top;
#pragma unroll
        for (int n = 0; n < TILE / 8; n++) {
#pragma unroll
            for (int j = n * 4 + 2 * r; j < n * 4 + 2 * r + 2; j++) {
                s[j] = exp2_fast(fmaf(s[j], scale, -base));
                added += s[j];
            }
        }
        sum[r] = sum[r] * shrink[r] + added;
    }
}

DEVICE void pack(u32 (&p)[TILE / 16][4], const float (&s)[SCORES]) {
#pragma unroll
    for (int k = 0; k < TILE / 16; k++) {
#pragma unroll
        for (int i = 0; i < 4; i++) p[k][i] = pack_bf16(s[k * 8 + i * 2], s[k * 8 + i * 2 + 1]);
    }
}

DEVICE void attend(Row row, Sight sight, int row0, const TensorMap* query_map, const TensorMap* key_map, const TensorMap* value_map,
                   u16* out, float* lse, int n_rows, int window, int n_kv_heads) {
    extern __shared__ u8 shared[];
    __shared__ __align__(8) u64 barriers[1 + 4 * STAGES];
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
        for (int i = 0; i < 2 * STAGES; i++) barrier_init(ring.keys_empty + i * 8, 4 * GROUPS);  // one arrival a warp
        barriers_ready();
    }
    __syncthreads();
    int n_tiles = (row.count + SLOTS - 1) / SLOTS, group = threadIdx.x / 128 - 1, lane = threadIdx.x % 32;
    if (group < 0) {
        give_registers<24>();
        int kv_head = blockIdx.y / (gridDim.y / n_kv_heads);
        if (threadIdx.x == 0) copy_all(row, n_tiles, ring, query_map, key_map, value_map, kv_head, sight.q0 - row0);
        return;
    }
    take_registers<GROUPS == 1 ? 216 : 240>();
    const float scale = LOG2E / sqrtf((float)HEAD_DIM);
    int query = sight.q0 + group * 64 + threadIdx.x % 128 / 32 * 16 + lane / 4;  // this lane's, and query + 8
    u32 my_query = ring.query + group * 64 * HEAD_DIM * 2;
    float largest[2] = {-infinity(), -infinity()}, sum[2] = {}, shrink[2];
    float s[SCORES], o[OUTS] = {};
    u32 p[TILE / 16][4];

    barrier_wait(ring.query_full, 0);
    barrier_wait(ring.keys_full, 0);
    begin_scores(s, my_query, ring.keys);
    wgmma_wait<0>();
    hold(s);
    if (lane == 0) barrier_arrive(ring.keys_empty);
    cap_scores(s);
    hide_at_edge(s, row, sight, 0, query, window);
    online_softmax(s, largest, sum, shrink, scale);
    pack(p, s);
    for (int tile = 1; tile < n_tiles; tile++) {
        int stage = tile % STAGES, before = (tile - 1) % STAGES;
        barrier_wait(ring.keys_full + stage * 8, tile / STAGES & 1);
        begin_scores(s, my_query, ring.keys + stage * STAGE_BYTES);
        barrier_wait(ring.values_full + before * 8, (tile - 1) / STAGES & 1);
        begin_values(o, p, ring.values + before * STAGE_BYTES);
        wgmma_wait<1>();
        hold(s);
        if (lane == 0) barrier_arrive(ring.keys_empty + stage * 8);
        cap_scores(s);
        hide_at_edge(s, row, sight, tile, query, window);
        online_softmax(s, largest, sum, shrink, scale);
        wgmma_wait<0>();
        hold(o);
        if (lane == 0) barrier_arrive(ring.values_empty + before * 8);
#pragma unroll
        for (int i = 0; i < OUTS; i++) o[i] *= shrink[i / 2 % 2];
        pack(p, s);
    }
    barrier_wait(ring.values_full + (n_tiles - 1) % STAGES * 8, (n_tiles - 1) / STAGES & 1);
    begin_values(o, p, ring.values + (n_tiles - 1) % STAGES * STAGE_BYTES);
    wgmma_wait<0>();
    hold(o);
#pragma unroll
    for (int r = 0; r < 2; r++) {
        float total = sum[r];
        total += __shfl_xor_sync(~0u, total, 1);
        total += __shfl_xor_sync(~0u, total, 2);
        int token = query + r * 8;
        if (token >= sight.q1) continue;
        if (lse && lane % 4 == 0) lse[(u64)blockIdx.y * n_rows + token - row0] = (largest[r] * scale + log2f(total)) / LOG2E;
        u32* to = (u32*)(out + ((u64)(token - row0) * gridDim.y + blockIdx.y) * HEAD_DIM) + lane % 4;
        float inverse = 1.0f / total;
#pragma unroll
        for (int n = 0; n < HEAD_DIM / 8; n++) to[n * 4] = pack_bf16(o[n * 4 + 2 * r] * inverse, o[n * 4 + 2 * r + 1] * inverse);
    }
}

KERNEL void __launch_bounds__(128 * (GROUPS + 1), 3 - GROUPS)
    attention_sparse(const __grid_constant__ TensorMap query_map, const __grid_constant__ TensorMap key_map,
                     const __grid_constant__ TensorMap value_map, const u32* kept, u16* out, float* lse, int first_block, int block_step,
                     int n_rows, int n_query_blocks, int n_tokens, int window, int n_kv_heads, int top_k) {
    int query_block = first_block + blockIdx.x * block_step;
    Row row = {kept + ((u64)blockIdx.y * n_query_blocks + query_block) * top_k, 0, top_k};
    while (row.count > 1 && row.kept[row.count - 1] == NONE) row.count--;
    attend(row, sight_of(query_block, BLOCK_Q, BLOCK_K, n_tokens, window), first_block * BLOCK_Q, &query_map, &key_map, &value_map, out,
           lse, n_rows, window, n_kv_heads);
}

KERNEL void __launch_bounds__(128 * (GROUPS + 1), 3 - GROUPS)
    attention_dense(const __grid_constant__ TensorMap query_map, const __grid_constant__ TensorMap key_map,
                    const __grid_constant__ TensorMap value_map, const u32* kept, u16* out, float* lse, int first_block, int block_step,
                    int n_rows, int n_query_blocks, int n_tokens, int window, int n_kv_heads, int top_k) {
    Sight sight = sight_of(first_block + blockIdx.x * block_step, BLOCK_Q, BLOCK_K, n_tokens, window);
    Row row = {nullptr, sight.v0, sight.v1 - sight.v0};
    attend(row, sight, first_block * BLOCK_Q, &query_map, &key_map, &value_map, out, lse, n_rows, window, n_kv_heads);
}

#endif
