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
// anchors   where ANCHORS is 1: sentence [n_tokens] u32, non-decreasing but for 0 between sentences; weight
//           [n_tokens] f32 (1 / tokens in the query's sentence, 0 between sentences); received [n_heads,
//           n_tokens] f32, added to: sum of p weight[q] over queries with sentence[q] >= sentence[key] +
//           distance
// grid (query blocks of these rows, n_heads); a thread block holds top_k kept blocks, or where ALL_KEYS is 1
// none
// Stands after query_block.cu. Compile with -D HEAD_DIM, BLOCK_Q (16 to 128), BLOCK_K (4 to 64), ANCHORS,
// ALL_KEYS (0 or 1), SOFT_CAP (attention_rows.cu). Any card from sm_80. Reference: tests/cuda/reference.py,
// record; src/engine/cpu/attend.rs

constexpr int BATCHES = HEAD_DIM > 128 ? 1 : 2;  // in flight at a time
constexpr int GROUP =
    BLOCK_K / 8 > BATCHES ? BLOCK_K / 8 : BATCHES;    // batches that one warp takes: blocks are not shared
constexpr int LANES = BLOCK_K < 8 ? BLOCK_K / 2 : 4;  // of a quad, that have keys of the same block

GEOMETRY(attention_record, THREADS, 1, 1, 0, 8);

typedef RecordParams<const u16*> Params;

// A warp's queries; a lane's are place_of(0) to place_of(OF_LANE - 1).
struct Queries {
    QueryRows<M_TILES> rows;
    float base[OF_LANE];  // log2-sum-exp, infinite past the prompt
    float weight[OF_LANE];
    int sentence[OF_LANE];  // the last one that counts
};

// A lane's two keys of a batch, `key` and the next.
struct Keys {
    int slot, place, key;
    bool exist;  // in the row of kept blocks
};

DEVICE Keys keys_of(Row row, int batch) {
    u32 at = batch * 8 + threadIdx.x % 4 * 2;
    int slot = at / BLOCK_K, place = at % BLOCK_K;
    return {slot, place, key_of(row, slot, place), slot < row.count};
}

// Their sentences; a key that is not there has one that no query counts.
DEVICE uint2 sentences_of(const Params& p, Keys keys) {
    uint2 none = {UNSEEN, UNSEEN};
    if (!ANCHORS || keys.key >= p.sizes.n_tokens) return none;
    const u32* sentence = p.anchors.sentence + keys.key;
    if (keys.key + 1 < p.sizes.n_tokens) return *(const uint2*)sentence;
    return {*sentence, UNSEEN};
}

DEVICE void load_queries(Queries& q, const Params& p, Sight sight) {
    int row0 = p.rows.first_block * BLOCK_Q;
#pragma unroll
    for (int j = 0; j < OF_LANE; j++) {
        int token = sight.first_query + place_of(j), row = min(token, sight.end_query - 1) - row0;
        bool valid = token < sight.end_query;
        q.rows.load(j, p.queries + ((u64)row * gridDim.y + blockIdx.y) * HEAD_DIM, [](u32) {});
        q.base[j] = valid ? p.lse[(u64)blockIdx.y * p.rows.n_rows + row] * LOG2E : infinity();
        q.weight[j] = ANCHORS && valid ? p.anchors.weight[token] : 0.0f;
        q.sentence[j] = ANCHORS && valid ? (int)p.anchors.sentence[token] - p.anchors.distance : -1;
    }
}

// Probabilities of this lane's queries and two keys.
DEVICE Products probabilities_of(const Params& p, Sight sight, const Queries& q, const RowPart& row, int key) {
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

// Writes the probabilities of focus tokens.
DEVICE void write_focus(const Params& p, Sight sight, const Products& found, Keys keys) {
#pragma unroll
    for (int i = 0; i < 2 * OF_LANE; i++) {
        int token = sight.first_query + place_of(i / 2);
        if (token < p.focus.first || token >= min(p.focus.end, sight.end_query) || !keys.exist) continue;
        u64 row = row_of_head(p.mask, token - p.focus.first, p.focus.end - p.focus.first);
        p.focus.rows[(row + keys.slot) * BLOCK_K + keys.place + i % 2] = found.of[i / 4][i % 4];
    }
}

// The sum over a warp's queries of what each key gets, in lanes 0 to 7: of the first of a lane's keys, in
// lanes 4 to 7 of the second of theirs four lanes before.
template <typename Value>
DEVICE float sum_of_keys(Value value) {
    float sums[2] = {};
#pragma unroll
    for (int i = 0; i < 2 * OF_LANE; i++) sums[i % 2] += value(i);
    fold<2>(sums, 4);
    sums[0] += exchanged(sums[0], 8);
    return sums[0] + exchanged(sums[0], 16);
}

// Adds what a batch's keys get where it belongs; returns what lanes 0 to 7 have of their blocks.
DEVICE float add_batch(const Params& p, Sight sight, const Queries& q, const Products& found, Keys keys,
                       uint2 sentences) {
    float sum = sum_of_keys([&](int i) { return found.of[i / 4][i % 4]; }), anchor = 0.0f;
    int n_tokens = p.sizes.n_tokens;
    if (ANCHORS) {
        anchor = sum_of_keys([&](int i) {
            int sentence = i % 2 ? sentences.y : sentences.x;
            return sentence <= q.sentence[i / 2] ? found.of[i / 4][i % 4] * q.weight[i / 2] : 0.0f;
        });
    }
    if (!ALL_KEYS && p.focus.end > sight.first_query && p.focus.first < sight.end_query) {
        write_focus(p, sight, found, keys);
    }
    int place = keys.place + threadIdx.x / 4 % 2, key = keys.key + threadIdx.x / 4 % 2;
    if (threadIdx.x % 32 >= 8 || !keys.exist || key >= n_tokens) return 0.0f;
    if (p.received) atomicAdd(&p.received[(u64)blockIdx.y * n_tokens + key], sum);
    if (ANCHORS) atomicAdd(&p.anchors.received[(u64)blockIdx.y * n_tokens + key], anchor);
    if (ALL_KEYS || !p.shares) return sum;
    float* share =
        &p.shares[row_of_head(p.mask, blockIdx.x, gridDim.x) * BLOCK_K + keys.slot * BLOCK_K + place];
    if (WARPS_Q == 1) *share = sum;
    else atomicAdd(share, sum);
    return sum;
}

// Adds up a block's mass; lanes 0 to 7 have parts of it.
DEVICE void add_mass(float sum, Row row, int batch, float* sums) {
    sum += exchanged(sum, 4);
    sum += exchanged(sum, 1);
    if (LANES == 4) sum += exchanged(sum, 2);
    int slot = keys_of(row, batch).slot;
    if (threadIdx.x % 32 >= 4 || threadIdx.x % LANES > 0 || slot >= row.count) return;
    if (WARPS_Q == 1) sums[slot] = sum;
    else atomicAdd(&sums[slot], sum);
}

DEVICE void add_all(const Params& p, Sight sight, const Queries& q, Row row, float* sums) {
    u32 stride = p.sizes.n_kv_heads * HEAD_DIM;
    const u16* all = p.keys + kv_head_of(p.sizes.n_kv_heads) * HEAD_DIM + threadIdx.x % 4 * 8;
    int n_batches = (row.count * BLOCK_K + 7) / 8;
    for (int group = threadIdx.x / 32 / WARPS_Q * GROUP; group < n_batches; group += WARPS_N * GROUP) {
        float sum = 0.0f;
        for (int first = group; first < group + GROUP && first < n_batches; first += BATCHES) {
            RowPart rows[BATCHES];
            uint2 sentences[BATCHES];
#pragma unroll
            for (int b = 0; b < BATCHES; b++) {
                u32 at = (first + b) * 8 + threadIdx.x % 32 / 4, slot = min(at / BLOCK_K, row.count - 1);
                u32 key = min(row.block(slot) * BLOCK_K + at % BLOCK_K, p.sizes.n_tokens - 1);
                rows[b].load(all + (u64)key * stride);
                sentences[b] = sentences_of(p, keys_of(row, first + b));
            }
#pragma unroll
            for (int b = 0; b < BATCHES; b++) {
                Keys keys = keys_of(row, first + b);
                Products found = probabilities_of(p, sight, q, rows[b], keys.key);
                sum += add_batch(p, sight, q, found, keys, sentences[b]);
                if (ALL_KEYS || ((first + b + 1) * 8 % BLOCK_K > 0 && BLOCK_K > 8)) continue;
                add_mass(sum, row, first + b, sums);
                sum = 0.0f;
            }
        }
    }
}

KERNEL void __launch_bounds__(THREADS, MIN_BLOCKS) attention_record(const __grid_constant__ Params p) {
    extern __shared__ __align__(16) u8 shared[];
    int query_block = p.rows.first_block + blockIdx.x, top_k = ALL_KEYS ? 0 : top_k_of(p.mask);
    u32* kept = (u32*)shared;
    float* sums = (float*)(kept + top_k);
    Sight sight = sight_of(query_block, p.sizes);
    Row row = ALL_KEYS ? visible_row(sight) : kept_row(p.mask, query_block, sight);
    for (int i = threadIdx.x; i < top_k; i += THREADS)
        kept[i] = i < row.count ? row.kept[i] : NONE, sums[i] = 0.0f;
    if (!ALL_KEYS) row.kept = kept;
    __syncthreads();
    Queries q;
    load_queries(q, p, sight);
    add_all(p, sight, q, row, sums);
    __syncthreads();
    float* mass = ALL_KEYS ? nullptr : p.mass + row_of_mask(p.mask, query_block);
    for (int i = threadIdx.x; i < top_k; i += THREADS)
        mass[i] = sums[i] / (sight.end_query - sight.first_query);
}
