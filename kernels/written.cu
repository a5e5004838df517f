// written: the length of what each key writes to the residual stream when it gets all of a head's attention,
// and its mean over the keys of each block, weighted by what they received.
//
// gram[h, i, j] = sum_r W_O[r, h D + i] W_O[r, h D + j]
// out[h, t] = |W_O v| = sqrt(v^T gram[h] v), v the value of key t in the head's group
//
// weight [hidden, n_heads * HEAD_DIM] bf16, the output layer
// gram   [n_heads, HEAD_DIM, HEAD_DIM] f32
// values [n_tokens, n_kv_heads, HEAD_DIM] bf16
// out    [n_heads, n_tokens] f32
// means  [n_heads, n_key_blocks] f32; received [n_heads, n_tokens] f32
// grid gram (HEAD_DIM, n_heads), written (n_tokens / TOKENS, n_heads), written_of_blocks (n_key_blocks /
// BLOCKS, n_heads), rounded up
// Compile with -D HEAD_DIM (at least TOKENS). Any card from sm_80.
// Reference: src/engine/cpu/layer.rs, length and written; tests/cuda.rs compares

constexpr int TOKENS = 32;
constexpr int BLOCKS = 256;  // key blocks, one a thread

GEOMETRY(gram, HEAD_DIM, 1, 1, 0, 0);
GEOMETRY(written, HEAD_DIM, TOKENS, 1, 0, 0);
GEOMETRY(written_of_blocks, BLOCKS, BLOCKS, 1, 0, 0);

struct GramParams {
    const u16* weight;
    float* gram;
    int hidden;
};
static_assert(sizeof(GramParams) == 24, "as in src/engine/cuda/params.rs");

struct WrittenParams {
    const u16* values;
    const float* gram;
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
    int width = gridDim.y * HEAD_DIM;
    const u16* column = p.weight + blockIdx.y * HEAD_DIM;
    float sum = 0.0f;
    for (int r = 0; r < p.hidden; r++) {
        const u16* row = column + (u64)r * width;
        sum += from_bf16(row[blockIdx.x]) * from_bf16(row[threadIdx.x]);
    }
    p.gram[((u64)blockIdx.y * HEAD_DIM + blockIdx.x) * HEAD_DIM + threadIdx.x] = sum;
}

KERNEL void written(const __grid_constant__ WrittenParams p) {
    __shared__ __align__(16) float v[TOKENS][HEAD_DIM];
    __shared__ float sums[TOKENS];
    int n_tokens = p.n_tokens, n_kv_heads = p.n_kv_heads, kv_head = kv_head_of(n_kv_heads);
    int first = blockIdx.x * TOKENS, j = threadIdx.x;
    for (int t = 0; t < TOKENS; t++) {
        u64 row = (u64)min(first + t, n_tokens - 1) * n_kv_heads + kv_head;
        v[t][j] = from_bf16(p.values[row * HEAD_DIM + j]);
    }
    if (j < TOKENS) sums[j] = 0.0f;
    __syncthreads();
    const float* column = p.gram + (u64)blockIdx.y * HEAD_DIM * HEAD_DIM + j;
    float products[TOKENS] = {};  // gram v, this thread's row
    for (int i = 0; i < HEAD_DIM; i += 4) {
        float g[4];
#pragma unroll
        for (int n = 0; n < 4; n++) g[n] = column[(i + n) * HEAD_DIM];
#pragma unroll
        for (int t = 0; t < TOKENS; t++) {
            float4 four = *(const float4*)&v[t][i];
            products[t] += g[0] * four.x + g[1] * four.y + g[2] * four.z + g[3] * four.w;
        }
    }
#pragma unroll
    for (int t = 0; t < TOKENS; t++) {
        float part = products[t] * v[t][j];
        part = warp_sum(part);
        if (j % 32 == 0) atomicAdd(&sums[t], part);
    }
    __syncthreads();
    if (j >= TOKENS || first + j >= n_tokens) return;
    p.out[(u64)blockIdx.y * n_tokens + first + j] = sqrtf(fmaxf(sums[j], 0.0f));
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
