// attention_record: the record of one layer's attention, key by key, from the mask and each row's
// log-sum-exp.
//
// p(q, key) = exp(q . key / sqrt(HEAD_DIM) - lse[q]) over kept, visible keys, or where ALL_KEYS is 1 over all
// visible keys: then only what keys receive is recorded, received and anchors.
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
// anchors   where ANCHORS is 1: limit [n_tokens] u32, first of the keys that are too near to count for a query, or
//           that are after it; weight [n_tokens] f32 (1 / tokens in the query's sentence, 0 between sentences);
//           received [n_heads, n_tokens] f32, added to: sum of p weight[q] over queries with limit[q] > key
// grid (query blocks of these rows, n_heads); a thread block holds top_k kept blocks, or where ALL_KEYS is 1
// none
// Stands after received.cu. Compile with -D HEAD_DIM, BLOCK_Q (16 to 128), BLOCK_K (4 to 64), ANCHORS,
// ALL_KEYS (0 or 1), SOFT_CAP (attention_rows.cu). Any card from sm_80. Reference: tests/cuda/reference.py,
// record; src/engine/cpu/attend.rs

constexpr int GROUP = BLOCK_K > TILE ? BLOCK_K : TILE;  // keys that one warp takes: blocks are not shared

GEOMETRY(attention_record, THREADS, 1, 1, 0, 8);

// A warp's queries; a lane's are place_of(0) to place_of(OF_LANE - 1).
struct Queries {
    QueryRows<M_TILES> rows;
    float base[OF_LANE];  // log2-sum-exp, infinite past the prompt
};

DEVICE void load_queries(Queries& q, const Recording& p, Sight sight) {
    int row0 = p.rows.first_block * BLOCK_Q;
#pragma unroll
    for (int j = 0; j < OF_LANE; j++) {
        int token = sight.first_query + place_of(j), row = min(token, sight.end_query - 1) - row0;
        bool valid = token < sight.end_query;
        q.rows.load(j, p.queries + ((u64)row * gridDim.y + blockIdx.y) * HEAD_DIM, [](u32) {});
        q.base[j] = valid ? p.lse[(u64)blockIdx.y * p.rows.n_rows + row] * LOG2E : infinity();
    }
}

// Probabilities of this lane's queries and two keys.
DEVICE Products probabilities_of(const Recording& p, Sight sight, const Queries& q, const RowPart& row, int key) {
    const float scale = LOG2E / sqrtf((float)HEAD_DIM);
    Products found = multiply_rows(q.rows, row);
    int window = p.sizes.window,
        first = window > 0 ? sight.end_query - window : 0;  // of the keys that all see
    bool all = __all_sync(~0u, key >= first && key < sight.first_query);
#pragma unroll
    for (int i = 0; i < 2 * OF_LANE; i++) {
        float& x = found.of[i / 4][i % 4];
        x = exp2_fast(fmaf(soft_cap(x), scale, -q.base[i / 2]));
        if (!all && !sees(sight.first_query + place_of(i / 2), key + i % 2, window)) x = 0.0f;
    }
    return found;
}

DEVICE void add_all(const Recording& p, Sight sight, const Queries& q, Row row, float* masses) {
    u32 stride = p.sizes.n_kv_heads * HEAD_DIM;
    const u16* all = p.keys + kv_head_of(p.sizes.n_kv_heads) * HEAD_DIM + threadIdx.x % 4 * 8;
    const Anchored of_queries = anchored(p, sight);
    float mass = 0.0f;
    int n_keys = row.count * BLOCK_K;
    for (int group = threadIdx.x / 32 / WARPS_Q * GROUP; group < n_keys; group += WARPS_N * GROUP) {
        for (int first = group; first < min(group + GROUP, n_keys); first += TILE) {
            RowPart rows[2];
            Products found[2];
#pragma unroll
            for (int e = 0; e < 2; e++) {
                u32 at = first + e * 8 + threadIdx.x % 32 / 4, slot = min(at / BLOCK_K, row.count - 1);
                u32 key = min(row.block(slot) * BLOCK_K + at % BLOCK_K, p.sizes.n_tokens - 1);
                rows[e].load(all + (u64)key * stride);
            }
#pragma unroll
            for (int e = 0; e < 2; e++) {
                found[e] = probabilities_of(p, sight, q, rows[e], first_key(row, first, e));
            }
            add_tile(p, sight, found, of_queries, row, first, mass, masses);
        }
    }
}

KERNEL void __launch_bounds__(THREADS, MIN_BLOCKS) attention_record(const __grid_constant__ Recording p) {
    extern __shared__ __align__(16) u8 shared[];
    int query_block = p.rows.first_block + blockIdx.x, top_k = ALL_KEYS ? 0 : top_k_of(p.mask);
    u32* kept = (u32*)shared;
    float* masses = (float*)(kept + top_k);
    Sight sight = sight_of(query_block, p.sizes);
    Row row = ALL_KEYS ? visible_row(sight) : kept_row(p.mask, query_block, sight);
    for (int i = threadIdx.x; i < top_k; i += THREADS)
        kept[i] = i < row.count ? row.kept[i] : NONE, masses[i] = 0.0f;
    if (!ALL_KEYS) row.kept = kept;
    __syncthreads();
    Queries q;
    load_queries(q, p, sight);
    add_all(p, sight, q, row, masses);
    __syncthreads();
    float* mass = ALL_KEYS ? nullptr : p.mass + row_of_mask(p.mask, query_block);
    for (int i = threadIdx.x; i < top_k; i += THREADS)
        mass[i] = masses[i] / (sight.end_query - sight.first_query);
}
