// score_warpgroups: how search_hierarchical scores the nodes of its frontier on Hopper, with products of a warpgroup.
//
// Queries and their squares stay in shared memory as rows, NODES nodes at a time are the columns. Two thread blocks share a
// multiprocessor (88 nodes are the most that leave room for it at head dim 128): one multiplies while the other fetches.
// Shared bytes 1024 + (ESTIMATE 3: 2 *) HEAD_DIM * 2 * (BLOCK_Q + NODES); block 2 * BLOCK_Q. HEAD_DIM 64 or 128, BLOCK_Q 64 or 128, NODES 64 or 88.

constexpr int THREADS = 2 * BLOCK_Q;
constexpr int MIN_BLOCKS = 2;                           // on a multiprocessor
constexpr int HALVES = HEAD_DIM / 64;                   // tiles of 64 columns in a head
constexpr int QUERY_TILE = BLOCK_Q * 128;               // bytes of one of them
constexpr int NODE_TILE = NODES * 128;
constexpr int KINDS = SPREAD ? 2 : 1;                   // means, variances
constexpr int VALUES = NODES / 4;                       // nodes of a thread

#ifdef __CUDA_ARCH_FEAT_SM90_ALL

// Shared addresses: queries, their squares, means, variances.
struct Queries {
    u32 queries, squares, means, variances;
};

// Where 16 bytes of a row lie in a tile of 128-byte rows with the 128-byte swizzle.
DEVICE u32 swizzled(int row, int chunk, int tile_bytes) { return chunk / 8 * tile_bytes + row * 128 + ((chunk ^ row) & 7) * 16; }

DEVICE void store_16(u32 to_shared, uint4 v) {
    asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(to_shared), "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w) : "memory");
}

DEVICE void load_queries(Queries& q, const u16* queries, Sight sight, int row0, u8* shared) {
    q.queries = (shared_address(shared) + 1023) / 1024 * 1024;
    q.squares = q.queries + HALVES * QUERY_TILE;
    q.means = q.queries + KINDS * HALVES * QUERY_TILE;
    q.variances = q.means + HALVES * NODE_TILE;
    constexpr int CHUNKS = HEAD_DIM / 8;
#pragma unroll 4
    for (int i = threadIdx.x; i < BLOCK_Q * CHUNKS; i += THREADS) {
        int token = min(sight.q0 + i / CHUNKS, sight.q1 - 1) - row0;  // rows past the prompt repeat its last query
        uint4 v = ((const uint4*)(queries + ((u64)token * gridDim.y + blockIdx.y) * HEAD_DIM))[i % CHUNKS];
        u32 at = swizzled(i / CHUNKS, i % CHUNKS, QUERY_TILE);
        store_16(q.queries + at, v);
        if (SPREAD) store_16(q.squares + at, make_uint4(square_bf16(v.x), square_bf16(v.y), square_bf16(v.z), square_bf16(v.w)));
    }
}

DEVICE void load_nodes(const Search& s, const u32* frontier, int first, int count, const Queries& q) {
    constexpr int CHUNKS = HEAD_DIM / 8;
#pragma unroll 4
    for (int i = threadIdx.x; i < NODES * CHUNKS; i += THREADS) {
        u64 from = row_of(s, frontier[min(first + i / CHUNKS, count - 1)]) + i % CHUNKS * 8;
        u32 at = swizzled(i / CHUNKS, i % CHUNKS, NODE_TILE);
        copy_16(q.means + at, s.rows + from);
        if (SPREAD) copy_16(q.variances + at, s.variance + from);
    }
    copies_commit();
    copies_wait<0>();
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");  // the products read what these threads wrote
}

// d[query, node] of this warpgroup's 64 queries.
DEVICE void multiply_nodes(float (&d)[NODES / 2], u32 queries, u32 nodes) {
    queries += threadIdx.x / 128 * 8192;
#pragma unroll
    for (int k = 0; k < HEAD_DIM / 16; k++) {
        wgmma(d, descriptor(queries + k / 4 * QUERY_TILE + k % 4 * 32, 16), descriptor(nodes + k / 4 * NODE_TILE + k % 4 * 32, 16), k > 0);
    }
}

// Maxima over the eight lanes that hold other queries of the same nodes. Each step halves the values of a lane: in the end
// value i is that of node pair member 8 i + (lane's bits 4, 3, 2).
template <int N, int STEP>
DEVICE void reduce(float (&best)[VALUES]) {
    bool upper = threadIdx.x & STEP;
#pragma unroll
    for (int i = 0; i < (N + 1) / 2; i++) {
        float even = best[2 * i], odd = 2 * i + 1 < N ? best[2 * i + 1] : -infinity();
        float other = __shfl_xor_sync(~0u, upper ? even : odd, STEP);
        best[i] = fmaxf(upper ? odd : even, other);
    }
    if constexpr (STEP < 16) reduce<(N + 1) / 2, STEP * 2>(best);
}

DEVICE void score_frontier(const Search& s, const u32* frontier, int count, const Queries& q, u8* shared, u32* scores) {
    int lane = threadIdx.x % 32;
    float spread = spread_of(s);
    for (int first = 0; first < count; first += NODES) {
        load_nodes(s, frontier, first, count, q);
        __syncthreads();
        float means[NODES / 2], variances[NODES / 2], best[VALUES];
        hold(means);
        hold(variances);
        wgmma_begin();
        multiply_nodes(means, q.queries, q.means);
        if (SPREAD) multiply_nodes(variances, q.squares, q.variances);
        wgmma_commit();
        wgmma_wait<0>();
        hold(means);
        hold(variances);
#pragma unroll
        for (int i = 0; i < VALUES; i++) {
            float two[2];
#pragma unroll
            for (int r = 0; r < 2; r++) {
                int at = i / 2 * 4 + r * 2 + i % 2;
                two[r] = SPREAD ? fmaf(spread, sqrt_fast(variances[at]), means[at]) : means[at];
            }
            best[i] = fmaxf(two[0], two[1]);
        }
        reduce<VALUES, 4>(best);
        int member = (lane >> 4 & 1) * 4 + (lane >> 3 & 1) * 2 + (lane >> 2 & 1);
#pragma unroll
        for (int i = 0; i < (VALUES + 7) / 8; i++) {
            int value = i * 8 + member, node = first + value / 2 * 8 + lane % 4 * 2 + value % 2;
            if (value < VALUES && node < count) atomicMax(&scores[node], ordered(best[i]));
        }
        __syncthreads();
    }
}

#endif
