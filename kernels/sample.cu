// sample: what sampled query blocks look at, every key read, and how much of it their kept blocks hold. O(T)
// time for a query block.
//
// sample_norms, then sample_masses: mass(block) = mean over a sampled query block's queries of the share of its
// attention to the visible keys that falls on the key block.
// sample_histogram: how many candidates of each sampled query block have about the same mass.
// sample_recall: the mass on the kept blocks.
// Reference: tests/cuda/reference.py, sample_masses; src/engine/cpu/search/attention_share.rs, mean_masses;
// src/engine/search/sample.rs, Histogram
//
// queries [n_rows, n_heads, HEAD_DIM] bf16, those of the sampled query blocks of this launch one after the
//         other
// keys    [n_tokens, n_kv_heads, HEAD_DIM] bf16
// norms   [n_heads, n_sampled, n_segments, BLOCK_Q] f32
// masses  [n_sampled, n_heads, n_key_blocks] u32, zeroed by the caller: 2^31 is 1
// sample  [n_sampled] u32: query blocks, ascending
// counts, sums [n_heads, n_sampled, BINS] u32: of the masses from 2^(-(bin + 1) / 4) to
//         2^(-bin / 4), the last bin of all that are less
// recall  [n_heads, n_sampled] u32, zeroed by the caller: 2^31 is 1
// grid norms and masses (n_sampled n_segments, n_heads), histogram and recall (n_sampled, n_heads)
// Stands after segments.cu. Compile with -D HEAD_DIM, BLOCK_Q (16 to 128), BLOCK_K (4 to 64), SOFT_CAP
// (soft_cap.cu), ESTIMATE=FIRST.

constexpr int BINS = 128;
constexpr int COUNTING = 128;

GEOMETRY(sample_norms, THREADS, 1, 1, SETTLING, 0);
GEOMETRY(sample_masses, THREADS, 1, 1, SETTLING, 0);
GEOMETRY(sample_histogram, COUNTING, 1, 1, 0, 0);
GEOMETRY(sample_recall, COUNTING, 1, 1, 0, 0);

struct SampleParams {
    const u16 *queries, *keys;
    const u32* sample;
    float* norms;
    u32* masses;
    Sizes sizes;
    int n_segments;
};
static_assert(sizeof(SampleParams) == 56, "as in src/engine/cuda/params.rs");

struct HistogramParams {
    const u32 *masses, *sample;
    u32 *counts, *sums;
    Sizes sizes;
    Rule rule;
};
static_assert(sizeof(HistogramParams) == 56, "as in src/engine/cuda/params.rs");

struct SampleRecallParams {
    const u32 *masses, *sample;
    u32* recall;
    Mask mask;
    Sizes sizes;
};
static_assert(sizeof(SampleRecallParams) == 64, "as in src/engine/cuda/params.rs");

template <Pass PASS, typename Done>
DEVICE void sample(const SampleParams& p, Done done) {
    extern __shared__ __align__(16) u8 shared[];
    int sampled = blockIdx.x / p.n_segments;
    Sight sight = sight_of(p.sample[sampled], p.sizes);
    Queries q;
    load_queries(q, p.queries, sight, sight.first_query - sampled * BLOCK_Q, shared);
    Search s = search_of(p.keys, Nodes{}, p.sizes, Candidates{sight.first_column, sight.end_column, 0});
    int2 segment = segment_of(sight.first_column, sight.end_column, p.n_segments);
    if (PASS == KEY_MASSES) join_norms(q, norms_of(p.norms, p.n_segments), p.n_segments);
    pass_over<PASS>(s, segment, q, shared, done);
    if (PASS == KEY_MASSES) return;
    settle_norms(q, shared);
    write_norms(q, norms_of(p.norms, p.n_segments), p.n_segments);
}

KERNEL void __launch_bounds__(THREADS, MIN_BLOCKS) sample_norms(const __grid_constant__ SampleParams p) {
    sample<KEY_NORMS>(p, [](int, u32) {});
}

KERNEL void __launch_bounds__(THREADS, MIN_BLOCKS) sample_masses(const __grid_constant__ SampleParams p) {
    int n_key_blocks = (p.sizes.n_tokens + BLOCK_K - 1) / BLOCK_K;
    u32* out = p.masses + ((u64)(blockIdx.x / p.n_segments) * gridDim.y + blockIdx.y) * n_key_blocks;
    sample<KEY_MASSES>(p, [&](int block, u32 mass) { out[block] = mass; });
}

// The masses of a sampled query block for this head.
DEVICE const u32* masses_of(const u32* masses, const Sizes& sizes) {
    int n_key_blocks = (sizes.n_tokens + BLOCK_K - 1) / BLOCK_K;
    return masses + ((u64)blockIdx.x * gridDim.y + blockIdx.y) * n_key_blocks;
}

DEVICE int bin_of(u32 mass) {
    if (mass == 0) return BINS - 1;
    return min((int)fmaxf(0.0f, (31.0f - log2f((float)mass)) * 4.0f), BINS - 1);
}

KERNEL void sample_histogram(const __grid_constant__ HistogramParams p) {
    __shared__ u32 counts[BINS], sums[BINS];
    for (int i = threadIdx.x; i < BINS; i += COUNTING) counts[i] = 0, sums[i] = 0;
    __syncthreads();
    Candidates c = candidates_of(sight_of(p.sample[blockIdx.x], p.sizes), p.rule, 0);
    const u32* masses = masses_of(p.masses, p.sizes);
    for (int b = c.first_column + threadIdx.x; b < c.end_column; b += COUNTING) {
        atomicAdd(&counts[bin_of(masses[b])], 1u);
        atomicAdd(&sums[bin_of(masses[b])], masses[b]);
    }
    __syncthreads();
    u64 at = ((u64)blockIdx.y * gridDim.x + blockIdx.x) * BINS;
    for (int i = threadIdx.x; i < BINS; i += COUNTING) p.counts[at + i] = counts[i], p.sums[at + i] = sums[i];
}

KERNEL void sample_recall(const __grid_constant__ SampleRecallParams p) {
    int query_block = p.sample[blockIdx.x], top_k = top_k_of(p.mask);
    const u32 *kept = p.mask.kept + row_of_mask(p.mask, query_block), *masses = masses_of(p.masses, p.sizes);
    u32 sum = 0;
    for (int i = threadIdx.x; i < top_k && kept[i] != NONE; i += COUNTING) sum += masses[kept[i]];
    if (sum > 0) atomicAdd(&p.recall[(u64)blockIdx.y * gridDim.x + blockIdx.x], sum);
}
