// attention: softmax(q . k / sqrt(HEAD_DIM)) V over the kept key blocks (attention_sparse) or over all
// (attention_dense), and both without some pairs (attention_without, attention_dense_without).
//
// Where there are few queries, their keys are shared out: attention_sparse_parts and attention_dense_parts
// leave what each part of a row's keys gives, attention_of_parts joins them.
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
// parts   outs [n_parts, n_rows, n_heads, HEAD_DIM] f32, nothing where a part has no key that the query sees;
//         lses [n_parts, n_heads, n_rows] f32, which is -infinity there; the sink is in the first
// grid (query blocks of these rows, n_heads): one warp for 16 or 32 queries; where keys are in parts (query
// blocks * n_parts, n_heads), n_parts at most MAX_PARTS; attention_of_parts (n_rows, n_heads)
// Compile with -D HEAD_DIM, BLOCK_Q (16 to 128), BLOCK_K (4 to 64), SOFT_CAP (attention_rows.cu). Any card
// from sm_80.
// Reference: tests/cuda/reference.py, attention; src/engine/cpu/attend.rs

constexpr int KEYS = 16;                                    // a warp takes at a time
constexpr int M = BLOCK_Q > 16 && HEAD_DIM <= 128 ? 2 : 1;  // times 16 queries a warp has
constexpr int ROWS = 2 * M;                                 // of them, in a lane: lane / 4, lane / 4 + 8, ...
constexpr int THREADS = 2 * BLOCK_Q / M;
constexpr int MIN_BLOCKS = larger((HEAD_DIM > 64 ? 256 : 384) / THREADS, 1);  // on a multiprocessor
constexpr bool QUERY_IN_REGISTERS = HEAD_DIM <= 128;
constexpr int MAX_PARTS = 1024;
constexpr int SHARES = 512 / HEAD_DIM;  // of the parts, which are joined side by side

// Values are taken in groups: of each a lane takes WIDE neighbouring dimensions of its keys, which are columns
// of as many products. So column n of product t has dimension 8 WIDE group + WIDE n + t.
constexpr int WIDE = HEAD_DIM % 64 ? 4 : 8;
constexpr int GROUPS = HEAD_DIM / 8 / WIDE;

GEOMETRY(attention_sparse, THREADS, 1, 1, 0, 0);
GEOMETRY(attention_without, THREADS, 1, 1, 0, 0);
GEOMETRY(attention_dense, THREADS, 1, 1, 0, 0);
GEOMETRY(attention_dense_without, THREADS, 1, 1, 0, 0);
GEOMETRY(attention_sparse_parts, THREADS, 1, 1, 0, 0);
GEOMETRY(attention_dense_parts, THREADS, 1, 1, 0, 0);
GEOMETRY(attention_of_parts, SHARES * HEAD_DIM, 1, 1, 0, 0);

typedef AttentionParams<const u16*> Params;

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

struct Parts {
    float *outs, *lses;
    int n_parts;
};
static_assert(sizeof(Parts) == 24, "as in src/engine/cuda/params.rs");

struct AttentionPartsParams {
    Params attention;
    Parts parts;
    const Place* place;  // of the one query block or some of its rows; or null
};
static_assert(sizeof(AttentionPartsParams) == 128, "as in src/engine/cuda/params.rs");

// Keys [first, end) of a query block's row, and which part of them they are.
struct Share {
    int first, end, part;
};

// Products as the tensor cores leave them, of row j and column c of two neighbours.
typedef float Scores[2][M][4];

// Of a lane's queries. Sums are relative to 2^most, any number that is near enough to the row's largest
// product.
struct Softmax {
    float out[M][GROUPS][WIDE][4], most[ROWS], sum[ROWS];
};

// A lane's keys: key `i` of a tile's 16, as rows to multiply with, and those that its products belong to, 2
// (lane % 4) and the next of each eight.
struct Tile {
    Row row;
    int first, last_token;
    // Where key i lies; of those past the row's end the last one.
    DEVICE u32 key(int i) const {
        u32 at = first + i, slot = min(at / BLOCK_K, row.count - 1);
        return min(row.block(slot) * BLOCK_K + at % BLOCK_K, last_token);
    }
    // The first of the lane's two keys of eight; past the row's end unseen.
    DEVICE int own(int eight) const {
        u32 at = first + eight * 8 + threadIdx.x % 4 * 2;
        return key_of(row, at / BLOCK_K, at % BLOCK_K);
    }
};

// ---- phases of a tile

// `row0` is the token of the first row of the queries.
DEVICE void load_queries(QueryRows<M>& q, const Params& p, int row0, int query) {
#pragma unroll
    for (int j = 0; j < ROWS; j++) {
        u64 row = max(min(query + j * 8 - row0, p.rows.n_rows - 1), 0);
        q.load(j, p.queries + (row * gridDim.y + blockIdx.y) * HEAD_DIM, [](u32) {});
    }
}

// Products of the queries with the tile's keys, of each eight; hidden ones are -infinity.
template <bool WITHOUT>
DEVICE void score_tile(Scores& s, const QueryRows<M>& q, const Tile& tile, const u16* keys, u32 stride,
                       int query, int window, Hidden hidden) {
    RowPart rows[2];
#pragma unroll
    for (int e = 0; e < 2; e++) rows[e].load(keys + (u64)tile.key(e * 8 + threadIdx.x % 32 / 4) * stride);
    int first = query - (int)threadIdx.x % 32 / 4;  // of the warp's queries
#pragma unroll
    for (int e = 0; e < 2; e++) {
        ProductsOf<M> found = multiply_rows(q, rows[e]);
        int key = tile.own(e);
        bool all = __all_sync(~0u, key < first && (window <= 0 || key > first + 16 * M - 1 - window));
#pragma unroll
        for (int i = 0; i < 2 * ROWS; i++) {
            float& x = s[e][i / 4][i % 4];
            x = soft_cap(found.of[i / 4][i % 4]);
            int token = query + i / 2 * 8;
            bool hides = (WITHOUT || !all) &&
                         (!sees(token, key + i % 2, window) || (WITHOUT && hidden.hides(token, key + i % 2)));
            if (hides) x = -infinity();
        }
    }
}

// Makes `most` what the largest product so far asks for.
DEVICE void raise(Softmax& state, const Scores& s, float scale) {
#pragma unroll
    for (int j = 0; j < ROWS; j++) {
        auto score = [&](int e, int c) { return s[e][j / 2][j % 2 * 2 + c]; };
        float largest = fmaxf(fmaxf(score(0, 0), score(0, 1)), fmaxf(score(1, 0), score(1, 1)));
        float most = fmaxf(state.most[j], quad_max(largest) * scale), shrink = exp2_fast(state.most[j] - most);
        state.most[j] = most, state.sum[j] *= shrink;
#pragma unroll
        for (int i = 0; i < 2 * GROUPS * WIDE; i++) {
            state.out[j / 2][i / 2 / WIDE][i / 2 % WIDE][j % 2 * 2 + i % 2] *= shrink;
        }
    }
}

// Turns scores into probabilities relative to 2^most.
DEVICE void online_softmax(Softmax& state, Scores& s, float scale) {
    float largest = -infinity();
#pragma unroll
    for (int i = 0; i < 4 * ROWS; i++) {
        int j = i / 2 % ROWS;
        largest = fmaxf(largest, fmaf(s[i / 2 / ROWS][j / 2][j % 2 * 2 + i % 2], scale, -state.most[j]));
    }
    if (__any_sync(~0u, largest > 32.0f)) raise(state, s, scale);
#pragma unroll
    for (int i = 0; i < 4 * ROWS; i++) {
        int j = i / 2 % ROWS;
        float& x = s[i / 2 / ROWS][j / 2][j % 2 * 2 + i % 2];
        x = exp2_fast(fmaf(x, scale, -state.most[j]));
        state.sum[j] += x;
    }
}

// A lane's dimensions of a group of one key's values.
struct Values {
    u32 pairs[WIDE / 2];
    DEVICE void load(const u16* from) {
        if constexpr (WIDE == 8) {
            uint4 v = load_16(from);
            pairs[0] = v.x, pairs[1] = v.y, pairs[2] = v.z, pairs[3] = v.w;
        } else {
            uint2 v = *(const uint2*)from;
            pairs[0] = v.x, pairs[1] = v.y;
        }
    }
};

// Dimension t of two keys.
DEVICE u32 both(const Values& a, const Values& b, int t) {
    return __byte_perm(a.pairs[t / 2], b.pairs[t / 2], t % 2 ? 0x7632 : 0x5410);
}

DEVICE void add_values(Softmax& state, const Scores& s, const Tile& tile, const u16* values, u32 stride) {
    u32 a[M][4];
#pragma unroll
    for (int i = 0; i < 4 * M; i++) {
        const float* two = &s[i % 4 / 2][i / 4][i % 2 * 2];
        a[i / 4][i % 4] = pack_bf16(two[0], two[1]);
    }
    const u16* from[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
        from[i] = values + (u64)tile.key(i / 2 * 8 + threadIdx.x % 4 * 2 + i % 2) * stride;
    }
#pragma unroll
    for (int g = 0; g < GROUPS; g++) {
        Values v[4];
#pragma unroll
        for (int i = 0; i < 4; i++) v[i].load(from[i] + g * 8 * WIDE);
#pragma unroll
        for (int t = 0; t < WIDE; t++) {
            u32 first = both(v[0], v[1], t), second = both(v[2], v[3], t);
#pragma unroll
            for (int m = 0; m < M; m++) multiply(state.out[m][g][t], a[m], first, second);
        }
    }
}

// ---- all tiles

// Calls `write(pair, at)` with pairs of neighbouring dimensions of row j, the first of which is `at`.
template <typename Write>
DEVICE void each_pair(const Softmax& state, int j, float sum, Write write) {
#pragma unroll
    for (int i = 0; i < GROUPS * WIDE; i++) {
        const float (&of)[WIDE][4] = state.out[j / 2][i / WIDE];
        int column = j % 2 * 2 + i % WIDE / (WIDE / 2), t = i % (WIDE / 2) * 2;
        int at = i / WIDE * 8 * WIDE + threadIdx.x % 4 * 2 * WIDE + i % WIDE * 2;
        write(make_float2(of[t][column] / sum, of[t + 1][column] / sum), at);
    }
}

DEVICE void write_rows(const Softmax& state, const Params& p, Sight sight, int row0, int query) {
#pragma unroll
    for (int j = 0; j < ROWS; j++) {
        float sum = quad_sum(state.sum[j]);
        int token = query + j * 8;
        if (token >= sight.end_query) continue;
        if (p.lse && threadIdx.x % 4 == 0) {
            p.lse[(u64)blockIdx.y * p.rows.n_rows + token - row0] = (state.most[j] + log2f(sum)) / LOG2E;
        }
        u16* to = p.out + ((u64)(token - row0) * gridDim.y + blockIdx.y) * HEAD_DIM;
        each_pair(state, j, sum, [&](float2 x, int at) { *(u32*)(to + at) = pack_bf16(x.x, x.y); });
    }
}

DEVICE void write_part(const Softmax& state, const Params& p, const Parts& parts, int part, Sight sight,
                       int row0, int query) {
#pragma unroll
    for (int j = 0; j < ROWS; j++) {
        float sum = quad_sum(state.sum[j]);
        int token = query + j * 8;
        if (token < row0 || token >= sight.end_query) continue;
        u64 row = (u64)part * p.rows.n_rows, head = blockIdx.y;
        if (threadIdx.x % 4 == 0) {
            float lse = sum > 0.0f ? (state.most[j] + log2f(sum)) / LOG2E : -infinity();
            parts.lses[row * gridDim.y + head * p.rows.n_rows + token - row0] = lse;
        }
        if (sum == 0.0f) continue;
        float* to = parts.outs + ((row + token - row0) * gridDim.y + head) * HEAD_DIM;
        each_pair(state, j, sum, [&](float2 x, int at) { *(float2*)(to + at) = x; });
    }
}

// Attention of this warp's queries, of which the lane's first is `query`, to the keys of a share.
template <bool WITHOUT>
DEVICE Softmax attend(const Params& p, Row row, Share share, Sight sight, int row0, int query, Hidden hidden) {
    const float scale = LOG2E / sqrtf((float)HEAD_DIM);
    u32 stride = p.sizes.n_kv_heads * HEAD_DIM, of_head = kv_head_of(p.sizes.n_kv_heads) * HEAD_DIM;
    const u16 *keys = p.keys + of_head + threadIdx.x % 4 * 8,
              *values = p.values + of_head + threadIdx.x % 32 / 4 * WIDE;
    const float* sinks = share.part ? nullptr : p.sinks;
    QueryRows<M> q;
    if (QUERY_IN_REGISTERS) load_queries(q, p, row0, query);
    Softmax state = {};
#pragma unroll
    for (int j = 0; j < ROWS; j++) {
        state.most[j] = sinks ? sinks[blockIdx.y] * LOG2E : -1e30f;
        state.sum[j] = count_of_sink(sinks);
    }
    for (int first = share.first; first < share.end; first += KEYS) {
        Tile tile = {row, first, sight.end_query - 1};
        Scores s;
        if (!QUERY_IN_REGISTERS) load_queries(q, p, row0, query);
        score_tile<WITHOUT>(s, q, tile, keys, stride, query, p.sizes.window, hidden);
        online_softmax(state, s, scale);
        add_values(state, s, tile, values, stride);
    }
    return state;
}

// This lane's first query; others are 8, 16 and 24 after it.
DEVICE int query_of(Sight sight) {
    return sight.first_query + threadIdx.x / 32 * 16 * M + threadIdx.x % 32 / 4;
}

template <bool WITHOUT>
DEVICE void attend_all(const Params& p, Row row, Sight sight, Hidden hidden) {
    int row0 = p.rows.first_block * BLOCK_Q, query = query_of(sight);
    Share all = {0, row.count * BLOCK_K, 0};
    write_rows(attend<WITHOUT>(p, row, all, sight, row0, query, hidden), p, sight, row0, query);
}

// What this thread block's query block sees, and the token of the first row of the queries.
DEVICE Sight sight_of_part(const AttentionPartsParams& p, int& row0) {
    Sizes sizes = p.attention.sizes;
    int first_block = p.attention.rows.first_block;
    row0 = first_block * BLOCK_Q;
    if (p.place) {
        row0 = p.place->first_row, first_block = row0 / BLOCK_Q;
        sizes.n_tokens = row0 + p.attention.rows.n_rows;
    }
    return sight_of(first_block + blockIdx.x / p.parts.n_parts, sizes);
}

DEVICE void attend_part(const AttentionPartsParams& p, Row row, Sight sight, int row0) {
    int n_parts = p.parts.n_parts, part = blockIdx.x % n_parts, query = query_of(sight);
    int n_tiles = (row.count * BLOCK_K + KEYS - 1) / KEYS, n = (n_tiles + n_parts - 1) / n_parts;
    Share share = {part * n * KEYS, min((part + 1) * n, n_tiles) * KEYS, part};
    Softmax found = attend<false>(p.attention, row, share, sight, row0, query, Hidden{});
    write_part(found, p.attention, p.parts, part, sight, row0, query);
}

// ---- kernels

KERNEL void __launch_bounds__(THREADS, MIN_BLOCKS) attention_sparse(const __grid_constant__ Params p) {
    int query_block = p.rows.first_block + blockIdx.x;
    Sight sight = sight_of(query_block, p.sizes);
    attend_all<false>(p, kept_row(p.mask, query_block, sight), sight, Hidden{});
}

KERNEL void __launch_bounds__(THREADS, MIN_BLOCKS)
    attention_without(const __grid_constant__ AttentionWithoutParams p) {
    int query_block = p.attention.rows.first_block + blockIdx.x;
    Sight sight = sight_of(query_block, p.attention.sizes);
    attend_all<true>(p.attention, kept_row(p.attention.mask, query_block, sight), sight, p.hidden);
}

KERNEL void __launch_bounds__(THREADS, MIN_BLOCKS)
    attention_dense_without(const __grid_constant__ AttentionWithoutParams p) {
    Sight sight = sight_of(p.attention.rows.first_block + blockIdx.x, p.attention.sizes);
    attend_all<true>(p.attention, visible_row(sight), sight, p.hidden);
}

KERNEL void __launch_bounds__(THREADS, MIN_BLOCKS) attention_dense(const __grid_constant__ Params p) {
    Sight sight = sight_of(p.rows.first_block + blockIdx.x, p.sizes);
    attend_all<false>(p, visible_row(sight), sight, Hidden{});
}

KERNEL void __launch_bounds__(THREADS, MIN_BLOCKS)
    attention_sparse_parts(const __grid_constant__ AttentionPartsParams p) {
    int row0;
    Sight sight = sight_of_part(p, row0);
    attend_part(p, kept_row(p.attention.mask, sight.first_query / BLOCK_Q, sight), sight, row0);
}

KERNEL void __launch_bounds__(THREADS, MIN_BLOCKS)
    attention_dense_parts(const __grid_constant__ AttentionPartsParams p) {
    int row0;
    Sight sight = sight_of_part(p, row0);
    attend_part(p, visible_row(sight), sight, row0);
}

// One row of one head; a thread has one of its dimensions, of a share of the parts.
KERNEL void attention_of_parts(const __grid_constant__ AttentionPartsParams p) {
    __shared__ float weights[MAX_PARTS], sums[SHARES], merged[SHARES][HEAD_DIM], largest;
    int n_parts = p.parts.n_parts, n_rows = p.attention.rows.n_rows;
    int dim = threadIdx.x % HEAD_DIM, share = threadIdx.x / HEAD_DIM;
    u64 row = blockIdx.x, head = blockIdx.y, part = (u64)gridDim.y * n_rows;
    const float* lses = p.parts.lses + head * n_rows + row;
    const float* outs = p.parts.outs + (row * gridDim.y + head) * HEAD_DIM + dim;
    if (threadIdx.x < 32) {
        float most = -infinity();
        for (int i = threadIdx.x; i < n_parts; i += 32) most = fmaxf(most, lses[i * part]);
        most = warp_max(most);
        if (threadIdx.x == 0) largest = most;
    }
    __syncthreads();
    float most = largest, sum = 0.0f, out = 0.0f;
    for (int i = threadIdx.x; i < n_parts; i += SHARES * HEAD_DIM) {
        weights[i] = exp2f((lses[i * part] - most) * LOG2E);
    }
    __syncthreads();
#pragma unroll 8
    for (int i = share; i < n_parts; i += SHARES) {
        float weight = weights[i];
        sum += weight;
        if (weight > 0.0f) out = fmaf(weight, outs[i * part * HEAD_DIM], out);
    }
    merged[share][dim] = out;
    if (dim == 0) sums[share] = sum;
    __syncthreads();
    if (share) return;
#pragma unroll
    for (int i = 1; i < SHARES; i++) out += merged[i][dim], sum += sums[i];
    p.attention.out[(row * gridDim.y + head) * HEAD_DIM + dim] = to_bf16(out / sum);
    if (p.attention.lse && dim == 0) p.attention.lse[head * n_rows + row] = most + log2f(sum) / LOG2E;
}
