// rank: norms of the queries over a list of items, and the items' scores by these norms. Stands after
// score.cu.
//
// What each query gives each item is held in shared memory between the two where there is room, else it is
// computed again.

constexpr int HELD = 45056 / 4 / BLOCK_Q;                          // items that have room
constexpr int SCORING = HELD * BLOCK_Q * 4 + WARPS * BLOCK_Q * 8;  // shared bytes

// A sum of exponentials as a binary logarithm; the warps share the items, `sums` [WARPS, BLOCK_Q] holds what
// each has.
DEVICE float norm_of_held(const float* held, int count, int query, Norm* sums) {
    int warp = threadIdx.x / 32;
    Norm norm = no_norm();
    for (int i = warp; i < count; i += WARPS) norm.most = fmaxf(norm.most, held[i * BLOCK_Q + query]);
    for (int i = warp; i < count; i += WARPS) norm.sum += exp2_fast(held[i * BLOCK_Q + query] - norm.most);
    sums[warp * BLOCK_Q + query] = norm;
    __syncthreads();
    norm = no_norm();
    for (int n = 0; n < WARPS; n++) norm.most = fmaxf(norm.most, sums[n * BLOCK_Q + query].most);
    for (int n = 0; n < WARPS; n++) {
        Norm one = sums[n * BLOCK_Q + query];
        norm.sum += one.sum * exp2_fast(one.most - norm.most);
    }
    return norm.most + log2f(norm.sum);
}

// Where the norms of the queries are, as binary logarithms, after a rank that held what each query gives each item.
DEVICE Norm* norms_of_rank(u8* shared) { return (Norm*)(shared + HELD * BLOCK_Q * 4); }

// Takes the norms of the queries over all items, then scores the first `n_scored`. Returns whether all items had
// room: then what each gives each query is held, [count, BLOCK_Q], and norms are in `norms_of_rank(shared)[query].most`.
template <bool OF_KEYS>
DEVICE bool rank(const Search& s, const u32* items, int count, int n_scored, Queries& q, u8* shared,
                 u32* out) {
    if (count > HELD) {
        pass<OF_KEYS ? KEY_NORMS : NODE_NORMS>(s, items, count, q, shared, out);
        settle_norms(q, shared);
        pass<OF_KEYS ? KEY_SCORES : NODE_SCORES>(s, items, n_scored, q, shared, out);
        return false;
    }
    float* held = (float*)shared;
    Norm* sums = norms_of_rank(shared);
    pass_holding<OF_KEYS ? KEYS_HELD : NODES_HELD>(s, items, count, q, held, out);
    constexpr int PARTS = BLOCK_Q > 32 ? BLOCK_Q / 32 : 1;
    float norms[PARTS];
#pragma unroll
    for (int part = 0; part < PARTS; part++) {
        norms[part] = norm_of_held(held, count, (part * 32 + threadIdx.x % 32) % BLOCK_Q, sums);
    }
    for (int i = threadIdx.x / 32; i < n_scored; i += WARPS) {
        float best = -infinity();
#pragma unroll
        for (int part = 0; part < PARTS; part++) {
            best = fmaxf(best, held[i * BLOCK_Q + (part * 32 + threadIdx.x % 32) % BLOCK_Q] - norms[part]);
        }
        u32 score = __reduce_max_sync(~0u, ordered(best));
        if (threadIdx.x % 32 == 0) out[i] = max(out[i], score);
    }
    __syncthreads();
#pragma unroll
    for (int part = 0; part < PARTS; part++) {
        if (threadIdx.x / 32 == 0) sums[(part * 32 + threadIdx.x % 32) % BLOCK_Q].most = norms[part];
    }
    __syncthreads();
#pragma unroll
    for (int j = 0; j < OF_LANE; j++) q.norm[j] = sums[place_of(j)].most / TO_LOG2;
    return true;
}
