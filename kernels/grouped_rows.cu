// grouped_rows: the part that grouped.cu and grouped_sm90.cu share: parameters, which places a thread block takes,
// copies to shared memory, results.
//
// grouped_gate: out[i] = ACTIVATION(gate x[rows[i]], up x[rows[i]])
// grouped_down: out[i] = down x[i]
//
// where place i belongs to one of the experts, whose weights these are: places are sorted by expert, counts[e] of them
// belong to expert e. A thread block multiplies ROWS places of one expert with two blocks of COLUMNS rows of its
// weights: the same rows of gate and up, or neighbouring ones of down. DEPTH numbers of each row are a step; a step's
// rows of places stand in shared memory before those of both blocks of weights.
//
// x [., n_in] bf16; rows [n_places] u32 (rows_by_expert of experts.cu), null where x has a row for each place
// counts [n_experts] u32
// weights [n_experts, 2] addresses of [n_out, n_in] bf16: gate and up, or down twice
// biases [n_experts, 2] addresses of [n_out] bf16, or null; limit: that of gated_clamped
// out [n_places, n_out] bf16; n_in, n_out multiples of 8
// grid (tiles of COLUMNS columns of out, or 2 COLUMNS of grouped_down; as many tiles of ROWS places as there may be)
// Compile with -D ACTIVATION (activations.cu)
// Reference: tests/cuda/reference.py, grouped

constexpr int ROWS = 128;
constexpr int COLUMNS = 128;
constexpr int DEPTH = 64;
constexpr int THREADS = 256;
constexpr int PARTS = DEPTH / 8;          // of a row, 16 bytes each
constexpr int ROW_BYTES = 2 * DEPTH;
constexpr int STAGE_BYTES = (ROWS + 2 * COLUMNS) * ROW_BYTES;
constexpr int AT_ONCE = THREADS / PARTS;  // rows of which all threads bring a part
constexpr int ALIGNED = 1024;             // to align the first stage
constexpr int BAND = 16;

struct GroupedParams {
    const u16* x;
    const u32 *rows, *counts;
    const u16 *const *weights, *const *biases;
    u16* out;
    int n_experts, n_in, n_out;
    float limit;
};
static_assert(sizeof(GroupedParams) == 64, "as in src/engine/cuda/expert_params.rs");

// ---- which places a thread block takes

struct Tile {
    int expert, first, end, column;  // no expert: -1; `column` is a number of tiles
};

// The sum over the lanes before this one.
DEVICE int sum_before(int x) {
    int sum = x, lane = threadIdx.x % 32;
#pragma unroll
    for (int apart = 1; apart < 32; apart *= 2) {
        int other = __shfl_up_sync(~0u, sum, apart);
        if (lane >= apart) sum += other;
    }
    return sum - x;
}

DEVICE int tiles_of(u32 n_places) { return (n_places + ROWS - 1) / ROWS; }

// Thread blocks of an expert that run together share what they read: BAND tiles of places go through all columns
// before the next ones do.
DEVICE Tile tile_of_expert(int expert, int place, int n_places, int tile) {
    int n_columns = gridDim.x, i = tile * n_columns + blockIdx.x;
    int band = i / (BAND * n_columns) * BAND, n = min(BAND, tiles_of(n_places) - band);
    i -= band * n_columns;
    return {expert, place + (band + i % n) * ROWS, place + n_places, i / n};
}

// A lane counts some neighbouring experts.
DEVICE Tile find_tile(const u32* counts, int n_experts) {
    int each = (n_experts + 31) / 32, first = threadIdx.x % 32 * each, end = min(first + each, n_experts);
    int n_tiles = 0, n_places = 0;
    for (int e = first; e < end; e++) n_tiles += tiles_of(counts[e]), n_places += counts[e];
    int tile = (int)blockIdx.y - sum_before(n_tiles), place = sum_before(n_places);
    Tile found = {-1, 0, 0, 0};
    for (int e = first; e < end && tile >= 0 && found.expert < 0; e++) {
        int n = counts[e];
        if (tile < tiles_of(n)) found = tile_of_expert(e, place, n, tile);
        tile -= tiles_of(n), place += n;
    }
    u32 lanes = __ballot_sync(~0u, found.expert >= 0);
    if (lanes == 0) return found;
    int lane = __ffs(lanes) - 1;
    return {__shfl_sync(~0u, found.expert, lane), __shfl_sync(~0u, found.first, lane), __shfl_sync(~0u, found.end, lane),
            __shfl_sync(~0u, found.column, lane)};
}

// ---- copies to shared memory; the parts of eight rows are exchanged as the copy engine's 128-byte swizzle does

DEVICE u32 place_of_part(int row, int part) { return row * ROW_BYTES + (part ^ row % 8) * 16; }

// Copies 16 bytes, or fills them with zeros.
DEVICE void copy_part(u32 to, const u16* from, bool inside) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(inside ? 16 : 0) : "memory");
}

DEVICE void end_step() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until at most `PENDING` steps of this thread are on their way.
template <int PENDING>
DEVICE void wait_for_steps() { asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory"); }

// The rows of which a thread brings a part.
struct Sources {
    const u16 *places[ROWS / AT_ONCE], *weights[2][COLUMNS / AT_ONCE];

    // Rows past the end repeat the last.
    DEVICE Sources(const GroupedParams& p, Tile tile, int first_column, int second_column) {
        int row = threadIdx.x / PARTS, part = threadIdx.x % PARTS * 8;
#pragma unroll
        for (int i = 0; i < ROWS / AT_ONCE; i++) {
            int place = min(tile.first + row + i * AT_ONCE, tile.end - 1);
            places[i] = p.x + (u64)(p.rows ? p.rows[place] : place) * p.n_in + part;
        }
#pragma unroll
        for (int i = 0; i < 2 * COLUMNS / AT_ONCE; i++) {
            int block = i % 2, column = (block ? second_column : first_column) + row + i / 2 * AT_ONCE;
            weights[block][i / 2] = p.weights[2 * tile.expert + block] + (u64)min(column, p.n_out - 1) * p.n_in + part;
        }
    }

    // Starts to copy a step that begins with number `at`; all of it are one group.
    DEVICE void copy(u32 stage, int at, int n_in) const {
        int row = threadIdx.x / PARTS, part = threadIdx.x % PARTS;
        bool inside = at + part * 8 < n_in;
        u32 to = stage + place_of_part(row, part);
        if (at < n_in) {
#pragma unroll
            for (int i = 0; i < ROWS / AT_ONCE; i++) copy_part(to + i * AT_ONCE * ROW_BYTES, places[i] + at, inside);
#pragma unroll
            for (int i = 0; i < 2 * COLUMNS / AT_ONCE; i++) {
                int below = ROWS + i % 2 * COLUMNS + i / 2 * AT_ONCE;
                copy_part(to + below * ROW_BYTES, weights[i % 2][i / 2] + at, inside);
            }
        }
        end_step();
    }
};

// The first stage in dynamic shared memory.
DEVICE u32 first_stage(u8* shared) { return (shared_address(shared) + ALIGNED - 1) / ALIGNED * ALIGNED; }

// ---- results

DEVICE u32 bias_of(const GroupedParams& p, Tile tile, int block, int column) {
    return p.biases ? *(const u32*)(p.biases[2 * tile.expert + block] + column) : 0;
}

DEVICE void write_pair(const GroupedParams& p, int place, int column, float low, float high) {
    *(u32*)(p.out + (u64)place * p.n_out + column) = pack_bf16(low, high);
}

// Two neighbouring columns of gate and up.
DEVICE void write_gated(const GroupedParams& p, Tile tile, int place, int column, const float* gate, const float* up) {
    if (place >= tile.end || column >= p.n_out) return;
    u32 of_gate = bias_of(p, tile, 0, column), of_up = bias_of(p, tile, 1, column);
    write_pair(p, place, column, ACTIVATION(gate[0] + low_bf16(of_gate), up[0] + low_bf16(of_up), p.limit),
               ACTIVATION(gate[1] + high_bf16(of_gate), up[1] + high_bf16(of_up), p.limit));
}

// Two neighbouring columns of a block.
DEVICE void write_sums(const GroupedParams& p, Tile tile, int place, int block, int column, const float* sums) {
    if (place >= tile.end || column >= p.n_out) return;
    u32 bias = bias_of(p, tile, block, column);
    write_pair(p, place, column, sums[0] + low_bf16(bias), sums[1] + high_bf16(bias));
}
