// search_hierarchical: the key blocks that each head and query block keeps, found by halving ranges of keys.
//
// One thread block finds one row of the mask; all rounds run in one launch, nothing depends on the host. Geometry and
// names are those of src/search/hierarchical.rs, the reference: visible blocks below `sink_blocks` and the last
// `local_blocks` are kept; the others, [c0, c1), compete for the remaining budget n. The frontier starts at the
// smallest level with at most 2 w nodes, w = max(beam, n). At each level the best w nodes stay (n at level 0) and are
// replaced by their children. A node that is not inside [c0, c1) stays too, beside them. Ties: the lower node wins.
//
// score(node) = max over the block's queries of
//   ESTIMATE 0, 1: q . k of the node's first or middle key (start + length / 2)
//   ESTIMATE 2:    q . mean
//   ESTIMATE 3:    q . mean + sqrt(sum_d q_d^2 variance_d) sqrt(2 ln m), m keys in the node; q_d^2 rounded to bf16
//
// queries  [n_rows, n_heads, HEAD_DIM] bf16, row 0 is the first token of query block `first_block`
// rows     ESTIMATE 0, 1: keys [n_tokens, n_kv_heads, HEAD_DIM] bf16; 2, 3: mean [n_kv_heads, n_nodes, HEAD_DIM] bf16
// variance [n_kv_heads, n_nodes, HEAD_DIM] bf16, ESTIMATE 3 only, else null; nodes as pyramid.cu orders them
// kept     [n_heads, n_query_blocks, top_k] u32, ascending, filled up with 0xFFFFFFFF
// Scoring is in score_warps.cu (any card from sm_80) or score_warpgroups.cu (Hopper), one of which stands before this file;
// they say the block size and the shared bytes of scoring, to which come 16 * max_frontier; max_frontier >= 2 max(beam,
// top_k) + 4, a multiple of 64. grid (query blocks of this chunk, n_heads)
// local_blocks is at least ceil(BLOCK_Q / BLOCK_K); top_k >= sink_blocks + local_blocks
// Compile with -D HEAD_DIM, BLOCK_Q (16 to 128), BLOCK_K, ESTIMATE.

// scores[i] becomes the least there is, or, of a node that is not inside [c0, c1), the largest.
DEVICE void reset_scores(const Search& s, const u32* frontier, int count, u32* scores) {
    for (int i = threadIdx.x; i < (count + 7) / 8 * 8; i += THREADS) {
        bool inside = i >= count || (frontier[i] << s.level >= s.c0 && (frontier[i] + 1) << s.level <= s.c1);
        scores[i] = inside ? 0 : 0xFFFFFFFE;
    }
    __syncthreads();
}

// stays[i] = whether node i is among the best `keep`: two threads count the nodes that beat it.
DEVICE void select(const u32* scores, int count, int keep, u32* stays) {
    for (int base = 0; base < count; base += THREADS / 2) {
        int i = base + threadIdx.x / 2, rank = 0;
        u32 mine = i < count ? scores[i] : 0xFFFFFFFF;
        for (int j = threadIdx.x % 2 * 4; j < count; j += 8) {
            uint4 s = *(const uint4*)(scores + j);  // a lower node wins a tie: it beats with an equal score
            rank += (s.x + (j < i) > mine) + (s.y + (j + 1 < i) > mine) + (s.z + (j + 2 < i) > mine) + (s.w + (j + 3 < i) > mine);
        }
        rank += __shfl_xor_sync(~0u, rank, 1);
        if (i < count) stays[i] = rank < keep;
    }
    __syncthreads();
}

// Replaces the nodes that stay by their children inside [c0, c1), or by themselves at level 0. One warp; returns how many.
DEVICE int descend(const Search& s, const u32* frontier, const u32* stays, int count, bool all, u32* next) {
    int n_next = 0, lane = threadIdx.x;
    u32 lower = (1u << lane) - 1;
    for (int base = 0; base < count; base += 32) {
        bool stay = base + lane < count && (all || stays[base + lane]);
        u32 node = base + lane < count ? frontier[base + lane] : 0;
        bool left = stay, right = false;
        if (s.level > 0) {
            left = stay && ((2 * node + 1) << (s.level - 1)) > s.c0;
            right = stay && ((2 * node + 1) << (s.level - 1)) < s.c1;
            node *= 2;
        }
        u32 lefts = __ballot_sync(~0u, left), rights = __ballot_sync(~0u, right);
        int at = n_next + __popc(lefts & lower) + __popc(rights & lower);
        if (left) next[at] = node;
        if (right) next[at + left] = node + 1;
        n_next += __popc(lefts) + __popc(rights);
    }
    return n_next;
}

KERNEL void __launch_bounds__(THREADS, MIN_BLOCKS)
    search_hierarchical(const u16* queries, const u16* rows, const u16* variance, u32* kept, int first_block,
                        int n_query_blocks, int n_tokens, int window, int n_kv_heads, int n_nodes, int sink_blocks,
                        int local_blocks, int top_k, int beam, int max_frontier) {
    extern __shared__ __align__(1024) u8 shared[];
    u32* scores = (u32*)shared;
    u32 *stays = scores + max_frontier, *frontiers = stays + max_frontier;
    u8* scoring = shared + 16 * max_frontier;
    __shared__ int n_next;

    int query_block = first_block + blockIdx.x;
    Sight sight = sight_of(query_block, BLOCK_Q, BLOCK_K, n_tokens, window);
    Candidates c = candidates_of(sight, sink_blocks, local_blocks, top_k);
    u32* out = kept + ((u64)blockIdx.y * n_query_blocks + query_block) * top_k;
    int n_candidates = c.c1 - c.c0, n_found = min(n_candidates, c.budget), width = max(beam, c.budget), current = 0;

    if (n_candidates > c.budget && c.budget > 0) {
        Queries q;
        load_queries(q, queries, sight, first_block * BLOCK_Q, scoring);
        int n_key_blocks = (n_tokens + BLOCK_K - 1) / BLOCK_K;
        Search s = {rows, variance, n_tokens, n_kv_heads, n_nodes, 0, c.c0, c.c1, 0};
        for (; ((c.c1 - 1) >> s.level) - (c.c0 >> s.level) + 1 > 2 * width; s.level++) {
            s.below += (n_key_blocks + (1 << s.level) - 1) >> s.level;
        }
        int count = ((c.c1 - 1) >> s.level) - (c.c0 >> s.level) + 1;
        for (int i = threadIdx.x; i < count; i += THREADS) frontiers[i] = (c.c0 >> s.level) + i;
        __syncthreads();
        for (;;) {
            u32 *frontier = frontiers + current * max_frontier, *next = frontiers + (current ^ 1) * max_frontier;
            // Frontiers ascend: only the first and the last node can reach past the candidates.
            int past = (frontier[0] << s.level < c.c0) + ((frontier[count - 1] + 1) << s.level > c.c1);
            int keep = s.level ? width + past : c.budget;
            if (count > keep) {
                reset_scores(s, frontier, count, scores);
                score_frontier(s, frontier, count, q, scoring, scores);
                select(scores, count, keep, stays);
            }
            if (threadIdx.x < 32) {
                int n = descend(s, frontier, stays, count, count <= keep, next);
                if (threadIdx.x == 0) n_next = n;
            }
            __syncthreads();
            count = n_next;
            current ^= 1;
            if (s.level == 0) break;
            s.level--;
            s.below -= (n_key_blocks + (1 << s.level) - 1) >> s.level;
            __syncthreads();
        }
    }
    const u32* found = frontiers + current * max_frontier;
    int n_sinks = c.c0 - sight.v0;
    for (int i = threadIdx.x; i < top_k; i += THREADS) {
        u32 block = NONE;
        if (i < n_sinks) block = sight.v0 + i;
        else if (i < n_sinks + n_found) block = n_candidates > c.budget ? found[i - n_sinks] : c.c0 + i - n_sinks;
        else if (i - n_sinks - n_found < sight.v1 - c.c1) block = c.c1 + i - n_sinks - n_found;
        out[i] = block;
    }
}
