// sentences: what vertical scores need of sentences, and the scores themselves.
//
// sentences_of_tokens: sentence[t], the sentence of token t, and weight[t] = 1 / its tokens.
// vertical_scores: the mean over a sentence's tokens of what they received, a mean over the sentences that are far enough behind:
// out[h, i] = sum of anchors[h, t] over t in i, / (tokens in i * (n_sentences - i - distance)); 0 where no sentence is that far.
//
// spans    [n_sentences, 2] u32: first token and end
// sentence [n_tokens] u32; weight [n_tokens] f32
// anchors  [n_heads, n_tokens] f32
// out      [n_heads, n_sentences] f32
// grid of_tokens ceil(n_sentences / 8), vertical (ceil(n_sentences / 8), n_heads); block 256: a warp for each sentence
// Any card from sm_80. Reference: src/cpu/attention.rs, of_tokens and vertical; tests/cuda.rs compares

KERNEL void sentences_of_tokens(const u32* spans, u32* sentence, float* weight, int n_sentences) {
    int i = blockIdx.x * 8 + threadIdx.x / 32;
    if (i >= n_sentences) return;
    u32 start = spans[2 * i], end = spans[2 * i + 1];
    for (u32 t = start + threadIdx.x % 32; t < end; t += 32) sentence[t] = i, weight[t] = 1.0f / (end - start);
}

KERNEL void vertical_scores(const float* anchors, const u32* spans, float* out, int n_tokens, int n_sentences, int distance) {
    int i = blockIdx.x * 8 + threadIdx.x / 32;
    if (i >= n_sentences) return;
    const float* row = anchors + (u64)blockIdx.y * n_tokens;
    u32 start = spans[2 * i], end = spans[2 * i + 1];
    float sum = 0.0f;
    for (u32 t = start + threadIdx.x % 32; t < end; t += 32) sum += row[t];
    for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(~0u, sum, step);
    int after = n_sentences - i - distance;
    if (threadIdx.x % 32 == 0) out[(u64)blockIdx.y * n_sentences + i] = after > 0 ? sum / ((float)(end - start) * after) : 0.0f;
}
