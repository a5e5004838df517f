// attention_record_sm90: attention_record.cu on Hopper, with the copy engine and warpgroup products.
//
// Same results. One warp copies tiles of 64 keys into a ring, one warpgroup multiplies. Three such thread blocks share a
// multiprocessor, so that one multiplies while another computes exponentials. A thread holds two keys and a quarter of the
// queries: the sum over queries needs only the four lanes of a quad.
//
// query_map, key_map: maps of queries [n_rows, n_heads, HEAD_DIM] and keys [n_tokens, n_kv_heads, HEAD_DIM] bf16; boxes of 64
// rows for queries, BLOCK_K rows for keys
// kept, lse, mass, received, focus, sentence, weight, anchors, shares and the integers: as in attention_record.cu
// grid (query blocks of this chunk, n_heads), block 160
// shared bytes 1024 + 128 * HEAD_DIM * (BLOCK_Q / 64 + STAGES) + 4 * top_k + 32 * ceil(top_k * BLOCK_K / 64)
// Compile with -D HEAD_DIM (64 or 128), BLOCK_Q (64 or 128), BLOCK_K (8 to 64), ANCHORS (0 or 1), SOFT_CAP (prelude.cu) for sm_90a.
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

struct Ring {
    u32 query, keys, query_full, full, empty;
};

DEVICE void copy_all(const u32* row, int count, int n_tiles, Ring ring, const TensorMap* query_map, const TensorMap* key_map,
                     int kv_head, int query_row) {
    barrier_expect(ring.query_full, BLOCK_Q * HEAD_DIM * 2);
    for (int part = 0; part < BLOCK_Q / 64 * HALVES; part++) {  // [half][BLOCK_Q rows]
        int half = part % HALVES, rows = part / HALVES * 64;
        copy_box(ring.query + half * QUERY_TILE + rows * 128, query_map, half * 64, blockIdx.y, query_row + rows, ring.query_full);
    }
    for (int tile = 0; tile < n_tiles; tile++) {
        int stage = tile % STAGES;
        barrier_wait(ring.empty + stage * 8, tile / STAGES & 1 ^ 1);
        barrier_expect(ring.full + stage * 8, STAGE_BYTES);
        for (int i = 0; i < SLOTS * HALVES; i++) {
            int slot = min(tile * SLOTS + i / HALVES, count - 1), half = i % HALVES;
            u32 to = ring.keys + stage * STAGE_BYTES + half * TILE_BYTES + i / HALVES * BLOCK_K * 128;
            copy_box(to, key_map, half * 64, kv_head, (int)row[slot] * BLOCK_K, ring.full + stage * 8);
        }
    }
}

// What the columns of a thread need: queries q0 + 8 n + 2 (lane % 4) and the next.
struct Columns {
    int first;
    float base[COLUMNS];  // log2-sum-exp, infinite past the prompt
};

DEVICE int token_of(const Columns& c, int j) { return c.first + j / 2 * 8 + j % 2; }

DEVICE float quad_sum(float x) {
    x += __shfl_xor_sync(~0u, x, 1);
    return x + __shfl_xor_sync(~0u, x, 2);
}

// Turns the dots of one key into probabilities; returns their sum over the quad's queries.
template <bool EDGE>
DEVICE float sum_row(float (&dots)[DOTS], const Columns& c, int r, int key, int window, float scale) {
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

// Two queries of a thread, next to each other: the last sentence that counts for each, and its weight.
struct __align__(16) Pair {
    int sentence[2];
    float weight[2];
};

DEVICE void load_pairs(Pair* pairs, const u32* sentence, const float* weight, int q0, int n_tokens, int distance) {
    for (int i = threadIdx.x; i < BLOCK_Q; i += THREADS) {
        int token = min(q0 + i, n_tokens - 1);
        pairs[i / 2].sentence[i % 2] = (int)sentence[token] - distance;
        pairs[i / 2].weight[i % 2] = weight[token];
    }
}

// What the two keys of a thread get of all queries far enough behind them, from their probabilities.
DEVICE void anchor_rows(float (&sums)[2], const float (&dots)[DOTS], const int (&of_keys)[2], const Pair* pairs) {
    bool all = __all_sync(~0u, max(of_keys[0], of_keys[1]) <= pairs[0].sentence[0]);  // sentences do not decrease
    sums[0] = sums[1] = 0.0f;
#pragma unroll
    for (int j = 0; j < COLUMNS; j++) {
        const Pair& pair = pairs[j / 2 * 4 + threadIdx.x % 4];
#pragma unroll
        for (int r = 0; r < 2; r++) {
            if (all || of_keys[r] <= pair.sentence[j % 2]) sums[r] = fmaf(dots[j / 2 * 4 + r * 2 + j % 2], pair.weight[j % 2], sums[r]);
        }
    }
    sums[0] = quad_sum(sums[0]), sums[1] = quad_sum(sums[1]);
}

DEVICE void write_focus(float* focus, const float (&dots)[DOTS], const Columns& c, int r, int focus0, int focus1, int stride) {
#pragma unroll
    for (int j = 0; j < COLUMNS; j++) {
        int token = token_of(c, j);
        if (token >= focus0 && token < focus1) focus[(u64)(token - focus0) * stride] = dots[j / 2 * 4 + r * 2 + j % 2];
    }
}

// dots[key, query] of one tile.
DEVICE void multiply_tile(float (&dots)[DOTS], Ring ring, int tile) {
    u32 stage = ring.keys + tile % STAGES * STAGE_BYTES;
    barrier_wait(ring.full + tile % STAGES * 8, tile / STAGES & 1);
    hold(dots);
    wgmma_begin();
#pragma unroll
    for (int k = 0; k < HEAD_DIM / 16; k++) {
        wgmma(dots, descriptor(stage + k / 4 * TILE_BYTES + k % 4 * 32, 16), descriptor(ring.query + k / 4 * QUERY_TILE + k % 4 * 32, 16), k > 0);
    }
    wgmma_commit();
    wgmma_wait<0>();
    hold(dots);
}

KERNEL void __launch_bounds__(THREADS, BLOCK_Q == 64 ? 4 : 3)
    attention_record(const __grid_constant__ TensorMap query_map, const __grid_constant__ TensorMap key_map, const u32* kept,
                     const float* lse, float* mass, float* received, float* focus, const u32* sentence, const float* weight,
                     float* anchors, float* shares, int first_block, int n_rows, int n_query_blocks, int n_tokens, int window, int n_kv_heads,
                     int top_k, int focus0, int focus1, int distance) {
    extern __shared__ u8 shared[];
    __shared__ __align__(8) u64 barriers[1 + 2 * STAGES];
    __shared__ Pair pairs[ANCHORS ? BLOCK_Q / 2 : 1];
    Ring ring;
    ring.query = (shared_address(shared) + 1023) / 1024 * 1024;
    ring.keys = ring.query + HALVES * QUERY_TILE;
    ring.query_full = shared_address(barriers);
    ring.full = ring.query_full + 8;
    ring.empty = ring.full + 8 * STAGES;
    u32* row = (u32*)(shared + (ring.keys - shared_address(shared)) + STAGES * STAGE_BYTES);  // this row's kept blocks
    float* pieces = (float*)(row + top_k);                                                    // mass on every eight keys

    int query_block = first_block + blockIdx.x, row0 = first_block * BLOCK_Q, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    Sight sight = sight_of(query_block, BLOCK_Q, BLOCK_K, n_tokens, window);
    u64 at_row = ((u64)blockIdx.y * n_query_blocks + query_block) * top_k;
    int count = 0;
    for (int i = threadIdx.x; i < (top_k + THREADS - 1) / THREADS * THREADS; i += THREADS) {
        u32 block = i < top_k ? kept[at_row + i] : NONE;
        if (i < top_k) row[i] = block;
        count += __syncthreads_count(block != NONE);
    }
    int n_tiles = (count + SLOTS - 1) / SLOTS;
    if (ANCHORS) load_pairs(pairs, sentence, weight, sight.q0, n_tokens, distance);
    if (threadIdx.x == 0) {
        barrier_init(ring.query_full, 1);
        for (int i = 0; i < STAGES; i++) barrier_init(ring.full + i * 8, 1);
        for (int i = 0; i < STAGES; i++) barrier_init(ring.empty + i * 8, 4);  // one arrival a warp
        barriers_ready();
    }
    __syncthreads();
    if (warp == 4) {
        int kv_head = blockIdx.y / (gridDim.y / n_kv_heads);
        if (lane == 0) copy_all(row, count, n_tiles, ring, &query_map, &key_map, kv_head, sight.q0 - row0);
    } else {
        const float scale = LOG2E / sqrtf((float)HEAD_DIM);
        Columns columns = {sight.q0 + lane % 4 * 2, {}};
#pragma unroll
        for (int j = 0; j < COLUMNS; j++) {
            int token = token_of(columns, j);
            columns.base[j] = token < sight.q1 ? lse[(u64)blockIdx.y * n_rows + token - row0] * LOG2E : infinity();
        }
        bool has_focus = sight.q0 < focus1 && sight.q1 > focus0;
        barrier_wait(ring.query_full, 0);
        for (int tile = 0; tile < n_tiles; tile++) {
            int i = warp * 16 + lane / 4, last = min((tile + 1) * SLOTS, count) - 1;  // keys i and i + 8 of the tile
            int slots[2], keys[2], sentences[2];
#pragma unroll
            for (int r = 0; r < 2; r++) {
                slots[r] = tile * SLOTS + (i + r * 8) / BLOCK_K;
                keys[r] = slots[r] < count ? (int)row[slots[r]] * BLOCK_K + (i + r * 8) % BLOCK_K : 0x7FFFFFF0;
                sentences[r] = ANCHORS && keys[r] < n_tokens ? (int)sentence[keys[r]] : 0x7FFFFFF0;
            }
            float dots[DOTS];
            multiply_tile(dots, ring, tile);
            if (lane == 0) barrier_arrive(ring.empty + tile % STAGES * 8);

            bool edge = (tile + 1) * SLOTS > count || (int)row[last] * BLOCK_K + BLOCK_K - 1 > sight.q0 ||
                        (window > 0 && (int)row[tile * SLOTS] * BLOCK_K <= sight.q0 + BLOCK_Q - 1 - window);
#pragma unroll
            for (int r = 0; r < 2; r++) {
                int slot = slots[r], key = keys[r];
                float sum = edge ? sum_row<true>(dots, columns, r, key, window, scale)
                                 : sum_row<false>(dots, columns, r, key, window, scale);
                if (has_focus && slot < count) {
                    u64 at = ((u64)blockIdx.y * (focus1 - focus0) * top_k + slot) * BLOCK_K + (i + r * 8) % BLOCK_K;
                    write_focus(focus + at, dots, columns, r, focus0, min(focus1, sight.q1), top_k * BLOCK_K);
                }
                if (lane % 4 == 0 && key < n_tokens) {
                    atomicAdd(&received[(u64)blockIdx.y * n_tokens + key], sum);
                    u64 at = ((u64)blockIdx.y * gridDim.x + blockIdx.x) * top_k * BLOCK_K + tile * TILE + i + r * 8;
                    if (shares) shares[at] = sum;
                }
                for (int step = 4; step < 32; step *= 2) sum += __shfl_xor_sync(~0u, sum, step);
                if (lane == 0) pieces[tile * 8 + warp * 2 + r] = sum;
            }
            if (ANCHORS) {
                float sums[2];
                anchor_rows(sums, dots, sentences, pairs);
                for (int r = 0; r < 2 && lane % 4 == 0; r++) {
                    if (keys[r] < n_tokens) atomicAdd(&anchors[(u64)blockIdx.y * n_tokens + keys[r]], sums[r]);
                }
            }
        }
    }
    __syncthreads();
    for (int slot = threadIdx.x; slot < top_k; slot += THREADS) {
        float sum = 0.0f;
        for (int i = 0; i < BLOCK_K / 8 && slot < count; i++) sum += pieces[slot * (BLOCK_K / 8) + i];
        mass[at_row + slot] = sum / (sight.q1 - sight.q0);
    }
}

#endif
