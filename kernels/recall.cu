// recall: the share of dense attention that falls on kept keys, summed over rows.
//
// A row's dense mass on its kept keys is exp(lse_kept - lse_dense): both are log-sums of the same terms.
//
// lse_kept, lse_dense [n_heads, n_rows] f32, as attention.cu writes them
// recall              [n_heads] f32, added to
// grid (n_heads), block 256, no dynamic shared memory
// Reference: tests/cuda/reference.py, recall

KERNEL void recall(const float* lse_kept, const float* lse_dense, float* recall, int n_rows) {
    __shared__ float partial[8];
    float sum = 0.0f;
    for (int r = threadIdx.x; r < n_rows; r += blockDim.x) {
        u64 at = (u64)blockIdx.x * n_rows + r;
        sum += exp2_fast((lse_kept[at] - lse_dense[at]) * LOG2E);
    }
    for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(~0u, sum, step);
    if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = sum;
    __syncthreads();
    if (threadIdx.x > 0) return;
    for (int w = 1; w < 8; w++) sum += partial[w];
    recall[blockIdx.x] += sum;
}
