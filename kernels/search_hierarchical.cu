// search_hierarchical: the key blocks that each head and query block keeps, found by splitting ranges of keys.
//
// One thread block finds one row of the mask; all rounds run in one launch, nothing depends on the host. Geometry and
// names are those of src/search/hierarchical.rs, the reference: visible blocks below `sink_blocks` and the last
// `local_blocks` are kept; the others, [c0, c1), compete for the remaining budget n. S blocks survive the rounds: n, or with
// RESCORE max(2 beam, 5/4 n), of which the n stay that get the largest share of a query's attention: of that to the keys of
// the surviving and the always kept blocks. A round keeps w nodes, the larger one of
// `beam` (n if that is 0) and S / 2^down. The frontier starts at the lowest level, a multiple of `down`, with at most
// 2^down w nodes. At each level the best w nodes stay (S at level 0) and are replaced by the nodes `down` levels below. A node
// that is not inside [c0, c1) stays too, beside them. Ties: the lower node wins.
//
// score(node) = max over the block's queries of
//   ESTIMATE 0, 1: q . k of the node's first or middle key (start + length / 2)
//   ESTIMATE 2:    q . mean + sqrt(sum_d q_d^2 variance_d) sqrt(2 ln m), m keys in the node; q_d^2 rounded to bf16
//   ESTIMATE 3:    max over the node's two clusters of q . mean + |q| spread, less the query's norm: HEAD_DIM^0.5 times the
//                  log-sum-exp over HEAD_DIM^0.5 of its estimates in the first round that is scored
//
// queries   [n_rows, n_heads, HEAD_DIM] bf16, row 0 is the first token of query block `first_block`
// keys      [n_tokens, n_kv_heads, HEAD_DIM] bf16
// means     ESTIMATE 2: [n_kv_heads, n_nodes, HEAD_DIM] bf16; 3: [n_kv_heads, n_nodes, 2, HEAD_DIM] bf16; else null
// variances ESTIMATE 2: [n_kv_heads, n_nodes, HEAD_DIM] bf16, else null; nodes as pyramid.cu and clusters.cu order them
// spreads   ESTIMATE 3: [n_kv_heads, n_nodes, 2] f32, else null
// kept      [n_heads, n_query_blocks, top_k] u32, ascending, filled up with 0xFFFFFFFF
// n_read    one u64, to which the number of rows is added that were scored: keys, and what stands for several of them
// Scoring is in score_warps.cu (any card from sm_80) or score_warpgroups.cu (Hopper), one of which stands before this file;
// they say the block size and the shared bytes of scoring, to which come 16 * max_frontier; max_frontier >= S + sink_blocks +
// local_blocks and >= 2^down (w + 2), a multiple of 64. grid (query blocks of this chunk, n_heads)
// local_blocks is at least ceil(BLOCK_Q / BLOCK_K); top_k >= sink_blocks + local_blocks; down 1 to 3
// Compile with -D HEAD_DIM, BLOCK_Q (16 to 128), BLOCK_K (8 to 64), ESTIMATE, RESCORE (0 or 1), and COLUMNS for
// warpgroups.

// scores[i] becomes the least there is, or, of a node that is not inside [c0, c1), the largest. Returns how many are inside.
DEVICE int reset_scores(const Search& s, const u32* frontier, int count, u32* scores) {
    for (int i = threadIdx.x; i < (count + 7) / 8 * 8; i += THREADS) scores[i] = i >= count || is_inside(s, frontier[i]) ? 0 : 0xFFFFFFFE;
    __syncthreads();
    // Frontiers ascend: only the first and the last node can reach past the candidates.
    return count - !is_inside(s, frontier[0]) - (count > 1 && !is_inside(s, frontier[count - 1]));
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

// Replaces the nodes that stay by the nodes `down` levels below that reach into [c0, c1). One warp; returns how many.
DEVICE int descend(const Search& s, const u32* frontier, const u32* stays, int count, bool all, int down, u32* next) {
    int level = s.level - down, first = s.c0 >> level, last = (s.c1 - 1) >> level, lane = threadIdx.x;
    // Frontiers ascend, and what reaches past the candidates stays: only the first node can have children before them.
    int n_next = min((int)(frontier[0] << down) - first, 0), end = 0;
    for (int base = 0; base < count; base += 32) {
        bool stay = base + lane < count && (all || stays[base + lane]);
        u32 staying = __ballot_sync(~0u, stay);
        int child = stay ? frontier[base + lane] << down : 0, at = n_next + (__popc(staying & ((1u << lane) - 1)) << down);
        for (int i = 0; stay && i < 1 << down; i++) {
            if (child + i >= first && child + i <= last) next[at + i] = child + i, end = at + i + 1;
        }
        n_next += __popc(staying) << down;
    }
    return __reduce_max_sync(~0u, end);
}

// The best `keep` of the frontier, all of them if there are no more, and then the nodes `down` levels below them.
template <Pass PASS>
DEVICE int round_of(const Search& s, const u32* frontier, int count, int keep, int down, Queries& q, u8* scoring, u32* scores, u32* stays, u32* next) {
    __shared__ int n_next;
    if (count > keep) {
        pass<PASS>(s, frontier, count, q, scoring, scores);
        select(scores, count, keep, stays);
    }
    if (threadIdx.x < 32) {
        int n = descend(s, frontier, stays, count, count <= keep, down, next);
        if (threadIdx.x == 0) n_next = n;
    }
    __syncthreads();
    return n_next;
}

KERNEL void __launch_bounds__(THREADS, MIN_BLOCKS)
    search_hierarchical(const u16* queries, const u16* keys, const u16* means, const u16* variances, const float* spreads,
                        u32* kept, u64* n_read, int first_block, int n_query_blocks, int n_tokens, int window, int n_kv_heads,
                        int n_nodes, int sink_blocks, int local_blocks, int top_k, int beam, int down, int max_frontier) {
    extern __shared__ __align__(1024) u8 shared[];
    u32* scores = (u32*)shared;
    u32 *stays = scores + max_frontier, *frontier = stays + max_frontier, *next = frontier + max_frontier;
    u8* scoring = shared + 16 * max_frontier;

    int query_block = first_block + blockIdx.x;
    Sight sight = sight_of(query_block, BLOCK_Q, BLOCK_K, n_tokens, window);
    Candidates c = candidates_of(sight, sink_blocks, local_blocks, top_k);
    u32* out = kept + ((u64)blockIdx.y * n_query_blocks + query_block) * top_k;
    int n_candidates = c.c1 - c.c0, n_found = min(n_candidates, c.budget);

    if (n_candidates > c.budget && c.budget > 0) {
        Queries q;
        load_queries(q, queries, sight, first_block * BLOCK_Q, scoring);
        int survivors = RESCORE ? max(2 * beam, c.budget + c.budget / 4) : c.budget;
        int width = max(beam ? beam : c.budget, (survivors + (1 << down) - 1) >> down);
        Search s = {keys, means, variances, spreads, n_tokens, window, n_kv_heads, n_nodes, 0, c.c0, c.c1};
        int level = 0, rows_read = 0;
        while (nodes_at(s, level) > width << down) level += down;
        go_to(s, level);
        int count = nodes_at(s, level);
        for (int i = threadIdx.x; i < count; i += THREADS) frontier[i] = (c.c0 >> level) + i;
        __syncthreads();
        for (bool is_first = true;;) {
            int n_inside = reset_scores(s, frontier, count, scores), keep = (s.level ? width : survivors) + count - n_inside;
            if (count > keep) {
                rows_read += n_inside * rows_of(NODE_SCORES) * (SPREAD ? 2 : 1);
                if (CLUSTERS && is_first) {
                    pass<NODE_NORMS>(s, frontier, count, q, scoring, scores);
                    settle_norms(q, scoring);
                }
                is_first = false;
            }
            int step = min(down, s.level);
            count = round_of<NODE_SCORES>(s, frontier, count, keep, step, q, scoring, scores, stays, next);
            u32* last = frontier;
            frontier = next, next = last;
            if (s.level == 0) break;
            go_to(s, s.level - step);
        }
        if (RESCORE && count > c.budget) {
            int n_before = c.c0 - sight.v0, n_kept = n_before + sight.v1 - c.c1;
            rows_read += (count + n_kept) * BLOCK_K;
            for (int i = threadIdx.x; i < n_kept; i += THREADS) frontier[count + i] = i < n_before ? sight.v0 + i : c.c1 + i - n_before;
            __syncthreads();
            pass<KEY_NORMS>(s, frontier, count + n_kept, q, scoring, scores);
            settle_norms(q, scoring);
            reset_scores(s, frontier, count, scores);
            round_of<KEY_SCORES>(s, frontier, count, c.budget, 0, q, scoring, scores, stays, next);
            frontier = next;
        }
        if (threadIdx.x == 0) atomicAdd(n_read, (u64)rows_read);
    }
    int n_sinks = c.c0 - sight.v0;
    for (int i = threadIdx.x; i < top_k; i += THREADS) {
        u32 block = NONE;
        if (i < n_sinks) block = sight.v0 + i;
        else if (i < n_sinks + n_found) block = n_candidates > c.budget ? frontier[i - n_sinks] : c.c0 + i - n_sinks;
        else if (i - n_sinks - n_found < sight.v1 - c.c1) block = c.c1 + i - n_sinks - n_found;
        out[i] = block;
    }
}
