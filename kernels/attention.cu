// attention: softmax(q . k / sqrt(HEAD_DIM)) V over the kept key blocks (attention_sparse) or over all
// (attention_dense), and both without some pairs (attention_without, attention_dense_without).
//
// Dense attention is the same kernel with a mask that keeps every visible block, so both are one code.
// Causal, with the layer's sliding window. Keys stream through shared memory in tiles with an online softmax:
// nothing of size T^2.
//
// queries [n_rows, n_heads, HEAD_DIM] bf16
// keys    [n_tokens, n_kv_heads, HEAD_DIM] bf16
// values  [n_tokens, n_kv_heads, HEAD_DIM] bf16
// mask    ignored by attention_dense and attention_dense_without
// out     [n_rows, n_heads, HEAD_DIM] bf16
// lse     [n_heads, n_rows] f32: ln (sum_k exp(q . k / sqrt(HEAD_DIM)) + exp(sink)), or null
// sinks   [n_heads] f32, or null: logits that take mass beside the keys and have no value; no cap
// hidden  [n_hidden, 6] i32: head or -1 for all, first query, end, first key, end, and 1 for pairs that stay
//         whatever else hides them; a query always sees itself
// grid (query blocks of these rows, n_heads): one warp for 16 queries
// Compile with -D HEAD_DIM, BLOCK_Q (16 to 128), BLOCK_K (4 to 64), SOFT_CAP (attention_rows.cu). Any card
// from sm_80.
// Reference: tests/cuda/reference.py, attention; src/engine/cpu/attend.rs

// Keys in flight at a time, and their blocks.
constexpr int TILE = BLOCK_K == 64 || (BLOCK_Q >= 64 && HEAD_DIM <= 128) ? 64 : 32;
constexpr int SLOTS = TILE / BLOCK_K;
constexpr int THREADS = 2 * BLOCK_Q;
constexpr int STEPS = HEAD_DIM / 16;
constexpr int ROW = HEAD_DIM * 2 + 16;  // bytes; the pad keeps ldmatrix free of bank conflicts
constexpr int STAGE = TILE * ROW;
constexpr bool QUERY_IN_SHARED = HEAD_DIM > 128;
constexpr int SHARED = 4 * STAGE + (QUERY_IN_SHARED ? BLOCK_Q * ROW : 0);

GEOMETRY(attention_sparse, THREADS, 1, 1, SHARED, 0);
GEOMETRY(attention_without, THREADS, 1, 1, SHARED, 0);
GEOMETRY(attention_dense, THREADS, 1, 1, SHARED, 0);
GEOMETRY(attention_dense_without, THREADS, 1, 1, SHARED, 0);

typedef AttentionParams<const u16*> Params;
typedef float Scores[TILE / 8][4];
typedef u32 Fragments[QUERY_IN_SHARED ? 1 : STEPS][4];

// Rectangles of pairs that are left out.
struct Hidden {
    const int* edges;
    int n_hidden;
    DEVICE bool hides(int query, int key) const {
        bool found = false;
        for (const int* e = edges; e < edges + 6 * n_hidden; e += 6) {
            bool of_head = e[0] < 0 || e[0] == (int)blockIdx.y;
            bool here = of_head && query >= e[1] && query < e[2] && key >= e[3] && key < e[4];
            if (here && e[5]) return false;
            found |= here;
        }
        return found && query != key;
    }
};
static_assert(sizeof(Hidden) == 16, "as in src/engine/cuda/params.rs");

struct AttentionWithoutParams {
    Params attention;
    Hidden hidden;
};
static_assert(sizeof(AttentionWithoutParams) == 112, "as in src/engine/cuda/params.rs");

// Of a warp's 16 queries: a lane has rows lane/4 and lane/4 + 8.
struct Softmax {
    float out[HEAD_DIM / 8][4], largest[2], sum[2];
};

// ---- phases of a tile

DEVICE void load_tile(const u16* from, Row row, int tile, const Sizes& sizes, u32 stage) {
    constexpr int CHUNKS = HEAD_DIM / 8;
    int kv_head = kv_head_of(sizes.n_kv_heads);
    for (int i = threadIdx.x; i < TILE * CHUNKS; i += THREADS) {
        int r = i / CHUNKS, slot = min(tile * SLOTS + r / BLOCK_K, row.count - 1);
        int key = min(row.block(slot) * BLOCK_K + r % BLOCK_K, sizes.n_tokens - 1);
        const u16* row_of_key = from + ((u64)key * sizes.n_kv_heads + kv_head) * HEAD_DIM;
        copy_16(stage + r * ROW + i % CHUNKS * 16, row_of_key + i % CHUNKS * 8);
    }
    copies_commit();
}

DEVICE void score_tile(Scores& s, const Fragments& query, u32 shared_query, u32 keys) {
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

// Hides pairs, where a tile has some that are hidden.
template <bool WITHOUT>
DEVICE void hide_pairs(Scores& s, Row row, Sight sight, int tile, int query, int window, Hidden hidden) {
    if (!at_edge<SLOTS>(row, sight, tile, window) && !WITHOUT) return;
    auto score = [&](int n, int i) -> float& { return s[n][i]; };
    hide<TILE>(row, tile, query, window, score, [&](int q, int k) { return WITHOUT && hidden.hides(q, k); });
}

// Turns scores into probabilities relative to the largest so far; earlier sums are rescaled to it.
DEVICE void online_softmax(Softmax& state, Scores& s, float scale) {
#pragma unroll
    for (int r = 0; r < 2; r++) {
        float largest = state.largest[r];
#pragma unroll
        for (int n = 0; n < TILE / 8; n++) largest = fmaxf(largest, fmaxf(s[n][2 * r], s[n][2 * r + 1]));
        largest = quad_max(largest);
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
        for (int n = 0; n < HEAD_DIM / 8; n++) {
            state.out[n][2 * r] *= shrink, state.out[n][2 * r + 1] *= shrink;
        }
    }
}

DEVICE void add_values(Softmax& state, const Scores& s, u32 values) {
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

// ---- before and after the tiles

// Brings a warp's queries to registers, or to shared memory where they are too many.
DEVICE void load_queries(Fragments& fragments, u8* to_shared, const Params& p, int query) {
    int row0 = p.rows.first_block * BLOCK_Q, lane = threadIdx.x % 32;
    u64 at_top = ((u64)min(query - row0, p.rows.n_rows - 1) * gridDim.y + blockIdx.y) * HEAD_DIM;
    u64 at_bottom = ((u64)min(query + 8 - row0, p.rows.n_rows - 1) * gridDim.y + blockIdx.y) * HEAD_DIM;
    const u32* top = (const u32*)(p.queries + at_top) + lane % 4;
    const u32* bottom = (const u32*)(p.queries + at_bottom) + lane % 4;
#pragma unroll
    for (int k = 0; k < STEPS; k++) {
        u32 a[4] = {top[k * 8], bottom[k * 8], top[k * 8 + 4], bottom[k * 8 + 4]};
        if (!QUERY_IN_SHARED) {
#pragma unroll
            for (int i = 0; i < 4; i++) fragments[QUERY_IN_SHARED ? 0 : k][i] = a[i];
            continue;
        }
        u32* to = (u32*)(to_shared + (threadIdx.x / 32 * 16 + lane / 4) * ROW + k * 32) + lane % 4;
        to[0] = a[0], to[4] = a[2];
        to[2 * ROW] = a[1], to[2 * ROW + 4] = a[3];  // 8 rows further
    }
}

DEVICE void write_rows(const Softmax& state, const Params& p, Sight sight, int query, float scale) {
    int row0 = p.rows.first_block * BLOCK_Q, lane = threadIdx.x % 32;
#pragma unroll
    for (int r = 0; r < 2; r++) {
        float sum = quad_sum(state.sum[r]);
        int token = query + r * 8;
        if (token >= sight.end_query) continue;
        if (p.lse && lane % 4 == 0) {
            p.lse[(u64)blockIdx.y * p.rows.n_rows + token - row0] = log_sum_exp(state.largest[r], sum, scale);
        }
        u32* to = (u32*)(p.out + ((u64)(token - row0) * gridDim.y + blockIdx.y) * HEAD_DIM) + lane % 4;
#pragma unroll
        for (int n = 0; n < HEAD_DIM / 8; n++) {
            to[n * 4] = pack_bf16(state.out[n][2 * r] / sum, state.out[n][2 * r + 1] / sum);
        }
    }
}

template <bool WITHOUT>
DEVICE void attend(const Params& p, Row row, Sight sight, Hidden hidden) {
    extern __shared__ __align__(16) u8 shared[];
    u32 stages = shared_address(shared), shared_query = stages + 4 * STAGE + threadIdx.x / 32 * 16 * ROW;
    // This lane's query; the other is query + 8.
    int query = sight.first_query + threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4;
    const float scale = LOG2E / sqrtf((float)HEAD_DIM);
    Fragments fragments;
    load_queries(fragments, shared + 4 * STAGE, p, query);
    Softmax state = {};
    state.largest[0] = state.largest[1] = sink_of(p.sinks);
    state.sum[0] = state.sum[1] = count_of_sink(p.sinks);
    int n_tiles = (row.count + SLOTS - 1) / SLOTS;
    load_tile(p.keys, row, 0, p.sizes, stages);
    load_tile(p.values, row, 0, p.sizes, stages + 2 * STAGE);
    for (int tile = 0; tile < n_tiles; tile++) {
        u32 here = stages + tile % 2 * STAGE, next = stages + (tile + 1) % 2 * STAGE;
        copies_wait<1>();
        __syncthreads();  // keys are there, and nobody reads `next` any more
        if (tile + 1 < n_tiles) load_tile(p.keys, row, tile + 1, p.sizes, next);
        else copies_commit();
        Scores s = {};
        score_tile(s, fragments, shared_query, here);
#pragma unroll
        for (int n = 0; n < TILE / 8; n++) cap_scores(s[n]);
        hide_pairs<WITHOUT>(s, row, sight, tile, query, p.sizes.window, hidden);
        online_softmax(state, s, scale);
        copies_wait<1>();
        __syncthreads();  // values are there
        if (tile + 1 < n_tiles) load_tile(p.values, row, tile + 1, p.sizes, next + 2 * STAGE);
        else copies_commit();
        add_values(state, s, here + 2 * STAGE);
    }
    write_rows(state, p, sight, query, scale);
}

// ---- kernels

KERNEL void __launch_bounds__(THREADS) attention_sparse(const __grid_constant__ Params p) {
    int query_block = p.rows.first_block + blockIdx.x;
    Sight sight = sight_of(query_block, p.sizes);
    attend<false>(p, kept_row(p.mask, query_block, sight), sight, Hidden{});
}

KERNEL void __launch_bounds__(THREADS) attention_without(const __grid_constant__ AttentionWithoutParams p) {
    int query_block = p.attention.rows.first_block + blockIdx.x;
    Sight sight = sight_of(query_block, p.attention.sizes);
    attend<true>(p.attention, kept_row(p.attention.mask, query_block, sight), sight, p.hidden);
}

KERNEL void __launch_bounds__(THREADS)
    attention_dense_without(const __grid_constant__ AttentionWithoutParams p) {
    Sight sight = sight_of(p.attention.rows.first_block + blockIdx.x, p.attention.sizes);
    attend<true>(p.attention, visible_row(sight), sight, p.hidden);
}

KERNEL void __launch_bounds__(THREADS) attention_dense(const __grid_constant__ Params p) {
    Sight sight = sight_of(p.rows.first_block + blockIdx.x, p.sizes);
    attend<false>(p, visible_row(sight), sight, Hidden{});
}
