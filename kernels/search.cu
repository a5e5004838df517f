// search: what the searches and their two ways of scoring share: what is scored, and where its rows lie.
//
// A thread block scores a list of items: nodes of one level by their estimates, or key blocks by their keys.
// Each item has a number of rows of HEAD_DIM values that are multiplied with the queries. A pass over items
// takes the queries' norms, which come to what they had, or scores the items with the norms that are settled,
// or holds what each item gives each query, from which both follow:
//   nodes   the largest estimate over all queries, of TWO_MEANS: less the query's norm
//   keys    the largest share, over all queries, of a query's attention that falls on a key block, or the mean
//           of it; its norm is that attention

// How a node's largest product with a query is estimated; the value of the macro ESTIMATE.
enum Estimate : int { FIRST, MIDDLE, MEAN_SPREAD, TWO_MEANS };

constexpr bool SPREAD = ESTIMATE == MEAN_SPREAD;  // a second product, with variances
constexpr bool CLUSTERS =
    ESTIMATE == TWO_MEANS;  // two rows a node, ranked by their share of each query's attention

enum Pass { NODE_NORMS, NODE_SCORES, NODES_HELD, KEY_NORMS, KEY_SCORES, KEY_MASSES, KEYS_HELD };

constexpr bool of_keys(Pass pass) { return pass >= KEY_NORMS; }
constexpr int rows_of(Pass pass) { return of_keys(pass) ? BLOCK_K : CLUSTERS ? 2 : 1; }

// ---- parameters

// Key blocks that are kept without a search.
struct Rule {
    int sink_blocks, local_blocks;
};
static_assert(sizeof(Rule) == 8, "as in src/engine/cuda/params.rs");

// What estimates read of nodes, as pyramid.cu and clusters.cu order them.
struct Nodes {
    const u16 *means, *variances;
    const float* spreads;
    int n_nodes;
};
static_assert(sizeof(Nodes) == 32, "as in src/engine/cuda/params.rs");

// ---- what competes

// The visible columns that have to compete, and how many of them may stay.
struct Candidates {
    int first_column, end_column, budget;
};

DEVICE Candidates candidates_of(Sight s, Rule rule, int top_k) {
    Candidates c;
    c.first_column = max(s.first_column, min(rule.sink_blocks, s.end_column));
    c.end_column = max(s.end_column - rule.local_blocks, c.first_column);
    c.budget = top_k - (c.first_column - s.first_column) - (s.end_column - c.end_column);
    return c;
}

// ---- where items lie

// Of this thread block's head.
struct Search {
    const u16* keys;  // the first one of its key-value head
    u32 key_stride;   // values from a key to the next
    Nodes nodes;
    u64 first_node;  // of its key-value head
    Sizes sizes;
    int level, first_column, end_column;
    u64 below;    // nodes below the current level
    float reach;  // sqrt(2 ln m): deviations by which the largest of a node's m keys exceeds their mean
};

DEVICE Search search_of(const u16* keys, const Nodes& nodes, const Sizes& sizes, Candidates c) {
    int kv_head = kv_head_of(sizes.n_kv_heads);
    Search s = {keys + kv_head * HEAD_DIM, (u32)sizes.n_kv_heads * HEAD_DIM, nodes,
                (u64)kv_head * nodes.n_nodes, sizes};
    s.first_column = c.first_column, s.end_column = c.end_column;
    return s;
}

// Returns whether all of a node's blocks compete.
DEVICE bool is_inside(const Search& s, u32 node) {
    return node << s.level >= s.first_column && (node + 1) << s.level <= s.end_column;
}

// Where the rows of a pass start; where node 0 of the level is, or key 0.
template <Pass PASS>
DEVICE const u16* rows_of_pass(const Search& s) {
    if (!of_keys(PASS) && CLUSTERS) return s.nodes.means + 2 * (s.first_node + s.below) * HEAD_DIM;
    if (!of_keys(PASS) && SPREAD) return s.nodes.means + (s.first_node + s.below) * HEAD_DIM;
    return s.keys;
}

// Which of them is row `row` of an item: a key of a block; a node's mean, or its first or middle key.
template <Pass PASS>
DEVICE u32 index_of_row(const Search& s, u32 item, u32 row) {
    u32 n_tokens = s.sizes.n_tokens;
    if (of_keys(PASS)) return min(item * BLOCK_K + row, n_tokens - 1);
    if (CLUSTERS || SPREAD) return item * rows_of(PASS) + row;
    u32 start = (item << s.level) * BLOCK_K, end = min(((item + 1) << s.level) * BLOCK_K, n_tokens);
    return ESTIMATE == FIRST ? start : start + (end - start) / 2;
}

// Values from a row of a pass to the next.
template <Pass PASS>
DEVICE u32 row_stride(const Search& s) {
    return of_keys(PASS) || !(CLUSTERS || SPREAD) ? s.key_stride : HEAD_DIM;
}

// The two spreads of node 0 of the level.
DEVICE const float2* spreads_of(const Search& s) {
    return (const float2*)s.nodes.spreads + s.first_node + s.below;
}

// Goes to a level.
DEVICE void go_to(Search& s, int level) {
    s.level = level, s.below = 0;
    int n_key_blocks = (s.sizes.n_tokens + BLOCK_K - 1) / BLOCK_K;
    for (int l = 0; l < level; l++) s.below += (n_key_blocks + (1 << l) - 1) >> l;
    s.reach = sqrtf(2.0f * logf((float)BLOCK_K * (float)(1 << level)));
}

// Returns the number of nodes of the level that cover the candidates.
DEVICE int nodes_at(const Search& s, int level) {
    return ((s.end_column - 1) >> level) - (s.first_column >> level) + 1;
}

// ---- norms: HEAD_DIM^0.5 times the log-sum-exp of a query's products over HEAD_DIM^0.5, as running maximum
// and sum

constexpr float root_of_head_dim(float x, int steps) {
    return steps ? root_of_head_dim((x + HEAD_DIM / x) / 2, steps - 1) : x;
}
constexpr float TEMPERATURE = root_of_head_dim(16.0f, 6);

// From a product to the binary logarithm of its exponential.
constexpr float TO_LOG2 = LOG2E / TEMPERATURE;

// Returns e to the difference of two products over the temperature.
DEVICE float ratio(float x, float to) { return exp2_fast((x - to) * TO_LOG2); }

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
    return joined(a, {exchanged(a.most, lanes_apart), exchanged(a.sum, lanes_apart)});
}

DEVICE float value_of(Norm n) { return n.most + TEMPERATURE * logf(n.sum); }
