// attention_record: the record of one layer's attention, key by key, from the mask and each row's
// log-sum-exp.
//
// p(q, key) = exp(q . key / sqrt(HEAD_DIM) - lse[q]) over kept, visible keys, or where ALL_KEYS is 1 over all
// visible keys: then only what keys receive is recorded, received and anchors. Keys are the rows of the
// products and queries the columns, so the sum over queries stays inside a thread.
//
// queries   [n_rows, n_heads, HEAD_DIM] bf16
// keys      [n_tokens, n_kv_heads, HEAD_DIM] bf16
// lse       [n_heads, n_rows] f32
// mass      [n_heads, n_query_blocks, top_k] f32: mean over the block's queries of the mass on a kept block;
//           0 fills up
// received  [n_heads, n_tokens] f32, added to, or null: sum over queries of p. Order of addition is not
//           fixed: last bits vary
// shares    [n_heads, query blocks of these rows, top_k * BLOCK_K] f32, zeroed by the caller, or null: sum
//           over queries of p
// focus     rows [n_heads, end - first, top_k * BLOCK_K] f32, zeroed by the caller: p of the focus tokens
// anchors   where ANCHORS is 1: sentence [n_tokens] u32, non-decreasing but for 0 between sentences; weight
//           [n_tokens] f32 (1 / tokens in the query's sentence, 0 between sentences); received [n_heads,
//           n_tokens] f32, added to: sum of p weight[q] over queries with sentence[q] >= sentence[key] +
//           distance
// grid (query blocks of these rows, n_heads); a thread block holds top_k kept blocks, or where ALL_KEYS is 1
// none
// Compile with -D HEAD_DIM, BLOCK_Q (16 to 128), BLOCK_K (4 to 64), ANCHORS, ALL_KEYS (0 or 1), SOFT_CAP
// (attention_rows.cu).
// Any card from sm_80.
// Reference: tests/cuda/reference.py, record; src/engine/cpu/attend.rs

constexpr int TILE = 64;                               // keys in flight at a time
constexpr int SLOTS = TILE / BLOCK_K;
constexpr int WARPS_Q = BLOCK_Q / 16;                  // 16 queries a warp, in registers
constexpr int WARPS_N = smaller(8 / WARPS_Q, TILE / 16);
constexpr int WARPS = WARPS_Q * WARPS_N;
constexpr int THREADS = 32 * WARPS;
constexpr int STEPS = HEAD_DIM / 16;
constexpr int ROW = HEAD_DIM * 2 + 16;
constexpr int STAGE = TILE * ROW;

GEOMETRY(attention_record, THREADS, 1, 1, 2 * STAGE + 4 * 2 * TILE, 4);

typedef RecordParams<const u16*> Params;

// A warp's 16 queries in registers, as columns; a lane's four of them: first + j / 2 * 8 + j % 2.
struct Columns {
    u32 query[STEPS][4];
    float base[4];  // log2-sum-exp, infinite past the prompt
    float weight[4];
    int token[4];
    int sentence[4];  // the last one that counts
};

// Sums over queries in shared memory: of a tile's keys, and of all kept blocks.
struct Sums {
    float *of_keys, *anchors, *of_blocks;
};

DEVICE void load_tile(const Params& p, Row row, int tile, u32 stage) {
    constexpr int CHUNKS = HEAD_DIM / 8;
    int kv_head = kv_head_of(p.sizes.n_kv_heads);
    for (int i = threadIdx.x; i < TILE * CHUNKS; i += THREADS) {
        int r = i / CHUNKS, slot = min(tile * SLOTS + r / BLOCK_K, row.count - 1);
        int key = min(row.block(slot) * BLOCK_K + r % BLOCK_K, p.sizes.n_tokens - 1);
        const u16* row_of_key = p.keys + ((u64)key * p.sizes.n_kv_heads + kv_head) * HEAD_DIM;
        copy_16(stage + r * ROW + i % CHUNKS * 16, row_of_key + i % CHUNKS * 8);
    }
    copies_commit();
}

DEVICE void load_columns(Columns& c, const Params& p, Sight sight) {
    int lane = threadIdx.x % 32, first = sight.first_query + threadIdx.x / 32 % WARPS_Q * 16;
    int row0 = p.rows.first_block * BLOCK_Q;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        int t = min(first + half * 8 + lane / 4, p.sizes.n_tokens - 1) - row0;
        const u32* from = (const u32*)(p.queries + ((u64)t * gridDim.y + blockIdx.y) * HEAD_DIM) + lane % 4;
#pragma unroll
        for (int k = 0; k < STEPS; k++) {
            c.query[k][half * 2] = from[k * 8], c.query[k][half * 2 + 1] = from[k * 8 + 4];
        }
    }
#pragma unroll
    for (int j = 0; j < 4; j++) {
        int token = first + j / 2 * 8 + lane % 4 * 2 + j % 2;
        bool valid = token < sight.end_query;
        c.token[j] = token;
        c.base[j] = valid ? p.lse[(u64)blockIdx.y * p.rows.n_rows + token - row0] * LOG2E : infinity();
        c.weight[j] = ANCHORS && valid ? p.anchors.weight[token] : 0.0f;
        c.sentence[j] = ANCHORS && valid ? (int)p.anchors.sentence[token] - p.anchors.distance : -1;
    }
}

DEVICE void dots_16(float (&dots)[2][4], u32 keys, const Columns& c) {
#pragma unroll
    for (int k = 0; k < STEPS; k++) {
        u32 a[4];
        load_matrices(a, keys + k * 32);
        multiply(dots[0], a, c.query[k][0], c.query[k][1]);
        multiply(dots[1], a, c.query[k][2], c.query[k][3]);
    }
}

// Where the probability of a focus token and key `place` of a slot belongs.
DEVICE float* place_of_focus(const Params& p, int token, int slot, int place) {
    u64 row = row_of_head(p.mask, token - p.focus.first, p.focus.end - p.focus.first);
    return p.focus.rows + (row + slot) * BLOCK_K + place;
}

// Adds up key `i` of a tile over this lane's quad's queries; `r` is its row among the lane's two.
DEVICE void add_key(const float (&dots)[2][4], const Params& p, Row row, Sight sight, const Columns& c,
                    int tile, int i, int r, Sums sums) {
    const float scale = LOG2E / sqrtf((float)HEAD_DIM);
    int slot = tile * SLOTS + i / BLOCK_K, key = key_of(row, slot, i % BLOCK_K);
    int sentence = ANCHORS && key < p.sizes.n_tokens ? (int)p.anchors.sentence[key] : UNSEEN;
    float sum = 0.0f, anchor = 0.0f;
    bool kept = !ALL_KEYS && slot < row.count;
#pragma unroll
    for (int j = 0; j < 4; j++) {
        int token = c.token[j];
        float probability = exp2_fast(fmaf(soft_cap(dots[j / 2][r * 2 + j % 2]), scale, -c.base[j]));
        if (!sees(token, key, p.sizes.window)) probability = 0.0f;
        sum += probability;
        if (ANCHORS && sentence <= c.sentence[j]) anchor += probability * c.weight[j];
        bool in_focus = token >= p.focus.first && token < p.focus.end && token < sight.end_query;
        if (in_focus && kept) *place_of_focus(p, token, slot, i % BLOCK_K) = probability;
    }
    sum = quad_sum(sum);
    if (ANCHORS) anchor = quad_sum(anchor);
    if (threadIdx.x % 4 == 0) atomicAdd(&sums.of_keys[i], sum);
    if (ANCHORS && threadIdx.x % 4 == 0) atomicAdd(&sums.anchors[i], anchor);
}

// Adds up a tile's keys over all queries.
DEVICE void add_tile(const Params& p, Row row, Sight sight, const Columns& c, int tile, u32 stage,
                     Sums sums) {
    int lane = threadIdx.x % 32;
    for (int m = threadIdx.x / 32 / WARPS_Q * 16; m < TILE; m += WARPS_N * 16) {
        float dots[2][4] = {};
        dots_16(dots, stage + (m + lane % 16) * ROW + lane / 16 * 16, c);
#pragma unroll
        for (int r = 0; r < 2; r++) add_key(dots, p, row, sight, c, tile, m + lane / 4 + r * 8, r, sums);
    }
}

// Brings a tile's sums where they belong.
DEVICE void write_tile(const Params& p, Row row, int tile, Sums sums) {
    int n_tokens = p.sizes.n_tokens;
    for (int i = threadIdx.x; i < TILE; i += THREADS) {
        int slot = tile * SLOTS + i / BLOCK_K;
        int key = slot < row.count ? row.block(slot) * BLOCK_K + i % BLOCK_K : n_tokens;
        if (key >= n_tokens) continue;
        if (p.received) atomicAdd(&p.received[(u64)blockIdx.y * n_tokens + key], sums.of_keys[i]);
        if (ANCHORS) atomicAdd(&p.anchors.received[(u64)blockIdx.y * n_tokens + key], sums.anchors[i]);
        if (ALL_KEYS) continue;
        if (p.shares) {
            u64 shares = row_of_head(p.mask, blockIdx.x, gridDim.x) * BLOCK_K;
            p.shares[shares + slot * BLOCK_K + i % BLOCK_K] = sums.of_keys[i];
        }
        atomicAdd(&sums.of_blocks[slot], sums.of_keys[i]);
    }
}

KERNEL void __launch_bounds__(THREADS) attention_record(const __grid_constant__ Params p) {
    extern __shared__ __align__(16) u8 shared[];
    u32 stages = shared_address(shared);
    float* of_keys = (float*)(shared + 2 * STAGE);
    Sums sums = {of_keys, of_keys + TILE, of_keys + 2 * TILE};
    int query_block = p.rows.first_block + blockIdx.x, top_k = ALL_KEYS ? 0 : top_k_of(p.mask);
    Sight sight = sight_of(query_block, p.sizes);
    Row row = ALL_KEYS ? visible_row(sight) : kept_row(p.mask, query_block, sight);
    Columns columns;
    load_columns(columns, p, sight);
    for (int i = threadIdx.x; i < top_k; i += THREADS) sums.of_blocks[i] = 0.0f;
    int n_tiles = (row.count + SLOTS - 1) / SLOTS;
    load_tile(p, row, 0, stages);
    for (int tile = 0; tile < n_tiles; tile++) {
        if (tile + 1 < n_tiles) load_tile(p, row, tile + 1, stages + (tile + 1) % 2 * STAGE);
        else copies_commit();
        for (int i = threadIdx.x; i < 2 * TILE; i += THREADS) sums.of_keys[i] = 0.0f;
        copies_wait<1>();
        __syncthreads();
        add_tile(p, row, sight, columns, tile, stages + tile % 2 * STAGE, sums);
        __syncthreads();
        write_tile(p, row, tile, sums);
        __syncthreads();
    }
    float* mass = ALL_KEYS ? nullptr : p.mass + row_of_mask(p.mask, query_block);
    for (int i = threadIdx.x; i < top_k; i += THREADS) {
        mass[i] = sums.of_blocks[i] / (sight.end_query - sight.first_query);
    }
}
