// clusters: two clusters of the keys under every node of a binary tree over key blocks.
//
// Nodes are those of pyramid.cu, in its order. Keys are clusters of one; a node's two clusters are its
// children's four, merged twice, each time the two that raise the sum of squared distances least:
// n_a n_b / (n_a + n_b) |c_a - c_b|^2 (Ward 1963). Keys that the last block lacks repeat its last one: no
// search reads a node that reaches past the prompt.
//
// clusters_of_blocks: level 0, from the keys. clusters_of_nodes: a level from the one below. One warp a node.
//
// keys    [n_tokens, n_kv_heads, HEAD_DIM] bf16
// means   [n_kv_heads, n_nodes, 2, HEAD_DIM] bf16
// spreads [n_kv_heads, n_nodes, 2] f32: s sqrt(2 ln n), for n keys whose variance, averaged over dimensions,
//         is s^2
// sums    [n_kv_heads, n_nodes, 2, 2] f32: n, sum of squared distances from the mean
// below, n_children: nodes of the levels below the children's, and of theirs (clusters_of_nodes)
// grid (nodes of the level / WARPS, rounded up, n_kv_heads)
// Compile with -D HEAD_DIM, -D BLOCK_K (power of two from 4).
// Reference: src/engine/cpu/search/estimate/two_means.rs

constexpr int WARPS = 8;
constexpr int THREADS = 32 * WARPS;
constexpr int VALUES = HEAD_DIM / 32;  // a lane's dimensions: lane, lane + 32, ...

GEOMETRY(clusters_of_blocks, THREADS, WARPS, 1, 0, 0);
GEOMETRY(clusters_of_nodes, THREADS, WARPS, 1, 0, 0);

struct ClusterParams {
    const u16* keys;
    u16* means;
    float* spreads;
    float2* sums;
    int n_tokens, n_kv_heads, n_nodes, below, n_children;
};
static_assert(sizeof(ClusterParams) == 56, "as in src/engine/cuda/params.rs");

struct Cluster {
    float n, squares, mean[VALUES];
};

struct Node {
    Cluster clusters[2];
};

DEVICE float squared_distance(const Cluster& a, const Cluster& b) {
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < VALUES; i++) sum += (a.mean[i] - b.mean[i]) * (a.mean[i] - b.mean[i]);
    return warp_sum_upwards(sum);
}

// Returns by how much merging raises the sum of squared distances.
DEVICE float cost_of(const Cluster& a, const Cluster& b) {
    return squared_distance(a, b) * a.n * b.n / (a.n + b.n);
}

// The same for a third cluster and the two that were merged (Lance and Williams 1967).
DEVICE float cost_after(float a_c, float b_c, float a_b, float a, float b, float c) {
    return ((a + c) * a_c + (b + c) * b_c - c * a_b) / (a + b + c);
}

DEVICE void merge_into(Cluster& a, const Cluster& b, float cost) {
    float share = b.n / (a.n + b.n);
#pragma unroll
    for (int i = 0; i < VALUES; i++) a.mean[i] += share * (b.mean[i] - a.mean[i]);
    a.n += b.n, a.squares += b.squares + cost;
}

template <typename T>
DEVICE void exchange(T& a, T& b) {
    T c = a;
    a = b, b = c;
}

// Merges four clusters into two. Branches are the same for all lanes.
DEVICE Node merged(const Node& left, const Node& right) {
    Cluster a = left.clusters[0], b = left.clusters[1], c = right.clusters[0], d = right.clusters[1];
    float ab = cost_of(a, b), ac = cost_of(a, c), bc = cost_of(b, c);
    float ad = cost_of(a, d), bd = cost_of(b, d), cd = cost_of(c, d);
    float least = fminf(fminf(fminf(ab, ac), fminf(bc, ad)), fminf(bd, cd));
    // The cheapest pair comes to a and b.
    if (least == ab) {
    } else if (least == ac) {
        exchange(b, c), exchange(ab, ac), exchange(bd, cd);
    } else if (least == bc) {
        exchange(a, c), exchange(ab, bc), exchange(ad, cd);
    } else if (least == ad) {
        exchange(b, d), exchange(ab, ad), exchange(bc, cd);
    } else if (least == bd) {
        exchange(a, d), exchange(ab, bd), exchange(ac, cd);
    } else {
        exchange(a, c), exchange(b, d), exchange(ab, cd), exchange(ad, bc);
    }
    float abc = cost_after(ac, bc, ab, a.n, b.n, c.n), abd = cost_after(ad, bd, ab, a.n, b.n, d.n);
    merge_into(a, b, ab);
    if (cd < abc && cd < abd) merge_into(c, d, cd);
    else if (abd < abc) merge_into(a, d, abd);
    else {
        merge_into(a, c, abc);
        c = d;
    }
    return {{a, c}};
}

DEVICE Cluster key_at(const u16* keys, int key, int n_kv_heads) {
    const u16* row = keys + ((u64)key * n_kv_heads + blockIdx.y) * HEAD_DIM + threadIdx.x % 32;
    Cluster c = {1.0f, 0.0f};
#pragma unroll
    for (int i = 0; i < VALUES; i++) c.mean[i] = from_bf16(row[i * 32]);
    return c;
}

DEVICE void write_node(const ClusterParams& p, const Node& node, u64 place) {
    int lane = threadIdx.x % 32;
#pragma unroll
    for (int k = 0; k < 2; k++) {
        const Cluster& c = node.clusters[k];
#pragma unroll
        for (int i = 0; i < VALUES; i++) {
            p.means[(2 * place + k) * HEAD_DIM + i * 32 + lane] = to_bf16(c.mean[i]);
        }
        if (lane == 0) {
            float deviation = sqrtf(fmaxf(c.squares, 0.0f) / (c.n * HEAD_DIM));
            p.spreads[2 * place + k] = deviation * sqrtf(2.0f * logf(c.n));
            p.sums[2 * place + k] = make_float2(c.n, c.squares);
        }
    }
}

DEVICE Node read_node(const ClusterParams& p, u64 place) {
    Node node;
#pragma unroll
    for (int k = 0; k < 2; k++) {
        Cluster& c = node.clusters[k];
        float2 sum = p.sums[2 * place + k];
        c.n = sum.x, c.squares = sum.y;
#pragma unroll
        for (int i = 0; i < VALUES; i++) {
            c.mean[i] = from_bf16(p.means[(2 * place + k) * HEAD_DIM + i * 32 + threadIdx.x % 32]);
        }
    }
    return node;
}

KERNEL void __launch_bounds__(THREADS) clusters_of_blocks(const __grid_constant__ ClusterParams p) {
    // Of nodes in a block, above pairs of keys.
    constexpr int LEVELS = BLOCK_K == 64 ? 5 : BLOCK_K == 32 ? 4 : BLOCK_K == 16 ? 3 : BLOCK_K == 8 ? 2 : 1;
    const u16* keys = p.keys;
    int block = blockIdx.x * WARPS + threadIdx.x / 32, last = p.n_tokens - 1, n_kv_heads = p.n_kv_heads;
    if (block * BLOCK_K > last) return;
    Node waiting[LEVELS + 1], whole;
    for (int pair = 0; pair < BLOCK_K / 2; pair++) {
        int key = block * BLOCK_K + 2 * pair;
        whole = {{key_at(keys, min(key, last), n_kv_heads), key_at(keys, min(key + 1, last), n_kv_heads)}};
        bool carry = true;
#pragma unroll
        for (int level = 0; level < LEVELS; level++) {
            if (carry) {
                carry = (pair >> level) & 1;
                if (carry) whole = merged(waiting[level], whole);
                else waiting[level] = whole;
            }
        }
    }
    write_node(p, whole, (u64)blockIdx.y * p.n_nodes + block);
}

KERNEL void __launch_bounds__(THREADS) clusters_of_nodes(const __grid_constant__ ClusterParams p) {
    int node = blockIdx.x * WARPS + threadIdx.x / 32;
    if (2 * node >= p.n_children) return;
    u64 children = (u64)blockIdx.y * p.n_nodes + p.below;
    Node left = read_node(p, children + 2 * node), whole = left;
    if (2 * node + 1 < p.n_children) whole = merged(left, read_node(p, children + 2 * node + 1));
    write_node(p, whole, children + p.n_children + node);
}
