// search_exhaustive: the key blocks that get the largest share of a query's attention, every key read: the reference. O(T^2)
// time for all queries, O(T) for the last ones.
//
// exhaustive_norms, then exhaustive_scores: score(block) = max over the query block's queries of the share of its attention to
// the visible keys that falls on the key block. The keys come in segments, so that few queries keep a whole card busy; the norms
// of a segment are its own until the scores join them. exhaustive_select: always kept blocks as in search_hierarchical.cu, then the best of the others;
// ties: the lower block wins. Reference: src/search/exhaustive.rs.
//
// queries [n_rows, n_heads, HEAD_DIM] bf16, row 0 is the first token of query block `first_block`
// keys    [n_tokens, n_kv_heads, HEAD_DIM] bf16
// norms   [n_heads, query blocks of this launch, n_segments, BLOCK_Q] f32
// scores  [n_heads, query blocks of this launch, n_key_blocks] u32: floats as integers in their order, of candidates only
// kept    [n_heads, n_query_blocks, top_k] u32, ascending, filled up with 0xFFFFFFFF
// grid norms and scores (query blocks of this launch * n_segments, n_heads), select (query blocks of this launch, n_heads)
// block norms and scores as score_warps.cu, which stands before this file, select 256
// shared bytes norms and scores as score_warps.cu; select none beyond the static
// Compile with -D HEAD_DIM, BLOCK_Q (16 to 128), BLOCK_K (8 to 64), ESTIMATE 0.

constexpr int PIECE = 512;  // key blocks in a pass

// The blocks of `all` that a segment has.
DEVICE int2 segment_of(int first, int last, int n_segments) {
    int n = (last - first + n_segments - 1) / n_segments, start = first + blockIdx.x % n_segments * n;
    return make_int2(start, min(start + n, last));
}

// Where the norms of a query block's first segment start.
DEVICE float* norms_of(float* norms, int n_segments) {
    return norms + ((u64)blockIdx.y * gridDim.x + blockIdx.x / n_segments * n_segments) * BLOCK_Q;
}

// A pass over all key blocks of a segment, a piece at a time; `done` gets each piece.
template <Pass PASS, typename Done>
DEVICE void pass_over(const Search& s, int2 segment, Queries& q, u8* shared, Done done) {
    __shared__ u32 blocks[PIECE], found[PIECE];
    for (int start = segment.x; start < segment.y; start += PIECE) {
        int count = min(PIECE, segment.y - start);
        for (int i = threadIdx.x; i < count; i += THREADS) blocks[i] = start + i, found[i] = 0;
        __syncthreads();
        pass<PASS>(s, blocks, count, q, shared, found);
        for (int i = threadIdx.x; i < count; i += THREADS) done(start + i, found[i]);
        __syncthreads();
    }
}

// Query j of a lane in its query block.
DEVICE int place_of(int j) { return threadIdx.x / 32 % WARPS_Q * 16 + j / 2 * 8 + threadIdx.x % 4 * 2 + j % 2; }

KERNEL void __launch_bounds__(THREADS, MIN_BLOCKS)
    exhaustive_norms(const u16* queries, const u16* keys, float* norms, int n_segments, int first_block, int n_tokens, int window,
                     int n_kv_heads, int sink_blocks, int local_blocks, int top_k) {
    extern __shared__ __align__(16) u8 shared[];
    Sight sight = sight_of(first_block + blockIdx.x / n_segments, BLOCK_Q, BLOCK_K, n_tokens, window);
    Candidates c = candidates_of(sight, sink_blocks, local_blocks, top_k);
    if (c.c1 - c.c0 <= c.budget || c.budget <= 0) return;

    Queries q;
    load_queries(q, queries, sight, first_block * BLOCK_Q, shared);
    Search s = {keys, nullptr, nullptr, nullptr, n_tokens, window, n_kv_heads, 0, 0, c.c0, c.c1};
    pass_over<KEY_NORMS>(s, segment_of(sight.v0, sight.v1, n_segments), q, shared, [](int, u32) {});
    settle_norms(q, shared);
    float* out = norms_of(norms, n_segments) + blockIdx.x % n_segments * BLOCK_Q;
    for (int j = 0; j < 4 && threadIdx.x / 32 < WARPS_Q && threadIdx.x % 32 < 4; j++) out[place_of(j)] = q.norm[j];
}

KERNEL void __launch_bounds__(THREADS, MIN_BLOCKS)
    exhaustive_scores(const u16* queries, const u16* keys, float* norms, u32* scores, int n_segments, int first_block, int n_tokens,
                      int window, int n_kv_heads, int sink_blocks, int local_blocks, int top_k) {
    extern __shared__ __align__(16) u8 shared[];
    int n_key_blocks = (n_tokens + BLOCK_K - 1) / BLOCK_K;
    Sight sight = sight_of(first_block + blockIdx.x / n_segments, BLOCK_Q, BLOCK_K, n_tokens, window);
    Candidates c = candidates_of(sight, sink_blocks, local_blocks, top_k);
    if (c.c1 - c.c0 <= c.budget || c.budget <= 0) return;

    Queries q;
    load_queries(q, queries, sight, first_block * BLOCK_Q, shared);
    const float* of_segments = norms_of(norms, n_segments);
#pragma unroll
    for (int j = 0; j < 4; j++) {
        Norm norm = no_norm();
        for (int i = 0; i < n_segments; i++) norm = joined(norm, Norm{of_segments[i * BLOCK_Q + place_of(j)], 1.0f});
        q.norm[j] = value_of(norm);
    }
    Search s = {keys, nullptr, nullptr, nullptr, n_tokens, window, n_kv_heads, 0, 0, c.c0, c.c1};
    u32* out = scores + ((u64)blockIdx.y * (gridDim.x / n_segments) + blockIdx.x / n_segments) * n_key_blocks;
    pass_over<KEY_SCORES>(s, segment_of(c.c0, c.c1, n_segments), q, shared, [&](int block, u32 score) { out[block] = score; });
}

// The `budget`-th largest of the candidates' scores, byte by byte, and how many of its equals may stay.
DEVICE u32 threshold_of(const u32* scores, Candidates c, u32& n_equals) {
    __shared__ u32 histogram[256], chosen, remaining;
    u32 prefix = 0, wanted = c.budget;
    for (int shift = 24; shift >= 0; shift -= 8) {
        histogram[threadIdx.x] = 0;
        __syncthreads();
        for (int b = c.c0 + threadIdx.x; b < c.c1; b += 256) {
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

KERNEL void exhaustive_select(const u32* scores, u32* kept, int first_block, int n_query_blocks, int n_tokens, int window,
                              int sink_blocks, int local_blocks, int top_k) {
    int n_key_blocks = (n_tokens + BLOCK_K - 1) / BLOCK_K, query_block = first_block + blockIdx.x;
    Sight sight = sight_of(query_block, BLOCK_Q, BLOCK_K, n_tokens, window);
    Candidates c = candidates_of(sight, sink_blocks, local_blocks, top_k);
    const u32* row = scores + ((u64)blockIdx.y * gridDim.x + blockIdx.x) * n_key_blocks;
    u32* out = kept + ((u64)blockIdx.y * n_query_blocks + query_block) * top_k;
    bool all = c.c1 - c.c0 <= c.budget;
    u32 threshold = 0, n_equals = 0;
    if (!all && c.budget > 0) threshold = threshold_of(row, c, n_equals);
    if (threadIdx.x >= 32) return;
    int lane = threadIdx.x, n_out = c.c0 - sight.v0;
    u32 lower = (1u << lane) - 1, n_equals_seen = 0;
    for (int i = lane; i < n_out; i += 32) out[i] = sight.v0 + i;
    for (int base = c.c0; base < c.c1 && (all || c.budget > 0); base += 32) {
        int b = base + lane;
        u32 bits = b < c.c1 && !all ? row[b] : 0;
        u32 equals = __ballot_sync(~0u, b < c.c1 && !all && bits == threshold);
        bool equal_stays = bits == threshold && n_equals_seen + __popc(equals & lower) < n_equals;
        bool stays = b < c.c1 && (all || bits > threshold || equal_stays);
        u32 staying = __ballot_sync(~0u, stays);
        if (stays) out[n_out + __popc(staying & lower)] = b;
        n_out += __popc(staying);
        n_equals_seen += __popc(equals);
    }
    for (int i = lane; n_out + i < top_k; i += 32) out[n_out + i] = c.c1 + i < sight.v1 ? c.c1 + i : NONE;
}
