// query_block: how the warps of a thread block share a query block and the rows that it is multiplied with:
// each has up to 32 of the queries, those with the same ones take different batches, and none waits for
// another. Stands after rows.cu.
//
// A lane has products of the queries `place_of(0)` to `place_of(OF_LANE - 1)` with rows 2 (lane % 4) and the
// next.

constexpr int M_TILES = BLOCK_Q > 16 && HEAD_DIM <= 128 ? 2 : 1;  // of 16 queries
constexpr int OF_LANE = 2 * M_TILES;
constexpr int WARPS_Q = BLOCK_Q / 16 / M_TILES;
constexpr int WARPS_N = WARPS_Q < 4 ? 4 / WARPS_Q : 1;
constexpr int WARPS = WARPS_Q * WARPS_N;
constexpr int THREADS = 32 * WARPS;
constexpr int MIN_BLOCKS = 16 / WARPS;  // on a multiprocessor

// Query j of a lane in its query block.
DEVICE int place_of(int j) { return threadIdx.x / 32 % WARPS_Q * 16 * M_TILES + j * 8 + threadIdx.x % 32 / 4; }

typedef ProductsOf<M_TILES> Products;
