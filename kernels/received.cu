// received: what keys receive from a warp's queries, a tile of 16 keys at a time, and where it is added. Stands after
// query_block.cu.
//
// A lane has one sum of a tile: lane 16 weighted + 8 e + 4 odd + i that of key 8 e + 2 i + odd, where weighted is 1 by
// the weights that vertical scores give the queries.

constexpr int TILE = 16;

typedef RecordParams<const u16*> Recording;

// What vertical scores ask of a warp's queries.
struct Anchored {
    float weight[OF_LANE];
    int least;  // of the limits of all queries with a weight
};

DEVICE Anchored anchored(const Recording& p, Sight sight) {
    Anchored a;
    a.least = UNSEEN;
#pragma unroll
    for (int j = 0; ANCHORS && j < OF_LANE; j++) {
        int token = sight.first_query + place_of(j);
        a.weight[j] = token < sight.end_query ? p.anchors.weight[token] : 0.0f;
        if (a.weight[j] > 0.0f) a.least = min(a.least, (int)p.anchors.limit[token]);
    }
    if (ANCHORS) a.least = __reduce_min_sync(~0u, a.least);
    return a;
}

// Of a tile's eight keys `e` the first of the two with which a lane has products.
DEVICE int first_key(Row row, int first, int e) {
    u32 at = first + e * 8 + threadIdx.x % 4 * 2;
    return key_of(row, at / BLOCK_K, at % BLOCK_K);
}

// Writes the probabilities of focus tokens, if the query block has some.
DEVICE void write_focus(const Recording& p, Sight sight, const Products (&found)[2], Row row, int first) {
    if (ALL_KEYS || p.focus.end <= sight.first_query || p.focus.first >= sight.end_query) return;
#pragma unroll
    for (int i = 0; i < 4 * OF_LANE; i++) {
        int e = i / 2 / OF_LANE, j = i / 2 % OF_LANE, token = sight.first_query + place_of(j);
        u32 at = first + e * 8 + threadIdx.x % 4 * 2;
        if (token < p.focus.first || token >= min(p.focus.end, sight.end_query)) continue;
        if (at >= (u32)row.count * BLOCK_K) continue;
        u64 to = row_of_head(p.mask, token - p.focus.first, p.focus.end - p.focus.first) * BLOCK_K;
        p.focus.rows[to + at + i % 2] = found[e](j, i % 2);
    }
}

// Adds to `sums` what the weights make of the probabilities with a tile's keys, of which a lane's are `keys` and the next.
DEVICE void weigh(float* sums, const Recording& p, Sight sight, const Products (&found)[2], const Anchored& anchored,
                  const int (&keys)[2]) {
    if (__all_sync(~0u, max(keys[0], keys[1]) + 1 < anchored.least)) {
#pragma unroll
        for (int i = 0; i < 4 * OF_LANE; i++) {
            sums[i % 4] = fmaf(found[i % 4 / 2](i / 4, i % 2), anchored.weight[i / 4], sums[i % 4]);
        }
        return;
    }
#pragma unroll
    for (int j = 0; j < OF_LANE; j++) {
        int limit = p.anchors.limit[min(sight.first_query + place_of(j), sight.end_query - 1)];
#pragma unroll
        for (int i = 0; i < 4; i++) {
            if (keys[i / 2] + i % 2 < limit) sums[i] = fmaf(found[i / 2](j, i % 2), anchored.weight[j], sums[i]);
        }
    }
}

// The lane's sum over the warp's queries, of their probabilities.
DEVICE float sum_of_key(const Recording& p, Sight sight, const Products (&found)[2], const Anchored& anchored,
                        Row row, int first) {
    float sums[8] = {};
#pragma unroll
    for (int i = 0; i < 4 * OF_LANE; i++) sums[i % 4] += found[i % 4 / 2](i / 4, i % 2);
    if (ANCHORS) {
        weigh(sums + 4, p, sight, found, anchored, {first_key(row, first, 0), first_key(row, first, 1)});
    }
    fold<ANCHORS ? 8 : 4>(sums, 4);
    fold<ANCHORS ? 4 : 2>(sums, 8);
    if (ANCHORS) fold<2>(sums, 16);
    else sums[0] += exchanged(sums[0], 16);
    return sums[0];
}

// Adds up the masses of a tile's blocks from the lanes' sums; `mass` is of the block under way.
DEVICE void add_masses(float sum, float& mass, Row row, int first, float* masses) {
    int lane = threadIdx.x % 32;
    if (BLOCK_K > 8) {
        mass += sum;
        if ((first + TILE) % BLOCK_K) return;
        sum = mass + exchanged(mass, 8), mass = 0.0f;
    }
    sum += exchanged(sum, 4);
    sum += exchanged(sum, 1);
    if (BLOCK_K > 4) sum += exchanged(sum, 2);
    int slot = (first + lane / 8 * 8 + lane % 4 * 2) / BLOCK_K;
    bool speaks = lane % 8 < 4 && lane % (BLOCK_K > 4 ? 4 : 2) == 0 && lane < (BLOCK_K > 8 ? 8 : 16);
    if (!speaks || slot >= row.count) return;
    if (WARPS_Q == 1) masses[slot] = sum;
    else atomicAdd(&masses[slot], sum);
}

// Adds the lane's sum where it belongs.
DEVICE void add_to_key(const Recording& p, float sum, Row row, int first) {
    int lane = threadIdx.x % 32, at = first + lane / 8 % 2 * 8 + lane % 4 * 2 + lane / 4 % 2;
    int key = key_of(row, at / BLOCK_K, at % BLOCK_K);
    if (key >= p.sizes.n_tokens || (!ANCHORS && lane >= 16)) return;
    float* received = lane < 16 ? p.received : p.anchors.received;
    if (received) atomicAdd(&received[(u64)blockIdx.y * p.sizes.n_tokens + key], sum);
    if (ALL_KEYS || !p.shares || lane >= 16) return;
    float* share = &p.shares[row_of_head(p.mask, blockIdx.x, gridDim.x) * BLOCK_K + at];
    if (WARPS_Q == 1) *share = sum;
    else atomicAdd(share, sum);
}

// Records a tile's probabilities.
DEVICE void add_tile(const Recording& p, Sight sight, const Products (&found)[2], const Anchored& anchored, Row row,
                     int first, float& mass, float* masses) {
    float sum = sum_of_key(p, sight, found, anchored, row, first);
    add_to_key(p, sum, row, first);
    if (!ALL_KEYS) add_masses(sum, mass, row, first, masses);
    write_focus(p, sight, found, row, first);
}
