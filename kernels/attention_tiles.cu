// attention_tiles: what the kernels of attention share that take a warp's queries through tiles of keys: scores, an
// online softmax, sums of values, rows of output. Stands after query_block.cu.
//
// A warp has up to 32 queries in registers and takes 16 keys at a time. Rows of keys and values go from memory to
// the registers that multiply them.

constexpr int KEYS = 16;                                                             // a warp takes at a time
constexpr int OF_ATTENTION = 32 * WARPS_Q;                                           // threads of a thread block
constexpr int BLOCKS_OF_ATTENTION = larger((HEAD_DIM > 64 ? 256 : 384) / OF_ATTENTION, 1);  // on a multiprocessor
constexpr bool QUERY_IN_REGISTERS = HEAD_DIM <= 128;

// Values are taken in groups: of each a lane takes WIDE neighbouring dimensions of its keys, which are columns
// of as many products. So column n of product t has dimension 8 WIDE group + WIDE n + t.
constexpr int WIDE = HEAD_DIM % 64 ? 4 : 8;
constexpr int GROUPS = HEAD_DIM / 8 / WIDE;

typedef AttentionParams<const u16*> Params;

// From a product to the binary logarithm of its exponential.
DEVICE float scale() { return LOG2E / sqrtf((float)HEAD_DIM); }

// Products of a tile's keys, of each eight.
typedef Products Scores[2];

// Of a lane's queries. Sums are relative to 2^most, any number that is near enough to the row's largest
// product.
struct Softmax {
    float out[M_TILES][GROUPS][WIDE][4], most[OF_LANE], sum[OF_LANE];
};

// Pairs that are left out besides those that are not seen: none.
struct NothingHidden {
    static constexpr bool ANY = false;
    DEVICE bool hides(int, int) const { return false; }
};

// A lane's keys: key `i` of a tile's 16, as rows to multiply with, and those that its products belong to, 2
// (lane % 4) and the next of each eight.
struct Tile {
    Row row;
    int first, last_token;
    // Where key i lies; of those past the row's end the last one.
    DEVICE u32 key(int i) const {
        u32 at = first + i, slot = min(at / BLOCK_K, row.count - 1);
        return min(row.block(slot) * BLOCK_K + at % BLOCK_K, last_token);
    }
    // The first of the lane's two keys of eight; past the row's end unseen.
    DEVICE int own(int eight) const {
        u32 at = first + eight * 8 + threadIdx.x % 4 * 2;
        return key_of(row, at / BLOCK_K, at % BLOCK_K);
    }
};

// The keys and values that this lane brings, from where on and how far apart.
struct KeyRows {
    const u16 *keys, *values;
    u32 stride;
};

DEVICE KeyRows key_rows_of(const Params& p) {
    u32 of_head = kv_head_of(p.sizes.n_kv_heads) * HEAD_DIM;
    return {p.keys + of_head + threadIdx.x % 4 * 8, p.values + of_head + threadIdx.x % 32 / 4 * WIDE,
            (u32)p.sizes.n_kv_heads * HEAD_DIM};
}

// This lane's first query; others are 8, 16 and 24 after it.
DEVICE int query_of(Sight sight) { return sight.first_query + place_of(0); }

// ---- phases of a tile

// `row0` is the token of the first row of the queries.
DEVICE void load_queries(QueryRows<M_TILES>& q, const Params& p, int row0, int query) {
#pragma unroll
    for (int j = 0; j < OF_LANE; j++) {
        u64 row = max(min(query + j * 8 - row0, p.rows.n_rows - 1), 0);
        q.load(j, p.queries + (row * gridDim.y + blockIdx.y) * HEAD_DIM, [](u32) {});
    }
}

// Products of the queries with the tile's keys, of each eight; hidden ones are -infinity.
template <typename Hides>
DEVICE void score_tile(Scores& s, const QueryRows<M_TILES>& q, const Tile& tile, const KeyRows& of,
                       int query, int window, Hides hidden) {
    RowPart rows[2];
#pragma unroll
    for (int e = 0; e < 2; e++) rows[e].load(of.keys + (u64)tile.key(e * 8 + threadIdx.x % 32 / 4) * of.stride);
    int first = query - (int)threadIdx.x % 32 / 4;  // of the warp's queries
#pragma unroll
    for (int e = 0; e < 2; e++) {
        s[e] = multiply_rows(q, rows[e]);
        int key = tile.own(e);
        bool all = __all_sync(~0u, key < first && (window <= 0 || key > first + 16 * M_TILES - 1 - window));
#pragma unroll
        for (int i = 0; i < 2 * OF_LANE; i++) {
            float& x = s[e].of[i / 4][i % 4];
            x = soft_cap(x);
            int token = query + i / 2 * 8;
            bool hides = (Hides::ANY || !all) &&
                         (!sees(token, key + i % 2, window) || (Hides::ANY && hidden.hides(token, key + i % 2)));
            if (hides) x = -infinity();
        }
    }
}

// Makes `most` what the largest product so far asks for.
DEVICE void raise(Softmax& state, const Scores& s) {
#pragma unroll
    for (int j = 0; j < OF_LANE; j++) {
        float largest = fmaxf(fmaxf(s[0](j, 0), s[0](j, 1)), fmaxf(s[1](j, 0), s[1](j, 1)));
        float most = fmaxf(state.most[j], quad_max(largest) * scale()), shrink = exp2_fast(state.most[j] - most);
        state.most[j] = most, state.sum[j] *= shrink;
#pragma unroll
        for (int i = 0; i < 2 * GROUPS * WIDE; i++) {
            state.out[j / 2][i / 2 / WIDE][i / 2 % WIDE][j % 2 * 2 + i % 2] *= shrink;
        }
    }
}

// Turns scores into probabilities relative to 2^most, and adds them up.
DEVICE void exponentials(Softmax& state, Scores& s) {
#pragma unroll
    for (int i = 0; i < 4 * OF_LANE; i++) {
        int j = i / 2 % OF_LANE;
        float& x = s[i / 2 / OF_LANE].of[j / 2][j % 2 * 2 + i % 2];
        x = exp2_fast(fmaf(x, scale(), -state.most[j]));
        state.sum[j] += x;
    }
}

// The same, after `most` was raised where that is asked for.
DEVICE void online_softmax(Softmax& state, Scores& s) {
    float largest = -infinity();
#pragma unroll
    for (int i = 0; i < 4 * OF_LANE; i++) {
        int j = i / 2 % OF_LANE;
        largest = fmaxf(largest, fmaf(s[i / 2 / OF_LANE](j, i % 2), scale(), -state.most[j]));
    }
    if (__any_sync(~0u, largest > 32.0f)) raise(state, s);
    exponentials(state, s);
}

// A lane's dimensions of a group of one key's values.
struct Values {
    u32 pairs[WIDE / 2];
    DEVICE void load(const u16* from) {
        if constexpr (WIDE == 8) {
            uint4 v = load_16(from);
            pairs[0] = v.x, pairs[1] = v.y, pairs[2] = v.z, pairs[3] = v.w;
        } else {
            uint2 v = *(const uint2*)from;
            pairs[0] = v.x, pairs[1] = v.y;
        }
    }
};

// Dimension t of two keys.
DEVICE u32 both(const Values& a, const Values& b, int t) {
    return __byte_perm(a.pairs[t / 2], b.pairs[t / 2], t % 2 ? 0x7632 : 0x5410);
}

DEVICE void add_values(Softmax& state, const Scores& s, const Tile& tile, const KeyRows& of) {
    u32 a[M_TILES][4];
#pragma unroll
    for (int i = 0; i < 4 * M_TILES; i++) {
        const float* two = &s[i % 4 / 2].of[i / 4][i % 2 * 2];
        a[i / 4][i % 4] = pack_bf16(two[0], two[1]);
    }
    const u16* from[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
        from[i] = of.values + (u64)tile.key(i / 2 * 8 + threadIdx.x % 4 * 2 + i % 2) * of.stride;
    }
#pragma unroll
    for (int g = 0; g < GROUPS; g++) {
        Values v[4];
#pragma unroll
        for (int i = 0; i < 4; i++) v[i].load(from[i] + g * 8 * WIDE);
#pragma unroll
        for (int t = 0; t < WIDE; t++) {
            u32 first = both(v[0], v[1], t), second = both(v[2], v[3], t);
#pragma unroll
            for (int m = 0; m < M_TILES; m++) multiply(state.out[m][g][t], a[m], first, second);
        }
    }
}

// ---- rows of output

// Calls `write(pair, at)` with pairs of neighbouring dimensions of row j, the first of which is `at`.
template <typename Write>
DEVICE void each_pair(const Softmax& state, int j, float sum, Write write) {
#pragma unroll
    for (int i = 0; i < GROUPS * WIDE; i++) {
        const float (&of)[WIDE][4] = state.out[j / 2][i / WIDE];
        int column = j % 2 * 2 + i % WIDE / (WIDE / 2), t = i % (WIDE / 2) * 2;
        int at = i / WIDE * 8 * WIDE + threadIdx.x % 4 * 2 * WIDE + i % WIDE * 2;
        write(make_float2(of[t][column] / sum, of[t + 1][column] / sum), at);
    }
}

DEVICE void write_rows(const Softmax& state, const Params& p, Sight sight, int row0, int query) {
#pragma unroll
    for (int j = 0; j < OF_LANE; j++) {
        float sum = quad_sum(state.sum[j]);
        int token = query + j * 8;
        if (token >= sight.end_query) continue;
        if (p.lse && threadIdx.x % 4 == 0) {
            p.lse[(u64)blockIdx.y * p.rows.n_rows + token - row0] = (state.most[j] + log2f(sum)) / LOG2E;
        }
        u16* to = p.out + ((u64)(token - row0) * gridDim.y + blockIdx.y) * HEAD_DIM;
        each_pair(state, j, sum, [&](float2 x, int at) { *(u32*)(to + at) = pack_bf16(x.x, x.y); });
    }
}
