// experts: rows by the experts that they take.
//
// route:          the top_k experts of each row with the largest scores, and their weights. A score is the softmax
//                 of a row's logits, or where `sigmoid` is 1 the sigmoid of each; a correction is added where experts
//                 are chosen, not where they are weighed. Where top_groups < n_groups, experts are chosen among the
//                 top_groups groups of neighbours whose best two corrected scores have the largest sums. Of equal
//                 ones the first is taken. Weights are scores, divided by the sum of the chosen ones where
//                 `normalised` is 1, times scale.
// rows_by_expert: the rows that each expert takes, one expert after the other, and their weights: a row taken by an
//                 expert has a place. The order of an expert's rows is not fixed.
// gather_rows:    out[i] = x[rows[i]]
// add_scattered:  sum[rows[i]] += weights[i] part[i], no row twice
// sum_of_experts: out[t] = sum over i of weights[t, i] part[places[t, i]]
// times_sigmoid:  y[t] *= 1 / (1 + exp(-gate . x[t]))
//
// logits [n_rows, n_experts] f32, n_experts at most MOST_EXPERTS; bias [n_experts] bf16 or null, added to them;
//        correction [n_experts] f32 or null
// chosen [n_rows, top_k] u32, weights [n_rows, top_k] f32, places [n_rows, top_k] u32: the row's number among those
//        of the expert, and from rows_by_expert on its place; top_k at most 32; counts [n_experts] u32, zeroed by the
//        caller
// rows [n_rows top_k] u32, of_rows [n_rows top_k] f32: the same by expert; of gather_rows and add_scattered those of
//        one expert
// x, out, part, sum, y [., width] bf16, width a multiple of 8; gate [width] bf16
// grid route n_rows, rows_by_expert n_rows top_k, the others one thread block a row
// Reference: tests/cuda/reference.py, route; src/engine/device/routes.rs

constexpr int THREADS = 256;
constexpr int WARPS = 4;  // of route: a row each
constexpr int MOST_EXPERTS = 512;

GEOMETRY(route, 32 * WARPS, WARPS, 1, 0, 0);
GEOMETRY(rows_by_expert, THREADS, THREADS, 1, 0, 0);
GEOMETRY(gather_rows, THREADS, 1, 1, 0, 0);
GEOMETRY(add_scattered, THREADS, 1, 1, 0, 0);
GEOMETRY(sum_of_experts, THREADS, 1, 1, 0, 0);
GEOMETRY(times_sigmoid, THREADS, 1, 1, 0, 0);

struct RouteParams {
    const float* logits;
    const u16* bias;
    const float* correction;
    u32* chosen;
    float* weights;
    u32 *places, *counts;
    int n_rows, n_experts, top_k, sigmoid, normalised, n_groups, top_groups;
    float scale;
};
static_assert(sizeof(RouteParams) == 88, "as in src/engine/cuda/params.rs");

struct ListParams {
    const u32* chosen;
    const float* weights;
    u32* places;
    const u32* counts;
    u32* rows;
    float* of_rows;
    int n, top_k;
};
static_assert(sizeof(ListParams) == 56, "as in src/engine/cuda/params.rs");

struct GatherParams {
    const uint4* x;
    const u32* rows;
    uint4* out;
    int width;
};
static_assert(sizeof(GatherParams) == 32, "as in src/engine/cuda/params.rs");

struct ScatterParams {
    uint4* sum;
    const uint4* part;
    const u32* rows;
    const float* weights;
    int width;
};
static_assert(sizeof(ScatterParams) == 40, "as in src/engine/cuda/params.rs");

struct SumParams {
    const uint4* part;
    const u32* places;
    const float* weights;
    uint4* out;
    int width, top_k;
};
static_assert(sizeof(SumParams) == 40, "as in src/engine/cuda/params.rs");

struct SigmoidParams {
    uint4* y;
    const uint4 *x, *gate;
    int width, inner;
};
static_assert(sizeof(SigmoidParams) == 32, "as in src/engine/cuda/params.rs");

// ---- route: a warp a row, whose scores and corrected scores lie in shared memory

// The scores of a row.
DEVICE void score_experts(const RouteParams& p, int row, float* scores, float* candidates) {
    int lane = threadIdx.x % 32;
    const float* logits = p.logits + (u64)row * p.n_experts;
    float largest = -infinity(), sum = 0.0f;
    for (int e = lane; e < p.n_experts; e += 32) {
        scores[e] = logits[e] + (p.bias ? from_bf16(p.bias[e]) : 0.0f);
        largest = fmaxf(largest, scores[e]);
    }
    largest = warp_max(largest);
    for (int e = lane; e < p.n_experts; e += 32) {
        scores[e] = p.sigmoid ? 1.0f / (1.0f + expf(-scores[e])) : expf(scores[e] - largest);
        sum += scores[e];
    }
    sum = p.sigmoid ? 1.0f : warp_sum(sum);
    for (int e = lane; e < p.n_experts; e += 32) {
        scores[e] /= sum;
        candidates[e] = scores[e] + (p.correction ? p.correction[e] : 0.0f);
    }
    __syncwarp();
}

// Leaves out the experts of all groups but the best; `sums` has room for all groups.
DEVICE void leave_groups_out(const RouteParams& p, float* candidates, float* sums) {
    int lane = threadIdx.x % 32, size = p.n_experts / p.n_groups;
    for (int g = lane; g < p.n_groups; g += 32) {
        float best = -infinity(), second = -infinity();
        for (int e = g * size; e < (g + 1) * size; e++) {
            second = fmaxf(second, fminf(best, candidates[e]));
            best = fmaxf(best, candidates[e]);
        }
        sums[g] = best + second;
    }
    __syncwarp();
    for (int g = lane; g < p.n_groups; g += 32) {
        int better = 0;
        for (int other = 0; other < p.n_groups; other++) {
            better += sums[other] > sums[g] || (sums[other] == sums[g] && other < g);
        }
        if (better < p.top_groups) continue;
        for (int e = g * size; e < (g + 1) * size; e++) candidates[e] = -infinity();
    }
    __syncwarp();
}

// The number of the largest candidate that is not taken; every lane gets the same.
DEVICE int best_of(const float* candidates, const u32* taken, int n_experts) {
    int best = -1;
    float most = 0.0f;
    for (int e = threadIdx.x % 32; e < n_experts; e += 32) {
        if (taken[e / 32] >> (e % 32) & 1) continue;
        if (best < 0 || candidates[e] > most) best = e, most = candidates[e];
    }
#pragma unroll
    for (int apart = 16; apart > 0; apart /= 2) {
        int other = exchanged(best, apart);
        float value = exchanged(most, apart);
        if (other >= 0 && (best < 0 || value > most || (value == most && other < best))) {
            best = other, most = value;
        }
    }
    // Lanes may differ where a score is no number.
    return __shfl_sync(~0u, best, 0);
}

KERNEL void route(const __grid_constant__ RouteParams p) {
    __shared__ float scores[WARPS][MOST_EXPERTS], candidates[WARPS][MOST_EXPERTS], sums[WARPS][MOST_EXPERTS / 2];
    __shared__ u32 taken[WARPS][MOST_EXPERTS / 32];
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, row = blockIdx.x * WARPS + warp;
    if (row >= p.n_rows) return;
    score_experts(p, row, scores[warp], candidates[warp]);
    if (p.top_groups < p.n_groups) leave_groups_out(p, candidates[warp], sums[warp]);
    if (lane < MOST_EXPERTS / 32) taken[warp][lane] = 0;
    __syncwarp();
    int mine = 0;
    for (int i = 0; i < p.top_k; i++) {
        int best = best_of(candidates[warp], taken[warp], p.n_experts);
        if (lane == i) mine = best;
        __syncwarp();
        if (lane == 0) taken[warp][best / 32] |= 1u << (best % 32);
        __syncwarp();
    }
    float score = lane < p.top_k ? scores[warp][mine] : 0.0f, sum = warp_sum(score);
    if (lane >= p.top_k) return;
    u64 at = (u64)row * p.top_k + lane;
    p.chosen[at] = mine;
    p.weights[at] = score / (p.normalised ? fmaxf(sum, 1e-37f) : 1.0f) * p.scale;
    p.places[at] = atomicAdd(&p.counts[mine], 1u);
}

KERNEL void rows_by_expert(const __grid_constant__ ListParams p) {
    int i = blockIdx.x * THREADS + threadIdx.x;
    if (i >= p.n) return;
    u32 expert = p.chosen[i], at = p.places[i];
    for (u32 e = 0; e < expert; e++) at += p.counts[e];
    p.places[i] = at;
    p.rows[at] = i / p.top_k;
    p.of_rows[at] = p.weights[i];
}

// ---- rows

KERNEL void gather_rows(const __grid_constant__ GatherParams p) {
    int n = p.width / 8;
    const uint4* from = p.x + (u64)p.rows[blockIdx.x] * n;
    uint4* to = p.out + (u64)blockIdx.x * n;
    for (int i = threadIdx.x; i < n; i += THREADS) to[i] = from[i];
}

DEVICE u32 add_weighted(u32 sum, u32 part, float weight) {
    return pack_bf16(fmaf(weight, low_bf16(part), low_bf16(sum)), fmaf(weight, high_bf16(part), high_bf16(sum)));
}

KERNEL void add_scattered(const __grid_constant__ ScatterParams p) {
    int n = p.width / 8;
    float w = p.weights[blockIdx.x];
    const uint4* part = p.part + (u64)blockIdx.x * n;
    uint4* sum = p.sum + (u64)p.rows[blockIdx.x] * n;
    for (int i = threadIdx.x; i < n; i += THREADS) {
        uint4 a = sum[i], b = part[i];
        sum[i] = make_uint4(add_weighted(a.x, b.x, w), add_weighted(a.y, b.y, w), add_weighted(a.z, b.z, w),
                            add_weighted(a.w, b.w, w));
    }
}

DEVICE void add_pairs(float (&sum)[8], uint4 part, float weight) {
    const u32 pairs[4] = {part.x, part.y, part.z, part.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
        sum[2 * i] = fmaf(weight, low_bf16(pairs[i]), sum[2 * i]);
        sum[2 * i + 1] = fmaf(weight, high_bf16(pairs[i]), sum[2 * i + 1]);
    }
}

KERNEL void sum_of_experts(const __grid_constant__ SumParams p) {
    int n = p.width / 8;
    const u32* places = p.places + (u64)blockIdx.x * p.top_k;
    const float* weights = p.weights + (u64)blockIdx.x * p.top_k;
    for (int i = threadIdx.x; i < n; i += THREADS) {
        float sum[8] = {};
        for (int k = 0; k < p.top_k; k++) add_pairs(sum, p.part[(u64)places[k] * n + i], weights[k]);
        p.out[(u64)blockIdx.x * n + i] = make_uint4(pack_bf16(sum[0], sum[1]), pack_bf16(sum[2], sum[3]),
                                                    pack_bf16(sum[4], sum[5]), pack_bf16(sum[6], sum[7]));
    }
}

DEVICE float dot_pair(u32 a, u32 b) { return low_bf16(a) * low_bf16(b) + high_bf16(a) * high_bf16(b); }

DEVICE u32 times(u32 pair, float factor) { return pack_bf16(low_bf16(pair) * factor, high_bf16(pair) * factor); }

KERNEL void times_sigmoid(const __grid_constant__ SigmoidParams p) {
    __shared__ float partial[THREADS / 32];
    const uint4* x = p.x + (u64)blockIdx.x * (p.inner / 8);
    float dot = 0.0f;
    for (int i = threadIdx.x; i < p.inner / 8; i += THREADS) {
        uint4 a = x[i], b = p.gate[i];
        dot += dot_pair(a.x, b.x) + dot_pair(a.y, b.y) + dot_pair(a.z, b.z) + dot_pair(a.w, b.w);
    }
    dot = warp_sum(dot);
    if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = dot;
    __syncthreads();
    dot = 0.0f;
    for (int i = 0; i < THREADS / 32; i++) dot += partial[i];
    float factor = 1.0f / (1.0f + expf(-dot));
    uint4* y = p.y + (u64)blockIdx.x * (p.width / 8);
    for (int i = threadIdx.x; i < p.width / 8; i += THREADS) {
        uint4 v = y[i];
        y[i] = make_uint4(times(v.x, factor), times(v.y, factor), times(v.z, factor), times(v.w, factor));
    }
}
