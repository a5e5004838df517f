// recall: the share of dense attention that falls on kept keys, summed over rows.
//
// A row's dense mass on its kept keys is exp(lse_kept - lse_dense): both are log-sums of the same terms.
//
// lse_kept, lse_dense [n_heads, n_rows] f32, as attention.cu writes them
// recall              [n_heads] f32, added to
// grid (n_heads)
// Reference: tests/cuda/reference.py, recall

constexpr int THREADS = 256;

GEOMETRY(recall, THREADS, 1, 1, 0, 0);

struct RecallParams {
    const float *lse_kept, *lse_dense;
    float* recall;
    int n_rows;
};
static_assert(sizeof(RecallParams) == 32, "as in src/engine/cuda/params.rs");

KERNEL void recall(const __grid_constant__ RecallParams p) {
    __shared__ float partial[THREADS / 32];
    float sum = 0.0f;
    for (int r = threadIdx.x; r < p.n_rows; r += THREADS) {
        u64 at = (u64)blockIdx.x * p.n_rows + r;
        sum += exp2_fast((p.lse_kept[at] - p.lse_dense[at]) * LOG2E);
    }
    sum = warp_sum(sum);
    if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = sum;
    __syncthreads();
    if (threadIdx.x > 0) return;
    for (int w = 1; w < THREADS / 32; w++) sum += partial[w];
    p.recall[blockIdx.x] += sum;
}
