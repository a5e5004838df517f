// search: what the searches and their two ways of scoring share: what is scored, and where its rows lie.
//
// A thread block scores a list of items: nodes of one level by their estimates, or key blocks by their keys. Each item has a
// number of rows of HEAD_DIM values that are multiplied with the queries. A pass over items either takes the queries' norms,
// which come to what they had, or scores the items with the norms that are settled:
//   nodes   the largest estimate over all queries, ESTIMATE 3: less the query's norm
//   keys    the largest share, over all queries, of a query's attention that falls on a key block; its norm is that attention

constexpr bool SPREAD = ESTIMATE == 2;    // a second product, with variances
constexpr bool CLUSTERS = ESTIMATE == 3;  // two rows a node, ranked by their share of each query's attention

enum Pass { NODE_NORMS, NODE_SCORES, KEY_NORMS, KEY_SCORES };

constexpr bool of_keys(Pass pass) { return pass == KEY_NORMS || pass == KEY_SCORES; }
constexpr int rows_of(Pass pass) { return of_keys(pass) ? BLOCK_K : CLUSTERS ? 2 : 1; }

struct Search {
    const u16 *keys, *means, *variances;
    const float* spreads;
    int n_tokens, window, n_kv_heads, n_nodes, level, c0, c1;
    u64 below;    // nodes below the current level
    float reach;  // how many standard deviations above its mean the largest of a node's m keys is expected: sqrt(2 ln m)
};

DEVICE int kv_head_of(const Search& s) { return blockIdx.y / (gridDim.y / s.n_kv_heads); }

// Whether all of a node's blocks compete.
DEVICE bool is_inside(const Search& s, u32 node) { return node << s.level >= s.c0 && (node + 1) << s.level <= s.c1; }

// A node's place among all nodes of its key-value head.
DEVICE u64 place_of(const Search& s, u32 node) { return (u64)kv_head_of(s) * s.n_nodes + s.below + node; }

// Where a row of an item starts: a key of a block; a node's mean, or its first or middle key.
template <Pass PASS>
DEVICE const u16* row_of(const Search& s, u32 item, int row) {
    if (!of_keys(PASS) && CLUSTERS) return s.means + (2 * place_of(s, item) + row) * HEAD_DIM;
    if (!of_keys(PASS) && SPREAD) return s.means + place_of(s, item) * HEAD_DIM;
    int start = (item << s.level) * BLOCK_K, end = min(((item + 1) << s.level) * BLOCK_K, s.n_tokens);
    int key = of_keys(PASS) ? min(start + row, s.n_tokens - 1) : ESTIMATE == 0 ? start : start + (end - start) / 2;
    return s.keys + ((u64)key * s.n_kv_heads + kv_head_of(s)) * HEAD_DIM;
}

// Goes to a level.
DEVICE void go_to(Search& s, int level) {
    s.level = level, s.below = 0;
    int n_key_blocks = (s.n_tokens + BLOCK_K - 1) / BLOCK_K;
    for (int l = 0; l < level; l++) s.below += (n_key_blocks + (1 << l) - 1) >> l;
    s.reach = sqrtf(2.0f * logf((float)BLOCK_K * (float)(1 << level)));
}

// How many nodes of the level cover the candidates.
DEVICE int nodes_at(const Search& s, int level) { return ((s.c1 - 1) >> level) - (s.c0 >> level) + 1; }

// ---- norms: HEAD_DIM^0.5 times the log-sum-exp of a query's products over HEAD_DIM^0.5, as running maximum and sum

constexpr float root_of_head_dim(float x, int steps) { return steps ? root_of_head_dim((x + HEAD_DIM / x) / 2, steps - 1) : x; }
constexpr float TEMPERATURE = root_of_head_dim(16.0f, 6);

// e to the difference of two products over the temperature.
DEVICE float ratio(float x, float to) { return exp2_fast((x - to) * (LOG2E / TEMPERATURE)); }

struct Norm {
    float most, sum;
};

DEVICE Norm no_norm() { return {-1e30f, 0.0f}; }

DEVICE Norm joined(Norm a, Norm b) {
    float most = fmaxf(a.most, b.most);
    return {most, a.sum * ratio(a.most, most) + b.sum * ratio(b.most, most)};
}

// Joins the norms of lanes that far apart.
DEVICE Norm joined(Norm a, int lanes_apart) {
    return joined(a, {__shfl_xor_sync(~0u, a.most, lanes_apart), __shfl_xor_sync(~0u, a.sum, lanes_apart)});
}

DEVICE float value_of(Norm n) { return n.most + TEMPERATURE * logf(n.sum); }
