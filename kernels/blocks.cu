// blocks: the parameters that kernels over blocks of queries and keys share, and the geometry of these
// blocks.
//
// A mask has a row for each query block and a column for each key block.

#define NONE 0xFFFFFFFFu  // fills up a row of kept blocks
#define UNSEEN 0x7FFFFF00  // a key that no query sees, nor any of the next 127

// ---- parameters

// Kept blocks of each head and query block.
struct Mask {
    u32* kept;  // [n_heads, n_query_blocks, top_k], ascending, filled up with NONE
    int n_query_blocks, top_k;
};
static_assert(sizeof(Mask) == 16, "as in src/engine/cuda/params.rs");

// Rows of queries: row 0 is the first token of query block `first_block`.
struct Rows {
    int first_block, n_rows;
};
static_assert(sizeof(Rows) == 8, "as in src/engine/cuda/params.rs");

// Of a layer over a prompt.
struct Sizes {
    int n_tokens, n_kv_heads;
    int window;  // keys that a query sees, 0: all before it
};
static_assert(sizeof(Sizes) == 12, "as in src/engine/cuda/params.rs");

// ---- what is seen

// The range that a query block sees: tokens [first_query, end_query), columns [first_column, end_column).
struct Sight {
    int first_query, end_query, first_column, end_column;
};

DEVICE Sight sight_of(int query_block, const Sizes& sizes) {
    Sight s;
    s.first_query = query_block * BLOCK_Q;
    s.end_query = min(s.first_query + BLOCK_Q, sizes.n_tokens);
    s.first_column = sizes.window > 0 ? max(s.first_query + 1 - sizes.window, 0) / BLOCK_K : 0;
    s.end_column = (s.end_query - 1) / BLOCK_K + 1;
    return s;
}

// Returns whether a query sees a key; a window of 0 means no window.
DEVICE bool sees(int query, int key, int window) {
    return key <= query && (window <= 0 || key > query - window);
}

// Returns where the row of a query block starts among the kept blocks.
DEVICE u64 row_of_mask(const Mask& mask, int query_block) {
    return ((u64)blockIdx.y * mask.n_query_blocks + query_block) * mask.top_k;
}
