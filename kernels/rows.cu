// rows: products of queries with rows that come from memory to registers, without shared memory. Any card from
// sm_80.
//
// A warp holds M times 16 queries in registers, the rows of A. Eight other rows, a batch, are the columns of
// B: a quad takes 64 bytes of a row, a lane 16, for two steps of 16 dimensions. Queries are taken apart in the
// same way, so that products add up the same pairs in another order.
//
// A lane has products of queries lane / 4, lane / 4 + 8, ... with rows 2 (lane % 4) and the next.

constexpr int STEPS = HEAD_DIM / 16;

DEVICE uint4 load_16(const u16* from) {
    uint4 v;
    asm("ld.global.nc.v4.u32 {%0,%1,%2,%3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(from));
    return v;
}

// ---- queries

template <int M>
struct QueryRows {
    u32 of[STEPS][M][4];
    // Brings query j of this lane from a row; `take` gets its pairs.
    template <typename Take>
    DEVICE void load(int j, const u16* row, Take take) {
#pragma unroll
        for (int k = 0; k < STEPS; k += 2) {
            uint4 v = load_16(row + threadIdx.x % 4 * 8 + k * 16);
            of[k][j / 2][j % 2] = v.x, of[k][j / 2][2 + j % 2] = v.y;
            of[k + 1][j / 2][j % 2] = v.z, of[k + 1][j / 2][2 + j % 2] = v.w;
            take(v.x), take(v.y), take(v.z), take(v.w);
        }
    }
};

// ---- products

// This lane's part of one row of a batch, which starts where it is loaded from.
struct RowPart {
    u32 pairs[STEPS][2];
    DEVICE void load(const u16* row) {
#pragma unroll
        for (int k = 0; k < STEPS; k += 2) {
            uint4 v = load_16(row + k * 16);
            pairs[k][0] = v.x, pairs[k][1] = v.y, pairs[k + 1][0] = v.z, pairs[k + 1][1] = v.w;
        }
    }
};

template <int M>
struct ProductsOf {
    float of[M][4];
    DEVICE float operator()(int j, int column) const { return of[j / 2][j % 2 * 2 + column]; }
};

template <int M>
DEVICE ProductsOf<M> multiply_rows(const QueryRows<M>& q, const RowPart& row, bool squared = false) {
    ProductsOf<M> p = {};
#pragma unroll
    for (int k = 0; k < STEPS; k++) {
#pragma unroll
        for (int m = 0; m < M; m++) {
            u32 a[4];
#pragma unroll
            for (int i = 0; i < 4; i++) a[i] = squared ? square_bf16(q.of[k][m][i]) : q.of[k][m][i];
            multiply(p.of[m], a, row.pairs[k][0], row.pairs[k][1]);
        }
    }
    return p;
}

// ---- sums over lanes

// Sums over lanes that far apart, half of the values in each: value i becomes the sum of what was value 2 i,
// or in lanes with that bit 2 i + 1.
template <int N, int SIZE>
DEVICE void fold(float (&x)[SIZE], int apart) {
    bool upper = threadIdx.x & apart;
    if (N == 1) x[0] += exchanged(x[0], apart);
#pragma unroll
    for (int i = 0; i < N / 2; i++) {
        float other = exchanged(upper ? x[2 * i] : x[2 * i + 1], apart);
        x[i] = (upper ? x[2 * i + 1] : x[2 * i]) + other;
    }
}
