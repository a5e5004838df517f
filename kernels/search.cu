// search: what search_hierarchical.cu and its two ways of scoring share: where the node of a level lies.

constexpr bool SPREAD = ESTIMATE == 3;

struct Search {
    const u16 *rows, *variance;
    int n_tokens, n_kv_heads, n_nodes, level, c0, c1;
    u64 below;  // nodes below the current level
};

// Where a node's row starts: its mean, or its first or middle key.
DEVICE u64 row_of(const Search& s, int node) {
    int kv_head = blockIdx.y / (gridDim.y / s.n_kv_heads);
    if (ESTIMATE >= 2) return ((u64)kv_head * s.n_nodes + s.below + node) * HEAD_DIM;
    int start = (node << s.level) * BLOCK_K, end = min(((node + 1) << s.level) * BLOCK_K, s.n_tokens);
    int key = ESTIMATE == 0 ? start : start + (end - start) / 2;
    return ((u64)key * s.n_kv_heads + kv_head) * HEAD_DIM;
}

// How many standard deviations above its mean the largest of a node's m keys is expected: sqrt(2 ln m).
DEVICE float spread_of(const Search& s) { return sqrtf(2.0f * logf((float)BLOCK_K * (float)(1 << s.level))); }
