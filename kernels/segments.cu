// segments: passes over all keys that a query block sees, in segments, so that few queries keep a whole card
// busy: thread block x takes segment x % n_segments of query block x / n_segments. The norms of a segment are
// its own until they are joined. Stands after score.cu.

constexpr int PIECE = 512;                       // key blocks in a pass
constexpr int SETTLING = WARPS_N * BLOCK_Q * 8;  // shared bytes

// The blocks of `all` that a segment has.
DEVICE int2 segment_of(int first, int last, int n_segments) {
    int n = (last - first + n_segments - 1) / n_segments, start = first + blockIdx.x % n_segments * n;
    return make_int2(start, min(start + n, last));
}

// Where the norms of a query block's first segment start.
DEVICE float* norms_of(float* norms, int n_segments) {
    return norms + ((u64)blockIdx.y * gridDim.x + blockIdx.x / n_segments * n_segments) * BLOCK_Q;
}

// A pass over all key blocks of a segment, a piece at a time; `done` gets each piece.
template <Pass PASS, typename Done>
DEVICE void pass_over(const Search& s, int2 segment, Queries& q, u8* shared, Done done) {
    __shared__ u32 blocks[PIECE], found[PIECE];
    for (int start = segment.x; start < segment.y; start += PIECE) {
        int count = min(PIECE, segment.y - start);
        for (int i = threadIdx.x; i < count; i += THREADS) blocks[i] = start + i, found[i] = 0;
        __syncthreads();
        pass<PASS>(s, blocks, count, q, shared, found);
        for (int i = threadIdx.x; i < count; i += THREADS) done(start + i, found[i]);
        __syncthreads();
    }
}

// The queries' norms of one segment become what all their visible keys give.
DEVICE void join_norms(Queries& q, const float* of_segments, int n_segments) {
#pragma unroll
    for (int j = 0; j < OF_LANE; j++) {
        Norm norm = no_norm();
        for (int i = 0; i < n_segments; i++) {
            norm = joined(norm, Norm{of_segments[i * BLOCK_Q + place_of(j)], 1.0f});
        }
        q.norm[j] = value_of(norm);
    }
}

// Writes the norms of a segment.
DEVICE void write_norms(const Queries& q, float* of_segments, int n_segments) {
    float* out = of_segments + blockIdx.x % n_segments * BLOCK_Q;
    bool has_norms = threadIdx.x / 32 < WARPS_Q && threadIdx.x % 4 == 0;
#pragma unroll
    for (int j = 0; j < OF_LANE; j++) {
        if (has_norms) out[place_of(j)] = q.norm[j];
    }
}
