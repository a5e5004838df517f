// pyramid: mean and variance of the keys under every node of a binary tree over key blocks.
//
// Node (l, i) covers key blocks [i 2^l, (i + 1) 2^l), cut at the end of the prompt; level 0 is one key block.
// Its row in `mean` and `variance` is (nodes of the levels below l) + i; level l has ceil(n_key_blocks / 2^l)
// nodes, and the last level has one. Sums are merged in f32 (Chan's formula: no cancellation) and rounded
// once.
//
// pyramid_spans: levels up to SPAN_LEVELS, one thread block for 2^SPAN_LEVELS key blocks; leaves the whole
// span's sums.
// pyramid_top:   the levels above, each node from its spans.
//
// keys             [n_tokens, n_kv_heads, HEAD_DIM] bf16
// means, variances [n_kv_heads, n_nodes, HEAD_DIM] bf16
// spans            [n_kv_heads, n_spans, 2, HEAD_DIM] f32: mean, sum of squared distances from it
// grid spans (n_key_blocks / SPAN, rounded up: n_spans, n_kv_heads), top (n_nodes above SPAN_LEVELS,
// n_kv_heads)
// Compile with -D HEAD_DIM, -D BLOCK_K (4 to 64).
// Reference: tests/cuda/reference.py, pyramid

constexpr int SPAN = 1024 / BLOCK_K;  // key blocks
constexpr int SPAN_LEVELS = BLOCK_K == 64 ? 4 : BLOCK_K == 32 ? 5 : BLOCK_K == 16 ? 6 : BLOCK_K == 8 ? 7 : 8;
static_assert(SPAN == 1 << SPAN_LEVELS, "a span is a node");
constexpr int THREADS = HEAD_DIM / 2;

GEOMETRY(pyramid_spans, THREADS, SPAN, 1, 0, 0);
GEOMETRY(pyramid_top, THREADS, 1, 1, 0, 0);

struct PyramidParams {
    const u16* keys;
    u32 *means, *variances;
    float2* spans;
    int n_tokens, n_kv_heads, n_spans, n_nodes;
};
static_assert(sizeof(PyramidParams) == 48, "as in src/engine/cuda/params.rs");

// Keys of two neighbouring dimensions: how many, mean, sum of squared distances from the mean.
struct Moments {
    float n;
    float2 mean, squares;
};

DEVICE Moments merge(Moments a, Moments b) {
    float n = a.n + b.n, share = n > 0.0f ? b.n / n : 0.0f, weight = a.n * share;
    float dx = b.mean.x - a.mean.x, dy = b.mean.y - a.mean.y;
    Moments m = {
        n,
        {a.mean.x + dx * share, a.mean.y + dy * share},
        {a.squares.x + b.squares.x + dx * dx * weight, a.squares.y + b.squares.y + dy * dy * weight}};
    return m;
}

constexpr int PIECE = smaller(BLOCK_K, 16);  // keys in registers at a time

DEVICE Moments of_piece(const u32* pairs, u64 stride, int n) {
    u32 key[PIECE];
    float2 sum = {0.0f, 0.0f}, squares = {0.0f, 0.0f};
#pragma unroll
    for (int i = 0; i < PIECE; i++) {
        key[i] = i < n ? pairs[i * stride] : 0;
        sum.x += low_bf16(key[i]);
        sum.y += high_bf16(key[i]);
    }
    float2 mean = {sum.x / n, sum.y / n};
#pragma unroll
    for (int i = 0; i < PIECE; i++) {
        float dx = low_bf16(key[i]) - mean.x, dy = high_bf16(key[i]) - mean.y;
        squares.x += i < n ? dx * dx : 0.0f;
        squares.y += i < n ? dy * dy : 0.0f;
    }
    Moments m = {(float)n, mean, squares};
    return m;
}

DEVICE Moments of_block(const u16* keys, int first, int last, int n_kv_heads) {
    const u32* pairs = (const u32*)(keys + ((u64)first * n_kv_heads + blockIdx.y) * HEAD_DIM) + threadIdx.x;
    u64 stride = (u64)n_kv_heads * HEAD_DIM / 2;
    Moments m = of_piece(pairs, stride, min(last - first, PIECE));
    for (int at = PIECE; at < last - first; at += PIECE) {
        m = merge(m, of_piece(pairs + at * stride, stride, min(last - first - at, PIECE)));
    }
    return m;
}

DEVICE void write_node(const PyramidParams& p, const Moments& m, u64 node) {
    p.means[node * (HEAD_DIM / 2) + threadIdx.x] = pack_bf16(m.mean.x, m.mean.y);
    p.variances[node * (HEAD_DIM / 2) + threadIdx.x] = pack_bf16(m.squares.x / m.n, m.squares.y / m.n);
}

DEVICE int nodes_at(int level, int n_key_blocks) { return (n_key_blocks + (1 << level) - 1) >> level; }

KERNEL void pyramid_spans(const __grid_constant__ PyramidParams p) {
    int n_tokens = p.n_tokens, n_kv_heads = p.n_kv_heads, n_nodes = p.n_nodes;
    int n_key_blocks = (n_tokens + BLOCK_K - 1) / BLOCK_K, first = blockIdx.x << SPAN_LEVELS;
    int n_blocks = min(1 << SPAN_LEVELS, n_key_blocks - first);
    Moments complete[SPAN_LEVELS + 1], whole = {0.0f, {0.0f, 0.0f}, {0.0f, 0.0f}};
    for (int b = 0; b < n_blocks; b++) {
        int key = (first + b) * BLOCK_K;
        Moments m = of_block(p.keys, key, min(key + BLOCK_K, n_tokens), n_kv_heads);
        u64 below = (u64)blockIdx.y * n_nodes;
        bool carry = true;
#pragma unroll
        for (int level = 0; level <= SPAN_LEVELS; level++) {
            if (carry) {
                write_node(p, m, below + ((first + b) >> level));
                carry = (b >> level) & 1;
                if (carry) m = merge(complete[level], m);
                else complete[level] = m;
            }
            below += nodes_at(level, n_key_blocks);
        }
    }
    u64 below = (u64)blockIdx.y * n_nodes;
#pragma unroll
    for (int level = 0; level <= SPAN_LEVELS; level++) {  // the nodes cut at the end of the prompt
        bool in_tree = level > 0 && nodes_at(level - 1, n_key_blocks) > 1;
        if (in_tree && whole.n > 0.0f && n_blocks & ((1 << level) - 1)) {
            write_node(p, whole, below + ((first + n_blocks - 1) >> level));
        }
        if ((n_blocks >> level) & 1) whole = merge(complete[level], whole);
        below += nodes_at(level, n_key_blocks);
    }
    float2* span = p.spans + ((u64)blockIdx.y * gridDim.x + blockIdx.x) * HEAD_DIM + threadIdx.x;
    span[0] = whole.mean;
    span[HEAD_DIM / 2] = whole.squares;
}

KERNEL void pyramid_top(const __grid_constant__ PyramidParams p) {
    int n_tokens = p.n_tokens, n_spans = p.n_spans, n_nodes = p.n_nodes;
    int n_key_blocks = (n_tokens + BLOCK_K - 1) / BLOCK_K, level = SPAN_LEVELS + 1, node = blockIdx.x;
    u64 below = 0;
    for (int l = 0; l <= SPAN_LEVELS; l++) below += nodes_at(l, n_key_blocks);
    for (; node >= nodes_at(level, n_key_blocks); level++) {
        node -= nodes_at(level, n_key_blocks);
        below += nodes_at(level, n_key_blocks);
    }
    int width = level - SPAN_LEVELS, end = min((node + 1) << width, n_spans);
    const int span_keys = BLOCK_K << SPAN_LEVELS;
    Moments m = {0.0f, {0.0f, 0.0f}, {0.0f, 0.0f}};
#pragma unroll 8
    for (int s = node << width; s < end; s++) {
        const float2* span = p.spans + ((u64)blockIdx.y * n_spans + s) * HEAD_DIM + threadIdx.x;
        Moments one = {(float)min(span_keys, n_tokens - s * span_keys), span[0], span[HEAD_DIM / 2]};
        m = merge(m, one);
    }
    write_node(p, m, (u64)blockIdx.y * n_nodes + below + node);
}
