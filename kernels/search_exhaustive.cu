// search_exhaustive: the key blocks that get the largest share of a query's attention, every key read: the
// reference. O(T^2) time for all queries, O(T) for the last ones.
//
// exhaustive_norms, then exhaustive_scores: score(block) = max over the query block's queries of the share of
// its attention to the visible keys that falls on the key block. The keys come in segments, so that few
// queries keep a whole card busy; the norms of a segment are its own until the scores join them.
// exhaustive_select: always kept blocks as in search_hierarchical.cu, then the best of the others; ties: the
// lower block wins. Reference: src/engine/cpu/search/exhaustive.rs.
//
// queries [n_rows, n_heads, HEAD_DIM] bf16, row 0 is the first token of query block `first_block`
// keys    [n_tokens, n_kv_heads, HEAD_DIM] bf16
// norms   [n_heads, query blocks of this launch, n_segments, BLOCK_Q] f32
// scores  [n_heads, query blocks of this launch, n_key_blocks] u32: floats as integers in their order, of
//         candidates only
// mask    written by exhaustive_select
// grid norms and scores (query blocks of this launch * n_segments, n_heads), select (query blocks of this
// launch, n_heads)
// Stands after segments.cu. Compile with -D HEAD_DIM, BLOCK_Q (16 to 128), BLOCK_K (4 to 64),
// ESTIMATE=FIRST.

constexpr int SELECT_THREADS = 256;  // one for each value of a byte

GEOMETRY(exhaustive_norms, THREADS, 1, 1, SETTLING, 0);
GEOMETRY(exhaustive_scores, THREADS, 1, 1, SETTLING, 0);
GEOMETRY(exhaustive_select, SELECT_THREADS, 1, 1, 0, 0);

struct ExhaustiveParams {
    const u16 *queries, *keys;
    float* norms;
    u32* scores;
    Mask mask;
    Sizes sizes;
    Rule rule;
    int n_segments, first_block;
};
static_assert(sizeof(ExhaustiveParams) == 88, "as in src/engine/cuda/params.rs");

// What a thread block of exhaustive_norms and exhaustive_scores works on.
struct Part {
    Sight sight;
    Candidates candidates;
    DEVICE bool competes() const {
        return candidates.end_column - candidates.first_column > candidates.budget && candidates.budget > 0;
    }
};

DEVICE Part part_of(const ExhaustiveParams& p) {
    Part part;
    part.sight = sight_of(p.first_block + blockIdx.x / p.n_segments, p.sizes);
    part.candidates = candidates_of(part.sight, p.rule, top_k_of(p.mask));
    return part;
}

KERNEL void __launch_bounds__(THREADS, MIN_BLOCKS)
    exhaustive_norms(const __grid_constant__ ExhaustiveParams p) {
    extern __shared__ __align__(16) u8 shared[];
    Part part = part_of(p);
    if (!part.competes()) return;
    int n_segments = p.n_segments;
    Queries q;
    load_queries(q, p.queries, part.sight, p.first_block * BLOCK_Q, shared);
    Search s = search_of(p.keys, Nodes{}, p.sizes, part.candidates);
    int2 segment = segment_of(part.sight.first_column, part.sight.end_column, n_segments);
    pass_over<KEY_NORMS>(s, segment, q, shared, [](int, u32) {});
    settle_norms(q, shared);
    write_norms(q, norms_of(p.norms, n_segments), n_segments);
}

KERNEL void __launch_bounds__(THREADS, MIN_BLOCKS)
    exhaustive_scores(const __grid_constant__ ExhaustiveParams p) {
    extern __shared__ __align__(16) u8 shared[];
    Part part = part_of(p);
    if (!part.competes()) return;
    int n_key_blocks = (p.sizes.n_tokens + BLOCK_K - 1) / BLOCK_K, n_segments = p.n_segments;
    Queries q;
    load_queries(q, p.queries, part.sight, p.first_block * BLOCK_Q, shared);
    join_norms(q, norms_of(p.norms, n_segments), n_segments);
    Search s = search_of(p.keys, Nodes{}, p.sizes, part.candidates);
    u64 query_block = (u64)blockIdx.y * (gridDim.x / n_segments) + blockIdx.x / n_segments;
    u32* out = p.scores + query_block * n_key_blocks;
    int2 segment = segment_of(part.candidates.first_column, part.candidates.end_column, n_segments);
    pass_over<KEY_SCORES>(s, segment, q, shared, [&](int block, u32 score) { out[block] = score; });
}

// The `budget`-th largest of the candidates' scores, byte by byte, and how many of its equals may stay.
DEVICE u32 threshold_of(const u32* scores, Candidates c, u32& n_equals) {
    __shared__ u32 histogram[256], chosen, remaining;
    u32 prefix = 0, wanted = c.budget;
    for (int shift = 24; shift >= 0; shift -= 8) {
        histogram[threadIdx.x] = 0;
        __syncthreads();
        for (int b = c.first_column + threadIdx.x; b < c.end_column; b += SELECT_THREADS) {
            u32 bits = scores[b];
            if (shift == 24 || bits >> (shift + 8) == prefix) atomicAdd(&histogram[bits >> shift & 255], 1u);
        }
        __syncthreads();
        if (threadIdx.x == 0) {
            int byte = 255;
            for (; byte > 0 && histogram[byte] < wanted; byte--) wanted -= histogram[byte];
            chosen = byte;
            remaining = wanted;
        }
        __syncthreads();
        prefix = prefix << 8 | chosen;
        wanted = remaining;
    }
    n_equals = wanted;
    return prefix;
}

// The columns of a row in the mask's order: always kept ones, then those of the candidates that stay. One
// warp.
DEVICE void write_row(u32* out, const u32* scores, Sight sight, Candidates c, u32 threshold, u32 n_equals,
                      int top_k) {
    bool all = c.end_column - c.first_column <= c.budget;
    int lane = threadIdx.x, n_out = c.first_column - sight.first_column;
    u32 lower = (1u << lane) - 1, n_equals_seen = 0;
    for (int i = lane; i < n_out; i += 32) out[i] = sight.first_column + i;
    for (int base = c.first_column; base < c.end_column && (all || c.budget > 0); base += 32) {
        int b = base + lane;
        u32 bits = b < c.end_column && !all ? scores[b] : 0;
        u32 equals = __ballot_sync(~0u, b < c.end_column && !all && bits == threshold);
        bool equal_stays = bits == threshold && n_equals_seen + __popc(equals & lower) < n_equals;
        bool stays = b < c.end_column && (all || bits > threshold || equal_stays);
        u32 staying = __ballot_sync(~0u, stays);
        if (stays) out[n_out + __popc(staying & lower)] = b;
        n_out += __popc(staying);
        n_equals_seen += __popc(equals);
    }
    for (int i = lane; n_out + i < top_k; i += 32) {
        out[n_out + i] = c.end_column + i < sight.end_column ? c.end_column + i : NONE;
    }
}

KERNEL void exhaustive_select(const __grid_constant__ ExhaustiveParams p) {
    int n_key_blocks = (p.sizes.n_tokens + BLOCK_K - 1) / BLOCK_K, query_block = p.first_block + blockIdx.x;
    Sight sight = sight_of(query_block, p.sizes);
    int top_k = top_k_of(p.mask);
    Candidates c = candidates_of(sight, p.rule, top_k);
    const u32* scores = p.scores + ((u64)blockIdx.y * gridDim.x + blockIdx.x) * n_key_blocks;
    u32 threshold = 0, n_equals = 0;
    bool competes = c.end_column - c.first_column > c.budget && c.budget > 0;
    if (competes) threshold = threshold_of(scores, c, n_equals);
    if (threadIdx.x >= 32) return;
    write_row(p.mask.kept + row_of_mask(p.mask, query_block), scores, sight, c, threshold, n_equals, top_k);
}
