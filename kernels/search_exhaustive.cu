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
// mask    written by exhaustive_select; its budgets are null where the scores come before them
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
    const Place* place;  // of the one query block, or null
    Mask mask;
    Sizes sizes;
    Rule rule;
    int n_segments, first_block;
};
static_assert(sizeof(ExhaustiveParams) == 96, "as in src/engine/cuda/params.rs");

// What a thread block of exhaustive_norms and exhaustive_scores works on.
struct Part {
    Sight sight;
    Candidates candidates;
    DEVICE bool competes() const {
        return candidates.end_column - candidates.first_column > candidates.budget && candidates.budget > 0;
    }
};

// The first query block of this launch, and what a block sees.
DEVICE int first_block_of(const ExhaustiveParams& p) {
    return p.place ? p.place->first_row / BLOCK_Q : p.first_block;
}
DEVICE Sight sight_in(const ExhaustiveParams& p, int i) {
    Sizes sizes = p.sizes;
    if (p.place) sizes.n_tokens = p.place->length;
    return sight_of(first_block_of(p) + i, sizes);
}

// Without budgets all compete: they may come while this runs.
DEVICE Part part_of(const ExhaustiveParams& p) {
    Part part;
    part.sight = sight_in(p, blockIdx.x / p.n_segments);
    part.candidates = candidates_of(part.sight, p.rule, p.mask.budgets ? top_k_of(p.mask) : 0);
    if (!p.mask.budgets) part.candidates.budget = 1;
    return part;
}

KERNEL void __launch_bounds__(THREADS, MIN_BLOCKS)
    exhaustive_norms(const __grid_constant__ ExhaustiveParams p) {
    extern __shared__ __align__(16) u8 shared[];
    Part part = part_of(p);
    if (!part.competes()) return;
    int n_segments = p.n_segments;
    Queries q;
    load_queries(q, p.queries, part.sight, first_block_of(p) * BLOCK_Q, shared);
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
    load_queries(q, p.queries, part.sight, first_block_of(p) * BLOCK_Q, shared);
    join_norms(q, norms_of(p.norms, n_segments), n_segments);
    Search s = search_of(p.keys, Nodes{}, p.sizes, part.candidates);
    u64 query_block = (u64)blockIdx.y * (gridDim.x / n_segments) + blockIdx.x / n_segments;
    u32* out = p.scores + query_block * n_key_blocks;
    int2 segment = segment_of(part.candidates.first_column, part.candidates.end_column, n_segments);
    pass_over<KEY_SCORES>(s, segment, q, shared, [&](int block, u32 score) { out[block] = score; });
}

// The largest value of a byte of which, with all above it, there are `wanted`; `wanted` becomes how many of its
// own are. One warp.
DEVICE u32 byte_of(const u32* histogram, u32& wanted) {
    constexpr int OF_LANE = 256 / 32;
    u32 lane = threadIdx.x % 32, n = 0;
#pragma unroll
    for (int i = 0; i < OF_LANE; i++) n += histogram[255 - lane * OF_LANE - i];
    u32 n_before = n;
#pragma unroll
    for (int step = 1; step < 32; step *= 2) {
        u32 other = __shfl_up_sync(~0u, n_before, step);
        if (lane >= step) n_before += other;
    }
    n_before -= n;
    // The last lane has the rest, whatever it counted.
    u32 here = __ballot_sync(~0u, n_before + n >= wanted) | 1u << 31;
    u32 chosen = __ffs(here) - 1;
    u32 left = wanted - __shfl_sync(~0u, n_before, chosen), byte = 255 - chosen * OF_LANE;
    for (int i = 1; i < OF_LANE && histogram[byte] < left; i++) left -= histogram[byte--];
    wanted = left;
    return byte;
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
        if (threadIdx.x < 32) {
            u32 byte = byte_of(histogram, wanted);
            if (threadIdx.x == 0) chosen = byte, remaining = wanted;
        }
        __syncthreads();
        prefix = prefix << 8 | chosen;
        wanted = remaining;
    }
    n_equals = wanted;
    return prefix;
}

// The columns of a row in the mask's order: always kept ones, then those of the candidates that stay. Each warp
// has a stretch of the candidates.
DEVICE void write_row(u32* out, const u32* scores, Sight sight, Candidates c, u32 threshold, u32 n_equals,
                      int top_k) {
    constexpr int WARPS = SELECT_THREADS / 32;
    __shared__ u32 above[WARPS], equal[WARPS];
    int n_candidates = c.end_column - c.first_column, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    bool all = n_candidates <= c.budget;
    if (!all && c.budget <= 0) n_candidates = 0;
    int stretch = (n_candidates + SELECT_THREADS - 1) / SELECT_THREADS * 32;
    int start = c.first_column + warp * stretch;
    int end = min(start + stretch, c.first_column + n_candidates);
    auto score = [&](int b) { return all ? ~0u : scores[b]; };
    u32 n_above = 0, n_equal = 0;
    for (int b = start + lane; b < end; b += 32) {
        u32 bits = score(b);
        n_above += bits > threshold, n_equal += bits == threshold;
    }
    n_above = __reduce_add_sync(~0u, n_above), n_equal = __reduce_add_sync(~0u, n_equal);
    if (lane == 0) above[warp] = n_above, equal[warp] = n_equal;
    __syncthreads();
    int n_sinks = c.first_column - sight.first_column;
    u32 lower = (1u << lane) - 1, n_equals_seen = 0, n_before = 0;
    for (int w = 0; w < warp; w++) n_before += above[w], n_equals_seen += equal[w];
    int n_out = n_sinks + n_before + min(n_equals_seen, n_equals);
    for (int base = start; base < end; base += 32) {
        int b = base + lane;
        u32 bits = b < end ? score(b) : 0;
        u32 equals = __ballot_sync(~0u, b < end && bits == threshold);
        bool equal_stays = bits == threshold && n_equals_seen + __popc(equals & lower) < n_equals;
        bool stays = b < end && (bits > threshold || equal_stays);
        u32 staying = __ballot_sync(~0u, stays);
        if (stays) out[n_out + __popc(staying & lower)] = b;
        n_out += __popc(staying);
        n_equals_seen += __popc(equals);
    }
    u32 n_all_above = 0, n_all_equal = 0;
    for (int w = 0; w < WARPS; w++) n_all_above += above[w], n_all_equal += equal[w];
    int n_found = n_all_above + min(n_all_equal, n_equals);
    for (int i = threadIdx.x; i < top_k; i += SELECT_THREADS) {
        int local = c.end_column + i - n_sinks - n_found;
        if (i < n_sinks) out[i] = sight.first_column + i;
        else if (i >= n_sinks + n_found) out[i] = local < sight.end_column ? local : NONE;
    }
}

KERNEL void exhaustive_select(const __grid_constant__ ExhaustiveParams p) {
    int n_key_blocks = (p.sizes.n_tokens + BLOCK_K - 1) / BLOCK_K, query_block = first_block_of(p) + blockIdx.x;
    Sight sight = sight_in(p, blockIdx.x);
    int top_k = top_k_of(p.mask);
    Candidates c = candidates_of(sight, p.rule, top_k);
    const u32* scores = p.scores + ((u64)blockIdx.y * gridDim.x + blockIdx.x) * n_key_blocks;
    u32 threshold = 0, n_equals = 0;
    bool competes = c.end_column - c.first_column > c.budget && c.budget > 0;
    if (competes) threshold = threshold_of(scores, c, n_equals);
    write_row(p.mask.kept + row_of_mask(p.mask, query_block), scores, sight, c, threshold, n_equals, top_k);
}
