// attention_rows: the part that the kernels of attention and of its record share: parameters, the key blocks
// of a row, scores.
//
// A slot is a place among a row's key blocks; tiles of TILE keys hold TILE / BLOCK_K slots each.

// ---- parameters; a Tensor is a pointer to bf16, or for Hopper's copy engine a map

// Of attention.cu and attention_sm90.cu.
template <typename Tensor>
struct AttentionParams {
    Tensor queries, keys, values;
    Mask mask;
    u16* out;
    float* lse;
    const float* sinks;
    Rows rows;
    Sizes sizes;
};
static_assert(sizeof(AttentionParams<const u16*>) == 96, "as in src/engine/cuda/params.rs");

// Rows of probabilities of the tokens [first, end).
struct Focus {
    float* rows;
    int first, end;
};
static_assert(sizeof(Focus) == 16, "as in src/engine/cuda/params.rs");

// Inputs of vertical scores.
struct Anchors {
    const u32* limit;
    const float* weight;
    float* received;
};
static_assert(sizeof(Anchors) == 24, "as in src/engine/cuda/params.rs");

// Of attention_record.cu and attention_record_sm90.cu.
template <typename Tensor>
struct RecordParams {
    Tensor queries, keys;
    Mask mask;
    const float* lse;
    float *mass, *received, *shares;
    Focus focus;
    Anchors anchors;
    Rows rows;
    Sizes sizes;
};
static_assert(sizeof(RecordParams<const u16*>) == 136, "as in src/engine/cuda/params.rs");

// ---- key blocks of a row

// Key blocks by slot: kept ones, or without a mask all from `first` on.
struct Row {
    const u32* kept;
    int first, count;
    DEVICE int block(int slot) const { return kept ? (int)kept[slot] : first + slot; }
};

// The kept blocks of a query block, without what fills up their row.
DEVICE Row kept_row(const Mask& mask, int query_block, Sight sight) {
    int count = min(top_k_of(mask), sight.end_column - sight.first_column);
    Row row = {mask.kept + row_of_mask(mask, query_block), 0, count};
    while (row.count > 1 && row.kept[row.count - 1] == NONE) row.count--;
    return row;
}

DEVICE Row visible_row(Sight sight) {
    return {nullptr, sight.first_column, sight.end_column - sight.first_column};
}

// The key at a place of a slot's block.
template <typename Blocks>
DEVICE int key_of(const Blocks& row, int slot, int place) {
    return slot < row.count ? row.block(slot) * BLOCK_K + place : UNSEEN;
}

// Returns whether a tile has a key that some query does not see; most tiles have none.
template <int SLOTS, typename Blocks>
DEVICE bool at_edge(const Blocks& row, Sight sight, int tile, int window) {
    int last = min((tile + 1) * SLOTS, row.count) - 1;
    return (tile + 1) * SLOTS > row.count || row.block(last) * BLOCK_K + BLOCK_K - 1 > sight.first_query ||
           (window > 0 && row.block(tile * SLOTS) * BLOCK_K <= sight.first_query + BLOCK_Q - 1 - window);
}

// ---- scores: a lane has columns 2 (lane % 4) and the next of every eight, of `query` and then of query + 8

// Hides keys after their query, out of its window, or of slots past the row's end, and pairs that
// `hides(query, key)` says. `score(octet, i)` is a lane's score i of eight columns.
template <int TILE, typename Score, typename Hides>
DEVICE void hide(Row row, int tile, int query, int window, Score score, Hides hides) {
    constexpr int WIDTH = BLOCK_K < 8 ? 8 : BLOCK_K;  // columns of which a lane's are in one block
    int column = threadIdx.x % 4 * 2;
#pragma unroll
    for (int group = 0; group < TILE / WIDTH; group++) {
        int slot = (tile * TILE + group * WIDTH + column) / BLOCK_K;
        int first = key_of(row, slot, column % BLOCK_K);
#pragma unroll
        for (int i = 0; i < WIDTH / 2; i++) {
            int q = query + i % 4 / 2 * 8, k = first + i / 4 * 8 + i % 2;
            bool hidden = !sees(q, k, window) || hides(q, k);
            if (hidden) score(group * WIDTH / 8 + i / 4, i % 4) = -infinity();
        }
    }
}

template <int N>
DEVICE void cap_scores(float (&scores)[N]) {
#pragma unroll
    for (int i = 0; i < N; i++) scores[i] = soft_cap(scores[i]);
}

// The logit of this head's sink as a product, and how often a lane counts it: once in a quad, whose sums are added.
DEVICE float sink_of(const float* sinks) {
    return sinks ? sinks[blockIdx.y] * sqrtf((float)HEAD_DIM) : -infinity();
}
DEVICE float count_of_sink(const float* sinks) { return sinks && threadIdx.x % 4 == 0 ? 1.0f : 0.0f; }

// Of the products' largest and of the sum of their exponentials relative to it.
DEVICE float log_sum_exp(float largest, float sum, float scale) {
    return (largest * scale + log2f(sum)) / LOG2E;
}
