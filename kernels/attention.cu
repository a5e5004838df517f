// attention: softmax(q . k / sqrt(HEAD_DIM)) V over the kept key blocks (attention_sparse) or over all
// (attention_dense), and both without some pairs (attention_without, attention_dense_without).
//
// Where there are few queries, their keys are shared out: attention_sparse_parts and attention_dense_parts
// leave what each part of a row's keys gives, attention_of_parts joins them.
//
// Dense attention is the same kernel with a mask that keeps every visible block, so both are one code.
// Causal, with the layer's sliding window. Keys come tile by tile, with an online softmax: nothing of size T^2.
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
// Stands after attention_tiles.cu. Compile with -D HEAD_DIM, BLOCK_Q (16 to 128), BLOCK_K (4 to 64), SOFT_CAP
// (attention_rows.cu). Any card from sm_80.
// Reference: tests/cuda/reference.py, attention; src/engine/cpu/attend.rs

constexpr int MAX_PARTS = 1024;
constexpr int SHARES = 512 / HEAD_DIM;  // of the parts, which are joined side by side

GEOMETRY(attention_sparse, OF_ATTENTION, 1, 1, 0, 0);
GEOMETRY(attention_without, OF_ATTENTION, 1, 1, 0, 0);
GEOMETRY(attention_dense, OF_ATTENTION, 1, 1, 0, 0);
GEOMETRY(attention_dense_without, OF_ATTENTION, 1, 1, 0, 0);
GEOMETRY(attention_sparse_parts, OF_ATTENTION, 1, 1, 0, 0);
GEOMETRY(attention_dense_parts, OF_ATTENTION, 1, 1, 0, 0);
GEOMETRY(attention_of_parts, SHARES * HEAD_DIM, 1, 1, 0, 0);

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
    static constexpr bool ANY = true;
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

DEVICE void write_part(const Softmax& state, const Params& p, const Parts& parts, int part, Sight sight,
                       int row0, int query) {
#pragma unroll
    for (int j = 0; j < OF_LANE; j++) {
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
template <typename Hides>
DEVICE Softmax attend(const Params& p, Row row, Share share, Sight sight, int row0, int query, Hides hidden) {
    const KeyRows of = key_rows_of(p);
    const float* sinks = share.part ? nullptr : p.sinks;
    QueryRows<M_TILES> q;
    if (QUERY_IN_REGISTERS) load_queries(q, p, row0, query);
    Softmax state = {};
#pragma unroll
    for (int j = 0; j < OF_LANE; j++) {
        state.most[j] = sinks ? sinks[blockIdx.y] * LOG2E : -1e30f;
        state.sum[j] = count_of_sink(sinks);
    }
    for (int first = share.first; first < share.end; first += KEYS) {
        Tile tile = {row, first, sight.end_query - 1};
        Scores s;
        if (!QUERY_IN_REGISTERS) load_queries(q, p, row0, query);
        score_tile(s, q, tile, of, query, p.sizes.window, hidden);
        online_softmax(state, s);
        add_values(state, s, tile, of);
    }
    return state;
}

template <typename Hides>
DEVICE void attend_all(const Params& p, Row row, Sight sight, Hides hidden) {
    int row0 = p.rows.first_block * BLOCK_Q, query = query_of(sight);
    Share all = {0, row.count * BLOCK_K, 0};
    write_rows(attend(p, row, all, sight, row0, query, hidden), p, sight, row0, query);
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
    Softmax found = attend(p.attention, row, share, sight, row0, query, NothingHidden{});
    write_part(found, p.attention, p.parts, part, sight, row0, query);
}

// ---- kernels

KERNEL void __launch_bounds__(OF_ATTENTION, BLOCKS_OF_ATTENTION) attention_sparse(const __grid_constant__ Params p) {
    int query_block = p.rows.first_block + blockIdx.x;
    Sight sight = sight_of(query_block, p.sizes);
    attend_all(p, kept_row(p.mask, query_block, sight), sight, NothingHidden{});
}

KERNEL void __launch_bounds__(OF_ATTENTION, BLOCKS_OF_ATTENTION)
    attention_without(const __grid_constant__ AttentionWithoutParams p) {
    int query_block = p.attention.rows.first_block + blockIdx.x;
    Sight sight = sight_of(query_block, p.attention.sizes);
    attend_all(p.attention, kept_row(p.attention.mask, query_block, sight), sight, p.hidden);
}

KERNEL void __launch_bounds__(OF_ATTENTION, BLOCKS_OF_ATTENTION)
    attention_dense_without(const __grid_constant__ AttentionWithoutParams p) {
    Sight sight = sight_of(p.attention.rows.first_block + blockIdx.x, p.attention.sizes);
    attend_all(p.attention, visible_row(sight), sight, p.hidden);
}

KERNEL void __launch_bounds__(OF_ATTENTION, BLOCKS_OF_ATTENTION) attention_dense(const __grid_constant__ Params p) {
    Sight sight = sight_of(p.rows.first_block + blockIdx.x, p.sizes);
    attend_all(p, visible_row(sight), sight, NothingHidden{});
}

KERNEL void __launch_bounds__(OF_ATTENTION, BLOCKS_OF_ATTENTION)
    attention_sparse_parts(const __grid_constant__ AttentionPartsParams p) {
    int row0;
    Sight sight = sight_of_part(p, row0);
    attend_part(p, kept_row(p.attention.mask, sight.first_query / BLOCK_Q, sight), sight, row0);
}

KERNEL void __launch_bounds__(OF_ATTENTION, BLOCKS_OF_ATTENTION)
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
