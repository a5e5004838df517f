// attention_record_sm90: attention_record.cu on Hopper, with the copy engine and warpgroup products.
//
// Same results. One warpgroup copies tiles of 64 keys into a ring; the others take tiles in turn, so that one multiplies
// while another computes exponentials. A thread holds two keys and all its columns (queries): the sum over queries needs
// only the four lanes of a quad.
//
// query_map, key_map: maps of queries [n_rows, n_heads, HEAD_DIM] and keys [n_tokens, n_kv_heads, HEAD_DIM] bf16; boxes of 64
// rows for queries, BLOCK_K rows for keys
// kept, lse, mass, received, focus, sentence, weight, anchors and the integers: as in attention_record.cu
// grid (query blocks of this chunk, n_heads), block 128 * (GROUPS + 1)
// shared bytes 1024 + 128 * HEAD_DIM * (BLOCK_Q / 64 + STAGES) + 4 * top_k
// Compile with -D HEAD_DIM (64 or 128), BLOCK_Q (64 or 128), BLOCK_K (8 to 64), ANCHORS (0 or 1) for sm_90a.
// Reference: attention_record.cu and tests/cuda/reference.py, record

#ifdef __CUDA_ARCH_FEAT_SM90_ALL

constexpr int TILE = 64;                 // keys in a stage
constexpr int STAGES = 4;
constexpr int SLOTS = TILE / BLOCK_K;
constexpr int GROUPS = 2;                // warpgroups that multiply
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
    int first, q1;
    float base[COLUMNS];  // log2-sum-exp, infinite past the prompt
};

DEVICE int token_of(const Columns& c, int j) { return c.first + j / 2 * 8 + j % 2; }

struct Sums {
    float received[2], anchors[2];
};

// Probabilities of one key, summed over this thread's queries.
template <bool EDGE>
DEVICE void sum_row(Sums& sums, float (&dots)[DOTS], const Columns& c, int r, int key, int window, float scale) {
    float sum[2] = {};
#pragma unroll
    for (int j = 0; j < COLUMNS; j++) {
        float& p = dots[j / 2 * 4 + r * 2 + j % 2];
        p = exp2_fast(fmaf(p, scale, -c.base[j]));
        if (EDGE && !sees(token_of(c, j), key, window)) p = 0.0f;
        sum[j % 2] += p;
    }
    sums.received[r] = sum[0] + sum[1];
}

DEVICE float quad_sum(float x) {
    x += __shfl_xor_sync(~0u, x, 1);
    return x + __shfl_xor_sync(~0u, x, 2);
}

KERNEL void __launch_bounds__(128 * (GROUPS + 1), 1)
    attention_record(const __grid_constant__ TensorMap query_map, const __grid_constant__ TensorMap key_map, const u32* kept,
                     const float* lse, float* mass, float* received, float* focus, const u32* sentence, const float* weight,
                     float* anchors, int first_block, int n_rows, int n_query_blocks, int n_tokens, int window, int n_kv_heads,
                     int top_k, int focus0, int focus1, int distance) {
    extern __shared__ u8 shared[];
    __shared__ __align__(8) u64 barriers[1 + 2 * STAGES];
    Ring ring;
    ring.query = (shared_address(shared) + 1023) / 1024 * 1024;
    ring.keys = ring.query + HALVES * QUERY_TILE;
    ring.query_full = shared_address(barriers);
    ring.full = ring.query_full + 8;
    ring.empty = ring.full + 8 * STAGES;
    float* block_mass = (float*)(shared + (ring.keys - shared_address(shared)) + STAGES * STAGE_BYTES);

    int query_block = first_block + blockIdx.x, row0 = first_block * BLOCK_Q;
    Sight sight = sight_of(query_block, BLOCK_Q, BLOCK_K, n_tokens, window);
    u64 at_row = ((u64)blockIdx.y * n_query_blocks + query_block) * top_k;
    const u32* row = kept + at_row;
    int count = top_k;
    while (count > 1 && row[count - 1] == NONE) count--;
    int n_tiles = (count + SLOTS - 1) / SLOTS, group = threadIdx.x / 128 - 1, lane = threadIdx.x % 32;

    if (threadIdx.x == 0) {
        barrier_init(ring.query_full, 1);
        for (int i = 0; i < STAGES; i++) barrier_init(ring.full + i * 8, 1);
        for (int i = 0; i < STAGES; i++) barrier_init(ring.empty + i * 8, 4);  // the warps of the one group that reads it
        barriers_ready();
    }
    for (int i = threadIdx.x; i < top_k; i += blockDim.x) block_mass[i] = 0.0f;
    __syncthreads();
    if (group < 0) {
        give_registers<24>();
        int kv_head = blockIdx.y / (gridDim.y / n_kv_heads);
        if (threadIdx.x == 0) copy_all(row, count, n_tiles, ring, &query_map, &key_map, kv_head, sight.q0 - row0);
    } else {
        take_registers<240>();
        const float scale = LOG2E / sqrtf((float)HEAD_DIM);
        Columns columns = {sight.q0 + lane % 4 * 2, sight.q1, {}};
#pragma unroll
        for (int j = 0; j < COLUMNS; j++) {
            int token = token_of(columns, j);
            columns.base[j] = token < sight.q1 ? lse[(u64)blockIdx.y * n_rows + token - row0] * LOG2E : infinity();
        }
        bool has_focus = sight.q0 < focus1 && sight.q1 > focus0;
        barrier_wait(ring.query_full, 0);
        for (int tile = group; tile < n_tiles; tile += GROUPS) {
            int stage = tile % STAGES;
            float dots[DOTS];
            barrier_wait(ring.full + stage * 8, tile / STAGES & 1);
            hold(dots);
            wgmma_begin();
#pragma unroll
            for (int k = 0; k < HEAD_DIM / 16; k++) {
                u32 keys = ring.keys + stage * STAGE_BYTES + k / 4 * TILE_BYTES + k % 4 * 32;
                wgmma(dots, descriptor(keys, 16), descriptor(ring.query + k / 4 * QUERY_TILE + k % 4 * 32, 16), k > 0);
            }
            wgmma_commit();
            wgmma_wait<0>();
            hold(dots);
            if (lane == 0) barrier_arrive(ring.empty + stage * 8);

            int i = threadIdx.x % 128 / 32 * 16 + lane / 4, last = min((tile + 1) * SLOTS, count) - 1;  // keys i and i + 8
            bool edge = (tile + 1) * SLOTS > count || (int)row[last] * BLOCK_K + BLOCK_K - 1 > sight.q0 ||
                        (window > 0 && (int)row[tile * SLOTS] * BLOCK_K <= sight.q0 + BLOCK_Q - 1 - window);
            int slot[2], key[2];
            Sums sums = {};
#pragma unroll
            for (int r = 0; r < 2; r++) {
                slot[r] = tile * SLOTS + (i + r * 8) / BLOCK_K;
                key[r] = slot[r] < count ? (int)row[slot[r]] * BLOCK_K + (i + r * 8) % BLOCK_K : 0x7FFFFFF0;
                if (edge) sum_row<true>(sums, dots, columns, r, key[r], window, scale);
                else sum_row<false>(sums, dots, columns, r, key[r], window, scale);
                if (ANCHORS) {
                    int key_sentence = key[r] < n_tokens ? (int)sentence[key[r]] : 0x7FFFFFF0;
#pragma unroll
                    for (int j = 0; j < COLUMNS; j++) {
                        int token = min(token_of(columns, j), n_tokens - 1);
                        bool far = key_sentence <= (int)sentence[token] - distance;
                        if (far) sums.anchors[r] += dots[j / 2 * 4 + r * 2 + j % 2] * weight[token];
                    }
                    sums.anchors[r] = quad_sum(sums.anchors[r]);
                }
                if (has_focus && slot[r] < count) {
#pragma unroll
                    for (int j = 0; j < COLUMNS; j++) {
                        int token = token_of(columns, j);
                        if (token < focus0 || token >= min(focus1, sight.q1)) continue;
                        u64 at = ((u64)blockIdx.y * (focus1 - focus0) + token - focus0) * top_k + slot[r];
                        focus[at * BLOCK_K + (i + r * 8) % BLOCK_K] = dots[j / 2 * 4 + r * 2 + j % 2];
                    }
                }
                sums.received[r] = quad_sum(sums.received[r]);
                if (lane % 4 == 0 && key[r] < n_tokens) {
                    atomicAdd(&received[(u64)blockIdx.y * n_tokens + key[r]], sums.received[r]);
                    if (ANCHORS) atomicAdd(&anchors[(u64)blockIdx.y * n_tokens + key[r]], sums.anchors[r]);
                }
                for (int step = 4; step < 32; step *= 2) sums.received[r] += __shfl_xor_sync(~0u, sums.received[r], step);
                if (lane == 0 && slot[r] < count) atomicAdd(&block_mass[slot[r]], sums.received[r]);
            }
        }
    }
    __syncthreads();
    for (int i = threadIdx.x; i < top_k; i += blockDim.x) mass[at_row + i] = block_mass[i] / (sight.q1 - sight.q0);
}

#endif
