// grouped: products of rows with the weights of the experts that take them, all experts in one launch. Any card from
// sm_80.
//
// grouped_gate, grouped_down: as grouped_rows.cu says.
// One step is multiplied while the next one comes.

constexpr int STAGES = 2;

GEOMETRY(grouped_gate, THREADS, COLUMNS, ROWS, ALIGNED + STAGES * STAGE_BYTES, 0);
GEOMETRY(grouped_down, THREADS, 2 * COLUMNS, ROWS, ALIGNED + STAGES * STAGE_BYTES, 0);

// ---- products: a warp has 64 places, and 32 columns of each block

// As `multiply` lays them out. [block][16 places][8 columns][4]
typedef float Sums[2][4][4][4];

// Four matrices of 8 x 8, whose rows the lanes point at, eight lanes each.
DEVICE void load_matrices(u32 (&m)[4], u32 row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3])
                 : "r"(row) : "memory");
}

DEVICE void multiply_step(Sums& sums, u32 stage) {
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    int place = warp % 2 * 64 + lane % 16, column = ROWS + warp / 2 * 32 + lane / 16 * 8 + lane % 8;
#pragma unroll
    for (int k = 0; k < DEPTH / 16; k++) {
        u32 a[4][4];
#pragma unroll
        for (int m = 0; m < 4; m++) load_matrices(a[m], stage + place_of_part(place + m * 16, 2 * k + lane / 16));
#pragma unroll
        for (int i = 0; i < 4; i++) {
            int block = i / 2, n = i % 2 * 2;
            u32 b[4];
            load_matrices(b, stage + place_of_part(column + block * COLUMNS + n * 8, 2 * k + lane / 8 % 2));
#pragma unroll
            for (int m = 0; m < 4; m++) {
                multiply(sums[block][m][n], a[m], b[0], b[1]);
                multiply(sums[block][m][n + 1], a[m], b[2], b[3]);
            }
        }
    }
}

DEVICE void multiply_all(Sums& sums, const Sources& sources, u32 stages, int n_in) {
    sources.copy(stages, 0, n_in);
    for (int step = 0; step * DEPTH < n_in; step++) {
        wait_for_steps<0>();
        __syncthreads();  // the step is there for all, and none reads the one before it
        sources.copy(stages + (step + 1) % STAGES * STAGE_BYTES, (step + 1) * DEPTH, n_in);
        multiply_step(sums, stages + step % STAGES * STAGE_BYTES);
    }
}

// ---- results

// Calls `write(place, column, m, n, i)` for the sums i and i + 1 of this lane, which are neighbours.
template <typename Write>
DEVICE void each_pair(Tile tile, Write write) {
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    int place = tile.first + warp % 2 * 64 + lane / 4, column = warp / 2 * 32 + lane % 4 * 2;
#pragma unroll
    for (int m = 0; m < 4; m++) {
#pragma unroll
        for (int n = 0; n < 4; n++) {
            write(place + m * 16, column + n * 8, m, n, 0);
            write(place + m * 16 + 8, column + n * 8, m, n, 2);
        }
    }
}

KERNEL void __launch_bounds__(THREADS, 1) grouped_gate(const __grid_constant__ GroupedParams p) {
    extern __shared__ u8 shared[];
    Tile tile = find_tile(p.counts, p.n_experts);
    if (tile.expert < 0) return;
    int first = tile.column * COLUMNS;
    Sums sums = {};
    multiply_all(sums, Sources(p, tile, first, first), first_stage(shared), p.n_in);
    each_pair(tile, [&](int place, int column, int m, int n, int i) {
        write_gated(p, tile, place, first + column, &sums[0][m][n][i], &sums[1][m][n][i]);
    });
}

KERNEL void __launch_bounds__(THREADS, 1) grouped_down(const __grid_constant__ GroupedParams p) {
    extern __shared__ u8 shared[];
    Tile tile = find_tile(p.counts, p.n_experts);
    if (tile.expert < 0) return;
    int first = tile.column * 2 * COLUMNS;
    Sums sums = {};
    multiply_all(sums, Sources(p, tile, first, first + COLUMNS), first_stage(shared), p.n_in);
    each_pair(tile, [&](int place, int column, int m, int n, int i) {
#pragma unroll
        for (int block = 0; block < 2; block++) {
            write_sums(p, tile, place, block, first + block * COLUMNS + column, &sums[block][m][n][i]);
        }
    });
}
