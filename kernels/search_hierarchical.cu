// search_hierarchical: the key blocks that each head and query block keeps, found by splitting ranges of
// keys.
//
// One thread block finds one row of the mask; all rounds run in one launch, nothing depends on the host.
// Geometry and names are those of src/engine/cpu/search/hierarchical.rs, the reference: visible blocks below
// `sink_blocks` and the last `local_blocks` are kept; the others, the candidates, compete for the remaining
// budget n. S blocks survive the rounds: n, or with RESCORE max(2 beam, 5/4 n), of which the n stay that get
// the largest share of a query's attention: of that to the keys of the surviving and the always kept blocks.
// A round keeps w nodes, the larger one of `beam` (n if that is 0) and S / 2^down. The frontier starts at the
// lowest level, a multiple of `down`, with at most 2^down w nodes. At each level the best w nodes stay (S at
// level 0) and are replaced by the nodes `down` levels below. A node that is not inside the candidates stays
// too, beside them. Ties: the lower node wins.
//
// score(node) = max over the block's queries of
//   FIRST, MIDDLE  q . k of the node's first or middle key (start + length / 2)
//   MEAN_SPREAD    q . mean + sqrt(sum_d q_d^2 variance_d) sqrt(2 ln m), m keys in the node; q_d^2 rounded to
//                  bf16
//   TWO_MEANS      max over the node's two clusters of q . mean + |q| spread, less the query's norm:
//                  HEAD_DIM^0.5 times the log-sum-exp over HEAD_DIM^0.5 of its estimates in the first round
//                  that is scored
//
// queries   [n_rows, n_heads, HEAD_DIM] bf16, row 0 is the first token of query block `first_block`
// keys      [n_tokens, n_kv_heads, HEAD_DIM] bf16
// nodes     means: MEAN_SPREAD [n_kv_heads, n_nodes, HEAD_DIM] bf16; TWO_MEANS [n_kv_heads, n_nodes, 2,
//           HEAD_DIM] bf16; else null. variances: MEAN_SPREAD [n_kv_heads, n_nodes, HEAD_DIM] bf16, else
//           null. spreads: TWO_MEANS [n_kv_heads, n_nodes, 2] f32, else null
// mask      written
// n_read    one u64, to which the number of rows is added that were scored: keys, and what stands for several
//           of them
// found     [n_rows, n_heads] f32, zeroed by the caller, or null: ln sum_k exp(q . k / sqrt(HEAD_DIM)) over the kept
//           keys of the rows of which RESCORE holds what each block gives; others stay 0. There is no soft cap
// Scoring is in score.cu and rank.cu, which stand before this file.
// grid (query blocks of this launch, n_heads); a thread block holds max_frontier nodes: at least S +
// sink_blocks + local_blocks and 2^down (w + 2), a multiple of 64. local_blocks is at least ceil(BLOCK_Q /
// BLOCK_K); top_k >= sink_blocks + local_blocks; down 1 to 3
// Compile with -D HEAD_DIM, BLOCK_Q (16 to 128), BLOCK_K (4 to 64), ESTIMATE (search.cu), RESCORE (0 or 1).

GEOMETRY(search_hierarchical, THREADS, 1, 1, SCORING, 13);

struct SearchParams {
    const u16 *queries, *keys;
    Nodes nodes;
    Mask mask;
    u64* n_read;
    float* found;
    Sizes sizes;
    Rule rule;
    int first_block, beam, down, max_frontier;
};
static_assert(sizeof(SearchParams) == 128, "as in src/engine/cuda/params.rs");

// Nodes under way, each array of max_frontier numbers in shared memory.
struct Frontier {
    u32 *scores, *nodes, *next;
    u32 *above, *equal;  // a bit for each node: whether it is above the threshold, or has its score
    int count;
    DEVICE void step(int n_next) {
        u32* last = nodes;
        nodes = next, next = last;
        count = n_next;
    }
};

constexpr u32 OUTSIDE = 0xFFFFFFFE;  // the score of a node that reaches past the candidates

// scores[i] becomes the least there is, or, of a node that is not inside the candidates, OUTSIDE. Returns
// how many are inside.
DEVICE int reset_scores(const Search& s, const Frontier& f) {
    for (int i = threadIdx.x; i < (f.count + 7) / 8 * 8; i += THREADS) {
        f.scores[i] = i >= f.count || is_inside(s, f.nodes[i]) ? 0 : OUTSIDE;
    }
    __syncthreads();
    // Frontiers ascend: only the first and the last node can reach past the candidates.
    return f.count - !is_inside(s, f.nodes[0]) - (f.count > 1 && !is_inside(s, f.nodes[f.count - 1]));
}

// Which scores are among the best `keep`: those above `least`, and the first `n_equals` of those that have it.
struct Threshold {
    u32 least;
    int n_equals;
};

// Finds it bit by bit, from the highest one in which scores differ on. One warp.
DEVICE Threshold threshold_of(const u32* scores, int count, int keep) {
    u32 least = ~0u, most = 0;
    int n_outside = 0;
    for (int i = threadIdx.x; i < count; i += 32) {
        u32 score = scores[i];
        least = min(least, score), most = max(most, score == OUTSIDE ? 0 : score),
        n_outside += score == OUTSIDE;
    }
    least = __reduce_min_sync(~0u, least), most = __reduce_max_sync(~0u, most);
    int bit = 31 - __clz(least ^ most);
    Threshold t = {bit < 0 ? most : most >> bit >> 1 << bit << 1, keep - __reduce_add_sync(~0u, n_outside)};
    for (; bit >= 0; bit--) {
        u32 with_bit = t.least | 1u << bit;
        int n = 0;
        for (int i = threadIdx.x * 4; i < count; i += 128) {  // 0 fills scores up to a multiple of 8
            uint4 s = *(const uint4*)(scores + i);
            n += (s.x >= with_bit) + (s.y >= with_bit) + (s.z >= with_bit) + (s.w >= with_bit);
        }
        n = __reduce_add_sync(~0u, n);
        if (n >= keep) t.least = with_bit;
        if (n == keep) return {with_bit - 1, 0};
        if (n < keep) t.n_equals = keep - n;  // n are larger than all that can still become `least`
    }
    return t;
}

// Replaces the best `keep` of the frontier, or all if it has no more, by the nodes `down` levels below that
// reach into the candidates. Scores become 1 for those that stay, else 0.
DEVICE void go_down(const Search& s, Frontier& f, int keep, int down) {
    __shared__ Threshold best;
    __shared__ int n_next;
    if (threadIdx.x < 32) {
        Threshold found = f.count <= keep ? Threshold{0, f.count} : threshold_of(f.scores, f.count, keep);
        if (threadIdx.x == 0) best = found;
    }
    __syncthreads();
    for (int i = threadIdx.x; i < (f.count + 31) / 32 * 32; i += THREADS) {
        u32 score = i < f.count && f.count > keep ? f.scores[i] : 0;
        u32 larger = __ballot_sync(~0u, score > best.least),
            same = __ballot_sync(~0u, i < f.count && score == best.least);
        if (i % 32 == 0) f.above[i / 32] = larger, f.equal[i / 32] = same;
    }
    __syncthreads();
    int level = s.level - down, first = s.first_column >> level, last = (s.end_column - 1) >> level;
    // Frontiers ascend, and what reaches past the candidates stays: only the first node can have children
    // before them.
    int before_first = min((int)(f.nodes[0] << down) - first, 0);
    for (int i = threadIdx.x; i < f.count; i += THREADS) {
        u32 bit = 1u << i % 32;
        u32 above = f.above[i / 32], equal = f.equal[i / 32];
        int n_above = __popc(above & (bit - 1)), n_equal = __popc(equal & (bit - 1));
        for (int w = 0; w < i / 32; w++) n_above += __popc(f.above[w]), n_equal += __popc(f.equal[w]);
        bool stays = above & bit || (equal & bit && n_equal < best.n_equals);
        f.scores[i] = stays;
        if (!stays) continue;
        int n_before = n_above + min(n_equal, best.n_equals), at = before_first + (n_before << down), end = 0;
        int child = f.nodes[i] << down;
        for (int c = 0; c < 1 << down; c++) {
            if (child + c >= first && child + c <= last) f.next[at + c] = child + c, end = at + c + 1;
        }
        if (n_before + 1 == min(keep, f.count)) n_next = end;
    }
    __syncthreads();
    f.step(n_next);
}

// Rounds from the whole range of the candidates down to `survivors` key blocks; returns the rows read.
DEVICE int split(const SearchParams& p, Search& s, Frontier& f, int survivors, int width, Queries& q,
                 u8* scoring) {
    int down = p.down, level = 0, rows_read = 0;
    while (nodes_at(s, level) > width << down) level += down;
    go_to(s, level);
    f.count = nodes_at(s, level);
    for (int i = threadIdx.x; i < f.count; i += THREADS) f.nodes[i] = (s.first_column >> level) + i;
    __syncthreads();
    for (bool is_first = true;;) {
        int n_inside = reset_scores(s, f), keep = (s.level ? width : survivors) + f.count - n_inside;
        if (f.count > keep) {
            rows_read += n_inside * rows_of(NODE_SCORES) * (SPREAD ? 2 : 1);
            if (CLUSTERS && is_first) rank<false>(s, f.nodes, f.count, f.count, q, scoring, f.scores);
            else pass<NODE_SCORES>(s, f.nodes, f.count, q, scoring, f.scores);
            is_first = false;
        }
        int step = min(down, s.level);
        go_down(s, f, keep, step);
        if (s.level == 0) return rows_read;
        go_to(s, s.level - step);
    }
}

// Writes the rows of log-sum-exps of a query block: norms less what `count` items gave that do not stay.
DEVICE void write_norms(float* rows, const u32* stays, int count, int n_queries, u8* scoring) {
    const float* held = (float*)scoring;
    Norm* norms = norms_of_rank(scoring);
    for (int query = threadIdx.x % 32; query < BLOCK_Q; query += 32) {
        float gone = 0.0f, norm = norms[query].most;
        for (int i = threadIdx.x / 32 * 4; i < count; i += WARPS * 4) {
            uint4 of = *(const uint4*)(stays + i);
            if (of.x & of.y & of.z & of.w) continue;
            u32 four[4] = {of.x, of.y, of.z, of.w};
#pragma unroll
            for (int n = 0; n < 4; n++) {
                if (!four[n] && i + n < count) gone += exp2_fast(held[(i + n) * BLOCK_Q + query] - norm);
            }
        }
        norms[threadIdx.x / 32 * BLOCK_Q + query].sum = gone;
    }
    __syncthreads();
    for (int query = threadIdx.x; query < n_queries; query += THREADS) {
        float share = 1.0f;
        for (int n = 0; n < WARPS; n++) share -= norms[n * BLOCK_Q + query].sum;
        if (share > 1e-3f) rows[(u64)query * gridDim.y] = (norms[query].most + log2f(share)) / LOG2E;
    }
}

// The `budget` surviving blocks that get most of a query's attention, by their keys; returns the rows read. `found`
// is where the log-sum-exp of the first query belongs, or null.
DEVICE int rescore(const Search& s, Frontier& f, Sight sight, int budget, Queries& q, u8* scoring, float* found) {
    int count = f.count, n_before = s.first_column - sight.first_column;
    int n_kept = n_before + sight.end_column - s.end_column;
    for (int i = threadIdx.x; i < n_kept; i += THREADS) {
        f.nodes[count + i] = i < n_before ? sight.first_column + i : s.end_column + i - n_before;
    }
    reset_scores(s, f);
    bool are_held = rank<true>(s, f.nodes, count + n_kept, count, q, scoring, f.scores);
    go_down(s, f, budget, 0);
    if (found && are_held) write_norms(found, f.scores, count, sight.end_query - sight.first_query, scoring);
    return (count + n_kept) * BLOCK_K;
}

// The columns of a row in the mask's order: always kept ones, and candidates, those found where not all may
// stay.
DEVICE void write_row(u32* out, int top_k, Sight sight, Candidates c, const u32* found) {
    int n_sinks = c.first_column - sight.first_column, n_candidates = c.end_column - c.first_column;
    int n_found = min(n_candidates, c.budget);
    for (int i = threadIdx.x; i < top_k; i += THREADS) {
        int candidate = i - n_sinks, local = candidate - n_found;
        u32 block = NONE;
        if (i < n_sinks) block = sight.first_column + i;
        else if (candidate < n_found)
            block = n_candidates > c.budget ? found[candidate] : c.first_column + candidate;
        else if (local < sight.end_column - c.end_column) block = c.end_column + local;
        out[i] = block;
    }
}

KERNEL void __launch_bounds__(THREADS, MIN_BLOCKS)
    search_hierarchical(const __grid_constant__ SearchParams p) {
    extern __shared__ __align__(1024) u8 shared[];
    Frontier f = {(u32*)shared};
    f.nodes = f.scores + p.max_frontier, f.next = f.nodes + p.max_frontier;
    f.above = f.next + p.max_frontier, f.equal = f.above + p.max_frontier / 32;
    u8* scoring = shared + 13 * p.max_frontier;
    int query_block = p.first_block + blockIdx.x;
    Sight sight = sight_of(query_block, p.sizes);
    int top_k = top_k_of(p.mask);
    Candidates c = candidates_of(sight, p.rule, top_k);

    if (c.end_column - c.first_column > c.budget && c.budget > 0) {
        Queries q;
        load_queries(q, p.queries, sight, p.first_block * BLOCK_Q, scoring);
        int survivors = RESCORE ? max(2 * p.beam, c.budget + c.budget / 4) : c.budget;
        int width = max(p.beam ? p.beam : c.budget, (survivors + (1 << p.down) - 1) >> p.down);
        Search s = search_of(p.keys, p.nodes, p.sizes, c);
        int rows_read = split(p, s, f, survivors, width, q, scoring);
        if (RESCORE && f.count > c.budget) {
            u64 row = (u64)blockIdx.x * BLOCK_Q * gridDim.y + blockIdx.y;
            rows_read += rescore(s, f, sight, c.budget, q, scoring, p.found ? p.found + row : nullptr);
        }
        if (threadIdx.x == 0) atomicAdd(p.n_read, (u64)rows_read);
    }
    write_row(p.mask.kept + row_of_mask(p.mask, query_block), top_k, sight, c, f.nodes);
}
