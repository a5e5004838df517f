// attention: softmax(q . k / sqrt(HEAD_DIM)) V over the kept key blocks (attention_sparse), without some pairs of them
// (attention_without), or over all (attention_dense).
//
// Dense attention is the same kernel with a mask that keeps every visible block, so both are one code. Causal, with the
// layer's sliding window. Keys stream through shared memory in tiles with an online softmax: nothing of size T^2.
//
// queries [n_rows, n_heads, HEAD_DIM] bf16, row 0 is the first token of query block `first_block`
// keys    [n_tokens, n_kv_heads, HEAD_DIM] bf16
// values  [n_tokens, n_kv_heads, HEAD_DIM] bf16
// kept    [n_heads, n_query_blocks, top_k] u32 ascending, filled up with 0xFFFFFFFF (ignored by attention_dense)
// out     [n_rows, n_heads, HEAD_DIM] bf16, or null
// lse     [n_heads, n_rows] f32: ln sum_k exp(q . k / sqrt(HEAD_DIM)), or null
// hidden  [n_hidden, 6] i32: head or -1 for all, first query, end, first key, end, and 1 for pairs that stay whatever else
//         hides them; a query always sees itself (attention_without)
// Thread block x works on query block first_block + x * block_step (block_step > 1 takes a sample of blocks).
// grid (query blocks, n_heads), block 2 * BLOCK_Q: one warp for 16 queries
// shared bytes 4 * STAGE (+ BLOCK_Q * ROW when HEAD_DIM is 256)
// Compile with -D HEAD_DIM, BLOCK_Q (16 to 128), BLOCK_K (8 to 64), SOFT_CAP (prelude.cu). Any card from sm_80.
// Reference: tests/cuda/reference.py, attention; src/attention.rs

constexpr int TILE = BLOCK_K == 64 || (BLOCK_Q >= 64 && HEAD_DIM <= 128) ? 64 : 32;  // keys in flight at a time
constexpr int SLOTS = TILE / BLOCK_K;                                                // key blocks in flight
constexpr int THREADS = 2 * BLOCK_Q;
constexpr int STEPS = HEAD_DIM / 16;
constexpr int ROW = HEAD_DIM * 2 + 16;  // bytes; the pad keeps ldmatrix free of bank conflicts
constexpr int STAGE = TILE * ROW;
constexpr bool QUERY_IN_SHARED = HEAD_DIM > 128;

// Key blocks of this row, by slot.
struct Row {
    const u32* kept;
    int first, count;
    DEVICE int block(int slot) const { return kept ? (int)kept[slot] : first + slot; }
};

DEVICE void load_tile(const u16* from, Row row, int tile, int n_tokens, int n_kv_heads, u32 stage) {
    constexpr int CHUNKS = HEAD_DIM / 8;
    int kv_head = blockIdx.y / (gridDim.y / n_kv_heads);
    for (int i = threadIdx.x; i < TILE * CHUNKS; i += THREADS) {
        int r = i / CHUNKS, slot = min(tile * SLOTS + r / BLOCK_K, row.count - 1);
        int key = min(row.block(slot) * BLOCK_K + r % BLOCK_K, n_tokens - 1);
        copy_16(stage + r * ROW + i % CHUNKS * 16, from + ((u64)key * n_kv_heads + kv_head) * HEAD_DIM + i % CHUNKS * 8);
    }
    copies_commit();
}

// What a warp knows of its 16 queries: a lane of rows lane/4 and lane/4 + 8.
struct Softmax {
    float out[HEAD_DIM / 8][4], largest[2], sum[2];
};

DEVICE void query_fragment(u32 (&a)[4], const u32* top, const u32* bottom, int k) {
    a[0] = top[k * 8], a[1] = bottom[k * 8], a[2] = top[k * 8 + 4], a[3] = bottom[k * 8 + 4];
}

// Rectangles of pairs that are left out.
struct Hidden {
    const int* edges;
    int n;
    DEVICE bool hides(int query, int key) const {
        bool found = false;
        for (const int* e = edges; e < edges + 6 * n; e += 6) {
            bool here = (e[0] < 0 || e[0] == (int)blockIdx.y) && query >= e[1] && query < e[2] && key >= e[3] && key < e[4];
            if (here && e[5]) return false;
            found |= here;
        }
        return found && query != key;
    }
};

// Hides keys after their query, out of its window, or of slots past the row's end, and pairs that are left out.
template <bool WITHOUT>
DEVICE void hide(float (&s)[TILE / 8][4], Row row, int tile, int query, int window, Hidden hidden) {
#pragma unroll
    for (int n = 0; n < TILE / 8; n++) {
        int slot = tile * SLOTS + n * 8 / BLOCK_K;
        int key = slot < row.count ? row.block(slot) * BLOCK_K + n * 8 % BLOCK_K + threadIdx.x % 4 * 2 : 0x7FFFFFF0;
#pragma unroll
        for (int j = 0; j < 4; j++) {
            int q = query + j / 2 * 8, k = key + j % 2;
            if (!sees(q, k, window) || (WITHOUT && hidden.hides(q, k))) s[n][j] = -infinity();
        }
    }
}

// Turns scores into probabilities relative to the largest so far; earlier sums are rescaled to it.
DEVICE void online_softmax(Softmax& state, float (&s)[TILE / 8][4], float scale) {
#pragma unroll
    for (int r = 0; r < 2; r++) {
        float largest = state.largest[r];
#pragma unroll
        for (int n = 0; n < TILE / 8; n++) largest = fmaxf(largest, fmaxf(s[n][2 * r], s[n][2 * r + 1]));
        largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, 1));
        largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, 2));
        float base = largest == -infinity() ? 0.0f : largest * scale, sum = 0.0f;
        float shrink = exp2_fast(state.largest[r] * scale - base);
        state.largest[r] = largest;
#pragma unroll
        for (int n = 0; n < TILE / 8; n++) {
#pragma unroll
            for (int j = 2 * r; j < 2 * r + 2; j++) {
                s[n][j] = exp2_fast(fmaf(s[n][j], scale, -base));
                sum += s[n][j];
            }
        }
        state.sum[r] = state.sum[r] * shrink + sum;
#pragma unroll
        for (int n = 0; n < HEAD_DIM / 8; n++) state.out[n][2 * r] *= shrink, state.out[n][2 * r + 1] *= shrink;
    }
}

DEVICE void score_tile(float (&s)[TILE / 8][4], const u32 (&query)[QUERY_IN_SHARED ? 1 : STEPS][4], u32 shared_query, u32 keys) {
    int lane = threadIdx.x % 32;
#pragma unroll
    for (int k = 0; k < STEPS; k++) {
        u32 a[4];
        if (QUERY_IN_SHARED) load_matrices(a, shared_query + lane % 16 * ROW + lane / 16 * 16 + k * 32);
        else {
#pragma unroll
            for (int i = 0; i < 4; i++) a[i] = query[QUERY_IN_SHARED ? 0 : k][i];
        }
#pragma unroll
        for (int n = 0; n < TILE / 16; n++) {  // 16 keys: two columns of eight, two halves of the step
            u32 b[4];
            load_matrices(b, keys + (n * 16 + lane / 16 * 8 + lane % 8) * ROW + lane / 8 % 2 * 16 + k * 32);
            multiply(s[2 * n], a, b[0], b[1]);
            multiply(s[2 * n + 1], a, b[2], b[3]);
        }
    }
}

DEVICE void cap_scores(float (&s)[TILE / 8][4]) {
#pragma unroll
    for (int n = 0; n < TILE / 8; n++) {
#pragma unroll
        for (int j = 0; j < 4; j++) s[n][j] = soft_cap(s[n][j]);
    }
}

DEVICE void add_values(Softmax& state, const float (&s)[TILE / 8][4], u32 values) {
    int lane = threadIdx.x % 32;
#pragma unroll
    for (int k = 0; k < TILE / 16; k++) {
        u32 a[4] = {pack_bf16(s[2 * k][0], s[2 * k][1]), pack_bf16(s[2 * k][2], s[2 * k][3]),
                    pack_bf16(s[2 * k + 1][0], s[2 * k + 1][1]), pack_bf16(s[2 * k + 1][2], s[2 * k + 1][3])};
#pragma unroll
        for (int n = 0; n < HEAD_DIM / 16; n++) {
            u32 b[4];
            load_matrices_transposed(b, values + (k * 16 + lane % 16) * ROW + n * 32 + lane / 16 * 16);
            multiply(state.out[2 * n], a, b[0], b[1]);
            multiply(state.out[2 * n + 1], a, b[2], b[3]);
        }
    }
}

template <bool WITHOUT>
DEVICE void attend(Row row, Sight sight, int row0, const u16* queries, const u16* keys, const u16* values, u16* out, float* lse,
                   int n_rows, int n_tokens, int window, int n_kv_heads, Hidden hidden) {
    extern __shared__ __align__(16) u8 shared[];
    u32 stages = shared_address(shared), shared_query = stages + 4 * STAGE + threadIdx.x / 32 * 16 * ROW;
    int lane = threadIdx.x % 32, query = sight.q0 + threadIdx.x / 32 * 16 + lane / 4;  // this lane's, and query + 8
    const float scale = LOG2E / sqrtf((float)HEAD_DIM);

    u32 fragments[QUERY_IN_SHARED ? 1 : STEPS][4];
    u64 at_top = ((u64)min(query - row0, n_rows - 1) * gridDim.y + blockIdx.y) * HEAD_DIM;
    u64 at_bottom = ((u64)min(query + 8 - row0, n_rows - 1) * gridDim.y + blockIdx.y) * HEAD_DIM;
    const u32 *top = (const u32*)(queries + at_top) + lane % 4, *bottom = (const u32*)(queries + at_bottom) + lane % 4;
#pragma unroll
    for (int k = 0; k < STEPS; k++) {
        u32 a[4];
        query_fragment(a, top, bottom, k);
        if (!QUERY_IN_SHARED) {
#pragma unroll
            for (int i = 0; i < 4; i++) fragments[QUERY_IN_SHARED ? 0 : k][i] = a[i];
            continue;
        }
        u32* to = (u32*)(shared + 4 * STAGE + (threadIdx.x / 32 * 16 + lane / 4) * ROW + k * 32) + lane % 4;
        to[0] = a[0], to[4] = a[2];
        to[2 * ROW] = a[1], to[2 * ROW + 4] = a[3];  // 8 rows further
    }
    Softmax state = {};
    state.largest[0] = state.largest[1] = -infinity();
    int n_tiles = (row.count + SLOTS - 1) / SLOTS;
    load_tile(keys, row, 0, n_tokens, n_kv_heads, stages);
    load_tile(values, row, 0, n_tokens, n_kv_heads, stages + 2 * STAGE);
    for (int tile = 0; tile < n_tiles; tile++) {
        u32 here = stages + tile % 2 * STAGE, next = stages + (tile + 1) % 2 * STAGE;
        copies_wait<1>();
        __syncthreads();  // keys are there, and nobody reads `next` any more
        if (tile + 1 < n_tiles) load_tile(keys, row, tile + 1, n_tokens, n_kv_heads, next);
        else copies_commit();
        float s[TILE / 8][4] = {};
        score_tile(s, fragments, shared_query, here);
        cap_scores(s);
        int last = min((tile + 1) * SLOTS, row.count) - 1;
        bool edge = (tile + 1) * SLOTS > row.count || row.block(last) * BLOCK_K + BLOCK_K - 1 > sight.q0 ||
                    (window > 0 && row.block(tile * SLOTS) * BLOCK_K <= sight.q0 + BLOCK_Q - 1 - window);
        if (edge || WITHOUT) hide<WITHOUT>(s, row, tile, query, window, hidden);
        online_softmax(state, s, scale);
        copies_wait<1>();
        __syncthreads();  // values are there
        if (tile + 1 < n_tiles) load_tile(values, row, tile + 1, n_tokens, n_kv_heads, next + 2 * STAGE);
        else copies_commit();
        add_values(state, s, here + 2 * STAGE);
    }
#pragma unroll
    for (int r = 0; r < 2; r++) {
        float sum = state.sum[r];
        sum += __shfl_xor_sync(~0u, sum, 1);
        sum += __shfl_xor_sync(~0u, sum, 2);
        int token = query + r * 8;
        if (token >= sight.q1) continue;
        if (lse && lane % 4 == 0) lse[(u64)blockIdx.y * n_rows + token - row0] = (state.largest[r] * scale + log2f(sum)) / LOG2E;
        u32* to = (u32*)(out + ((u64)(token - row0) * gridDim.y + blockIdx.y) * HEAD_DIM) + lane % 4;
#pragma unroll
        for (int n = 0; n < HEAD_DIM / 8; n++) {
            if (out) to[n * 4] = pack_bf16(state.out[n][2 * r] / sum, state.out[n][2 * r + 1] / sum);
        }
    }
}

KERNEL void __launch_bounds__(THREADS)
    attention_sparse(const u16* queries, const u16* keys, const u16* values, const u32* kept, u16* out, float* lse, int first_block,
                     int block_step, int n_rows, int n_query_blocks, int n_tokens, int window, int n_kv_heads, int top_k) {
    int query_block = first_block + blockIdx.x * block_step;
    Row row = {kept + ((u64)blockIdx.y * n_query_blocks + query_block) * top_k, 0, top_k};
    while (row.count > 1 && row.kept[row.count - 1] == NONE) row.count--;
    attend<false>(row, sight_of(query_block, BLOCK_Q, BLOCK_K, n_tokens, window), first_block * BLOCK_Q, queries, keys, values, out,
                  lse, n_rows, n_tokens, window, n_kv_heads, Hidden{});
}

KERNEL void __launch_bounds__(THREADS)
    attention_without(const u16* queries, const u16* keys, const u16* values, const u32* kept, u16* out, float* lse, int first_block,
                      int block_step, int n_rows, int n_query_blocks, int n_tokens, int window, int n_kv_heads, int top_k,
                      const int* hidden, int n_hidden) {
    int query_block = first_block + blockIdx.x * block_step;
    Row row = {kept + ((u64)blockIdx.y * n_query_blocks + query_block) * top_k, 0, top_k};
    while (row.count > 1 && row.kept[row.count - 1] == NONE) row.count--;
    attend<true>(row, sight_of(query_block, BLOCK_Q, BLOCK_K, n_tokens, window), first_block * BLOCK_Q, queries, keys, values, out,
                 lse, n_rows, n_tokens, window, n_kv_heads, Hidden{hidden, n_hidden});
}

KERNEL void __launch_bounds__(THREADS)
    attention_dense(const u16* queries, const u16* keys, const u16* values, const u32* kept, u16* out, float* lse, int first_block,
                    int block_step, int n_rows, int n_query_blocks, int n_tokens, int window, int n_kv_heads, int top_k) {
    Sight sight = sight_of(first_block + blockIdx.x * block_step, BLOCK_Q, BLOCK_K, n_tokens, window);
    Row row = {nullptr, sight.v0, sight.v1 - sight.v0};
    attend<false>(row, sight, first_block * BLOCK_Q, queries, keys, values, out, lse, n_rows, n_tokens, window, n_kv_heads, Hidden{});
}
