// sentences: what vertical scores need of sentences, and the scores themselves.
//
// sentences_of_tokens: of a token t of sentence s, limit[t] = where the first sentence starts that is less than
// `distance` before s, and weight[t] = 1 / its tokens; tokens between sentences are left as they are: zeroed by the
// caller.
// vertical_scores: the mean over a sentence's tokens of what they received, a mean over the sentences that
// are far enough behind: out[h, i] = sum of anchors[h, t] over t in i, / (tokens in i * (n_sentences - i -
// distance)); 0 where no sentence is that far.
//
// spans    [n_sentences, 2] u32: first token and end
// limit    [n_tokens] u32; weight [n_tokens] f32
// anchors  [n_heads, n_tokens] f32
// out      [n_heads, n_sentences] f32
// grid of_tokens n_sentences / WARPS, vertical (n_sentences / WARPS, n_heads), rounded up: a warp for each
// sentence
// Any card from sm_80. Reference: src/engine/cpu/layer.rs, of_tokens and vertical; tests/cuda.rs compares

constexpr int WARPS = 8;

GEOMETRY(sentences_of_tokens, 32 * WARPS, WARPS, 1, 0, 0);
GEOMETRY(vertical_scores, 32 * WARPS, WARPS, 1, 0, 0);

struct SentenceParams {
    const u32* spans;
    u32* limit;
    float* weight;
    int n_sentences, distance;
};
static_assert(sizeof(SentenceParams) == 32, "as in src/engine/cuda/params.rs");

struct VerticalParams {
    const float* anchors;
    const u32* spans;
    float* out;
    int n_tokens, n_sentences, distance;
};
static_assert(sizeof(VerticalParams) == 40, "as in src/engine/cuda/params.rs");

KERNEL void sentences_of_tokens(const __grid_constant__ SentenceParams p) {
    int i = blockIdx.x * WARPS + threadIdx.x / 32;
    if (i >= p.n_sentences) return;
    u32 start = p.spans[2 * i], end = p.spans[2 * i + 1];
    u32 limit = i < p.distance ? 0 : p.spans[2 * (i - p.distance + 1)];
    for (u32 t = start + threadIdx.x % 32; t < end; t += 32) {
        p.limit[t] = limit, p.weight[t] = 1.0f / (end - start);
    }
}

KERNEL void vertical_scores(const __grid_constant__ VerticalParams p) {
    int i = blockIdx.x * WARPS + threadIdx.x / 32;
    if (i >= p.n_sentences) return;
    const float* row = p.anchors + (u64)blockIdx.y * p.n_tokens;
    u32 start = p.spans[2 * i], end = p.spans[2 * i + 1];
    float sum = 0.0f;
    for (u32 t = start + threadIdx.x % 32; t < end; t += 32) sum += row[t];
    sum = warp_sum(sum);
    int after = p.n_sentences - i - p.distance;
    float score = after > 0 ? sum / ((float)(end - start) * after) : 0.0f;
    if (threadIdx.x % 32 == 0) p.out[(u64)blockIdx.y * p.n_sentences + i] = score;
}
