// grouped_sm90: grouped.cu on Hopper, with warpgroup products.
//
// Same results. Two warpgroups take 64 places each. While one step is multiplied, the one after the next is on its way:
// into the stage of the step before the last, which no warpgroup reads any more.

#ifdef __CUDA_ARCH_FEAT_SM90_ALL

constexpr int STAGES = 4;
constexpr int AHEAD = STAGES - 2;  // steps

GEOMETRY(grouped_gate, THREADS, COLUMNS, ROWS, ALIGNED + STAGES * STAGE_BYTES, 0);
GEOMETRY(grouped_down, THREADS, 2 * COLUMNS, ROWS, ALIGNED + STAGES * STAGE_BYTES, 0);

// Of both blocks: a thread has columns 8 n + 2 (lane % 4) and the next of two places, eight apart.
typedef float Sums[2][COLUMNS / 2];

// Lets warpgroup products see what this thread copied.
DEVICE void copies_ready() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// Issued, not waited for.
DEVICE void begin_step(Sums& sums, u32 stage) {
    u32 places = stage + threadIdx.x / 128 * 64 * ROW_BYTES, weights = stage + ROWS * ROW_BYTES;
    hold(sums[0]), hold(sums[1]);
    wgmma_begin();
#pragma unroll
    for (int k = 0; k < DEPTH / 16; k++) {
        u64 of_places = descriptor(places + k * 32, 16);
        wgmma(sums[0], of_places, descriptor(weights + k * 32, 16), 1);
        wgmma(sums[1], of_places, descriptor(weights + COLUMNS * ROW_BYTES + k * 32, 16), 1);
    }
    wgmma_commit();
}

DEVICE void multiply_all(Sums& sums, const Sources& sources, u32 stages, int n_in) {
    for (int step = 0; step < AHEAD; step++) sources.copy(stages + step * STAGE_BYTES, step * DEPTH, n_in);
    for (int step = 0; step * DEPTH < n_in; step++) {
        wait_for_steps<AHEAD - 1>();
        copies_ready();
        __syncthreads();  // the step is there for all, and none reads the one before the last
        begin_step(sums, stages + step % STAGES * STAGE_BYTES);
        sources.copy(stages + (step + AHEAD) % STAGES * STAGE_BYTES, (step + AHEAD) * DEPTH, n_in);
        wgmma_wait<1>();
    }
    wgmma_wait<0>();
    hold(sums[0]), hold(sums[1]);
}

// Calls `write(place, column, i)` for the sums i and i + 1 of this thread, which are neighbours.
template <typename Write>
DEVICE void each_pair(Tile tile, Write write) {
    int place = tile.first + threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4, column = threadIdx.x % 4 * 2;
#pragma unroll
    for (int n = 0; n < COLUMNS / 8; n++) {
        write(place, column + n * 8, n * 4);
        write(place + 8, column + n * 8, n * 4 + 2);
    }
}

KERNEL void __launch_bounds__(THREADS, 1) grouped_gate(const __grid_constant__ GroupedParams p) {
    extern __shared__ u8 shared[];
    Tile tile = find_tile(p.counts, p.n_experts);
    if (tile.expert < 0) return;
    int first = tile.column * COLUMNS;
    Sums sums = {};
    multiply_all(sums, Sources(p, tile, first, first), first_stage(shared), p.n_in);
    each_pair(tile, [&](int place, int column, int i) {
        write_gated(p, tile, place, first + column, &sums[0][i], &sums[1][i]);
    });
}

KERNEL void __launch_bounds__(THREADS, 1) grouped_down(const __grid_constant__ GroupedParams p) {
    extern __shared__ u8 shared[];
    Tile tile = find_tile(p.counts, p.n_experts);
    if (tile.expert < 0) return;
    int first = tile.column * 2 * COLUMNS;
    Sums sums = {};
    multiply_all(sums, Sources(p, tile, first, first + COLUMNS), first_stage(shared), p.n_in);
    each_pair(tile, [&](int place, int column, int i) {
        write_sums(p, tile, place, 0, first + column, &sums[0][i]);
        write_sums(p, tile, place, 1, first + COLUMNS + column, &sums[1][i]);
    });
}

#endif
