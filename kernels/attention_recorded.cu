// attention_recorded: attention over the kept key blocks (attention.cu) and its record (attention_record.cu) in one
// pass over keys and values.
//
// A record takes probabilities, so each row's log-sum-exp must be there first. The hierarchical search has it of the
// rows that it rescored; where it has not that of all of a warp's queries, the keys are read once more before.
//
// attention, record  as in these two files; the record's log-sum-exps are those that attention writes
// found   [n_rows, n_heads] f32: ln sum_k exp(q . k / sqrt(HEAD_DIM)) over a row's kept keys, 0 where it is not known; or
//         null
// grid (query blocks of these rows, n_heads), one warp for 16 or 32 queries; a thread block holds top_k kept blocks
// Stands after attention_tiles.cu and received.cu. Compile with -D HEAD_DIM, BLOCK_Q (16 to 128), BLOCK_K (4 to 64),
// ANCHORS (0 or 1), ALL_KEYS=0, SOFT_CAP (attention_rows.cu). Any card from sm_80.
// Reference: tests/cuda/reference.py, attention and record; src/engine/cpu/attend.rs

GEOMETRY(attention_recorded, OF_ATTENTION, 1, 1, 0, 4);

struct AttentionRecordedParams {
    Params attention;
    Recording record;
    const float* found;
};
static_assert(sizeof(AttentionRecordedParams) == 240, "as in src/engine/cuda/params.rs");

// A warp's queries and the keys that they look at.
struct Looking {
    const Params& p;
    Row row;
    Sight sight;
    int row0, query;  // tokens of the first row and of this lane's first query
    KeyRows of;
    QueryRows<M_TILES> q;
    DEVICE void score(Scores& s, const Tile& tile) {
        if (!QUERY_IN_REGISTERS) load_queries(q, p, row0, query);
        score_tile(s, q, tile, of, query, p.sizes.window, NothingHidden{});
    }
};

// The log2-sum-exp of this lane's queries over their keys.
DEVICE void take_norms(Looking& looking, const float* found, float (&norms)[OF_LANE]) {
    bool known = found;
#pragma unroll
    for (int j = 0; found && j < OF_LANE; j++) {
        int row = min(looking.query + j * 8, looking.sight.end_query - 1) - looking.row0;
        norms[j] = found[(u64)row * gridDim.y + blockIdx.y] * LOG2E;
        known &= norms[j] != 0.0f;
    }
    if (__all_sync(~0u, known)) return;
    Softmax state = {};
#pragma unroll
    for (int j = 0; j < OF_LANE; j++) state.most[j] = -1e30f;
    for (int first = 0; first < looking.row.count * BLOCK_K; first += KEYS) {
        Scores s;
        looking.score(s, {looking.row, first, looking.sight.end_query - 1});
        online_softmax(state, s);
    }
#pragma unroll
    for (int j = 0; j < OF_LANE; j++) norms[j] = state.most[j] + log2f(quad_sum(state.sum[j]));
}

// Makes sums relative to each query's own sum, its sink included: scores become probabilities.
DEVICE void normalise(Softmax& state, const Looking& looking, const float (&norms)[OF_LANE]) {
#pragma unroll
    for (int j = 0; j < OF_LANE; j++) {
        float norm = norms[j];
        if (looking.p.sinks) {
            float sink = looking.p.sinks[blockIdx.y] * LOG2E, most = fmaxf(norm, sink);
            norm = most + log2f(exp2f(norm - most) + exp2f(sink - most));
            state.sum[j] = count_of_sink(looking.p.sinks) * exp2f(sink - norm);
        }
        state.most[j] = looking.query + j * 8 < looking.sight.end_query ? norm : infinity();
    }
}

KERNEL void __launch_bounds__(OF_ATTENTION, BLOCKS_OF_ATTENTION)
    attention_recorded(const __grid_constant__ AttentionRecordedParams p) {
    extern __shared__ float masses[];
    int query_block = p.attention.rows.first_block + blockIdx.x, top_k = top_k_of(p.attention.mask);
    for (int i = threadIdx.x; i < top_k; i += OF_ATTENTION) masses[i] = 0.0f;
    __syncthreads();
    Sight sight = sight_of(query_block, p.attention.sizes);
    Looking looking = {p.attention, kept_row(p.attention.mask, query_block, sight), sight,
                       p.attention.rows.first_block * BLOCK_Q, query_of(sight), key_rows_of(p.attention)};
    if (QUERY_IN_REGISTERS) load_queries(looking.q, p.attention, looking.row0, looking.query);
    float norms[OF_LANE];
    take_norms(looking, p.found, norms);
    Softmax state = {};
    normalise(state, looking, norms);
    const Anchored of_queries = anchored(p.record, sight);
    float mass = 0.0f;
    for (int first = 0; first < looking.row.count * BLOCK_K; first += KEYS) {
        Tile tile = {looking.row, first, sight.end_query - 1};
        Scores s;
        looking.score(s, tile);
        exponentials(state, s);
        add_tile(p.record, sight, s, of_queries, tile.row, first, mass, masses);
        add_values(state, s, tile, looking.of);
    }
    write_rows(state, p.attention, sight, looking.row0, looking.query);
    __syncthreads();
    float* to = p.record.mass + row_of_mask(p.record.mask, query_block);
    for (int i = threadIdx.x; i < top_k; i += OF_ATTENTION) to[i] = masses[i] / (sight.end_query - sight.first_query);
}
