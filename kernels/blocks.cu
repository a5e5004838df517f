// blocks: the parameters that kernels over blocks of queries and keys share, and the geometry of these
// blocks.
//
// A mask has a row for each query block and a column for each key block.

#define NONE 0xFFFFFFFFu  // fills up a row of kept blocks
#define UNSEEN 0x7FFFFF00  // a key that no query sees, nor any of the next 127

// ---- parameters

// Kept blocks of each head and query block: the rows of all query blocks, head by head, each as long as the
// head's budget, ascending, filled up with NONE.
struct Mask {
    u32* kept;
    const uint2* budgets;  // [n_heads]: blocks in a row of the head, and in one row of each head before it
    int n_query_blocks, first_query_block;  // those of which there are rows
};
static_assert(sizeof(Mask) == 24, "as in src/engine/cuda/params.rs");

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

// Where the last query block is, of a prompt that grows while launches are repeated as they are: these take rows as if
// they were the last of n_tokens.
struct Place {
    u32 length, first_row;  // of the prompt; of the rows, the block's or its last one alone
};

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

// Returns the budget of this thread block's head, blockIdx.y.
DEVICE int top_k_of(const Mask& mask) { return (int)mask.budgets[blockIdx.y].x; }

// Returns where row `row` of this head starts, where each head has `n_rows` rows.
DEVICE u64 row_of_head(const Mask& mask, u64 row, u64 n_rows) {
    uint2 budget = mask.budgets[blockIdx.y];
    return budget.y * n_rows + row * budget.x;
}

// Returns where the row of a query block starts among the kept blocks.
DEVICE u64 row_of_mask(const Mask& mask, int query_block) {
    return row_of_head(mask, query_block - mask.first_query_block, mask.n_query_blocks);
}
