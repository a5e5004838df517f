// written: the length of what each key writes to the residual stream when it gets all of a head's attention,
// and its mean over the keys of each block, weighted by what they received.
//
// gram[h, i, j] = sum_r W_O[r, h D + i] W_O[r, h D + j]
// out[h, t] = |W_O v| = sqrt(v^T gram[h] v), v the value of key t in the head's group
//
// weight [hidden, n_heads * HEAD_DIM] bf16, the output layer
// gram   [n_heads, 2, HEAD_DIM, HEAD_DIM] bf16: the numbers rounded, and what rounding left
// values [n_tokens, n_kv_heads, HEAD_DIM] bf16
// out    [n_heads, n_tokens] f32
// means  [n_heads, n_key_blocks] f32; received [n_heads, n_tokens] f32
// grid gram (HEAD_DIM / ROWS_OF_GRAM, n_heads), written (n_tokens / TOKENS, n_heads), written_of_blocks (n_key_blocks /
// BLOCKS, n_heads), rounded up
// Stands after rows.cu. Compile with -D HEAD_DIM. Any card from sm_80.
// Reference: src/engine/cpu/layer.rs, length and written; tests/cuda.rs compares

constexpr int M = HEAD_DIM > 128 ? 1 : 2;  // times 16 tokens a warp has
constexpr int WARPS = 4;
constexpr int TOKENS = WARPS * 16 * M;
constexpr int BLOCKS = 256;      // key blocks, one a thread
constexpr int ROWS_OF_GRAM = 8;  // of a thread block
constexpr int SHARES = 512 / HEAD_DIM;  // of the output rows, whose products are added up by different threads

GEOMETRY(gram, SHARES * HEAD_DIM, ROWS_OF_GRAM, 1, 0, 0);
GEOMETRY(written, 32 * WARPS, TOKENS, 1, 0, 0);
GEOMETRY(written_of_blocks, BLOCKS, BLOCKS, 1, 0, 0);

struct GramParams {
    const u16* weight;
    u16* gram;
    int hidden;
};
static_assert(sizeof(GramParams) == 24, "as in src/engine/cuda/params.rs");

struct WrittenParams {
    const u16 *values, *gram;
    float* out;
    int n_tokens, n_kv_heads;
};
static_assert(sizeof(WrittenParams) == 32, "as in src/engine/cuda/params.rs");

struct WrittenOfBlocksParams {
    const float *lengths, *received;
    float* means;
    int n_tokens, block_size;
};
static_assert(sizeof(WrittenOfBlocksParams) == 32, "as in src/engine/cuda/params.rs");

KERNEL void gram(const __grid_constant__ GramParams p) {
    __shared__ float parts[SHARES][ROWS_OF_GRAM][HEAD_DIM];
    int width = gridDim.y * HEAD_DIM, first = blockIdx.x * ROWS_OF_GRAM;
    int dim = threadIdx.x % HEAD_DIM, share = threadIdx.x / HEAD_DIM;
    const u16* column = p.weight + blockIdx.y * HEAD_DIM;
    float sums[ROWS_OF_GRAM] = {};
#pragma unroll 8
    for (int r = share; r < p.hidden; r += SHARES) {
        const u16* row = column + (u64)r * width;
        uint4 v = load_16(row + first);
        u32 pairs[4] = {v.x, v.y, v.z, v.w};
        float own = from_bf16(row[dim]);
#pragma unroll
        for (int i = 0; i < ROWS_OF_GRAM; i++) {
            sums[i] += (i % 2 ? high_bf16(pairs[i / 2]) : low_bf16(pairs[i / 2])) * own;
        }
    }
#pragma unroll
    for (int i = 0; i < ROWS_OF_GRAM; i++) parts[share][i][dim] = sums[i];
    __syncthreads();
    u16* out = p.gram + ((u64)blockIdx.y * 2 * HEAD_DIM + first) * HEAD_DIM + dim;
    for (int i = share; i < ROWS_OF_GRAM; i += SHARES) {
        float sum = 0.0f;
        for (int other = 0; other < SHARES; other++) sum += parts[other][i][dim];
        u16 rounded = to_bf16(sum);
        out[i * HEAD_DIM] = rounded;
        out[(HEAD_DIM + i) * HEAD_DIM] = to_bf16(sum - from_bf16(rounded));
    }
}

// Tokens are the rows of A, rows of gram the columns of B, in an order in which a lane has their products with
// the dimensions of its tokens that it holds.
KERNEL void __launch_bounds__(32 * WARPS) written(const __grid_constant__ WrittenParams p) {
    int n_tokens = p.n_tokens, n_kv_heads = p.n_kv_heads, lane = threadIdx.x % 32;
    int first = blockIdx.x * TOKENS + threadIdx.x / 32 * 16 * M + lane / 4;
    const u16* values = p.values + kv_head_of(n_kv_heads) * HEAD_DIM;
    const u16* gram = p.gram + (u64)blockIdx.y * 2 * HEAD_DIM * HEAD_DIM + lane % 4 * 8;
    QueryRows<M> v;
    float sums[2 * M] = {};
#pragma unroll
    for (int j = 0; j < 2 * M; j++) {
        v.load(j, values + (u64)min(first + j * 8, n_tokens - 1) * n_kv_heads * HEAD_DIM, [](u32) {});
    }
#pragma unroll
    for (int i = 0; i < HEAD_DIM / 8; i++) {
        const u16* row = gram + (i / 4 * 32 + lane / 8 * 8 + i % 4 * 2 + lane / 4 % 2) * HEAD_DIM;
        RowPart rounded, rest;
        rounded.load(row), rest.load(row + HEAD_DIM * HEAD_DIM);
        ProductsOf<M> a = multiply_rows(v, rounded), b = multiply_rows(v, rest);
#pragma unroll
        for (int j = 0; j < 2 * M; j++) {
            u32 pair = v.of[i / 4 * 2 + i % 4 / 2][j / 2][i % 2 * 2 + j % 2];
            sums[j] += (a(j, 0) + b(j, 0)) * low_bf16(pair) + (a(j, 1) + b(j, 1)) * high_bf16(pair);
        }
    }
#pragma unroll
    for (int j = 0; j < 2 * M; j++) {
        float square = quad_sum(sums[j]);
        if (lane % 4 > 0 || first + j * 8 >= n_tokens) continue;
        p.out[(u64)blockIdx.y * n_tokens + first + j * 8] = sqrtf(fmaxf(square, 0.0f));
    }
}

KERNEL void written_of_blocks(const __grid_constant__ WrittenOfBlocksParams p) {
    int n_tokens = p.n_tokens, block_size = p.block_size;
    int n_blocks = (n_tokens + block_size - 1) / block_size, b = blockIdx.x * BLOCKS + threadIdx.x;
    if (b >= n_blocks) return;
    float sum = 0.0f, weights = 0.0f;
    for (int t = b * block_size; t < min((b + 1) * block_size, n_tokens); t++) {
        u64 at = (u64)blockIdx.y * n_tokens + t;
        float weight = p.received[at] + 1e-9f;  // keys that nobody looks at count a little
        sum += weight * p.lengths[at];
        weights += weight;
    }
    p.means[(u64)blockIdx.y * n_blocks + b] = sum / weights;
}
