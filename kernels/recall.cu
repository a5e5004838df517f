// recall:  the share of dense attention to keys that falls on kept ones, summed over rows.
// on_sink: the mass on a head's sink, mean over the queries of each block.
//
// A row's dense mass on its kept keys and its sink is exp(lse_kept - lse_dense): both are log-sums of the same terms.
// That on the sink alone is exp(sink - lse).
//
// lse_kept, lse_dense, lse [n_heads, n_rows] f32, as attention.cu writes them
// sinks                    [n_heads] f32, of recall or null
// recall                   [n_heads] f32, added to
// mass                     [n_heads, n_query_blocks] f32: of query blocks from first_block on
// grid recall (n_heads), on_sink (query blocks of these rows, n_heads)
// Reference: tests/cuda/reference.py, recall, on_sink

constexpr int THREADS = 256;

GEOMETRY(recall, THREADS, 1, 1, 0, 0);
GEOMETRY(on_sink, 32, 1, 1, 0, 0);

struct RecallParams {
    const float *lse_kept, *lse_dense, *sinks;
    float* recall;
    int n_rows;
};
static_assert(sizeof(RecallParams) == 40, "as in src/engine/cuda/params.rs");

struct OnSinkParams {
    const float *lse, *sinks;
    float* mass;
    int n_rows, block_size, first_block, n_query_blocks;
};
static_assert(sizeof(OnSinkParams) == 40, "as in src/engine/cuda/params.rs");

DEVICE float exp_fast(float x) { return exp2_fast(x * LOG2E); }

KERNEL void recall(const __grid_constant__ RecallParams p) {
    __shared__ float partial[THREADS / 32];
    float sum = 0.0f;
    for (int r = threadIdx.x; r < p.n_rows; r += THREADS) {
        u64 at = (u64)blockIdx.x * p.n_rows + r;
        float on_sink = p.sinks ? exp_fast(p.sinks[blockIdx.x] - p.lse_dense[at]) : 0.0f;
        float on_kept = exp_fast(p.lse_kept[at] - p.lse_dense[at]) - on_sink, on_keys = 1.0f - on_sink;
        // Where all is on the sink, nothing of what is on keys is lost.
        sum += on_keys > 1e-6f ? on_kept / on_keys : 1.0f;
    }
    sum = warp_sum(sum);
    if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = sum;
    __syncthreads();
    if (threadIdx.x > 0) return;
    for (int w = 1; w < THREADS / 32; w++) sum += partial[w];
    p.recall[blockIdx.x] += sum;
}

KERNEL void on_sink(const __grid_constant__ OnSinkParams p) {
    int first = blockIdx.x * p.block_size, n = min(p.block_size, p.n_rows - first);
    float sum = 0.0f;
    for (int r = threadIdx.x; r < n; r += 32) {
        sum += exp_fast(p.sinks[blockIdx.y] - p.lse[(u64)blockIdx.y * p.n_rows + first + r]);
    }
    sum = warp_sum(sum);
    if (threadIdx.x == 0) p.mass[(u64)blockIdx.y * p.n_query_blocks + p.first_block + blockIdx.x] = sum / n;
}
