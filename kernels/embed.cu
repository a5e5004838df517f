// embed: the embedding of each token.
//
// out[t, :] = table[tokens[t], :]
//
// table  [vocab_size, hidden] bf16
// tokens [n_tokens] u32, each below vocab_size (the caller checks)
// out    [n_tokens, hidden] bf16
// grid n_tokens, block 128, no shared memory. hidden is a multiple of 8.
// Reference: tests/cuda/reference.py, embed

KERNEL void embed(const u16* table, const u32* tokens, u16* out, int hidden) {
    const uint4* from = (const uint4*)(table + (u64)tokens[blockIdx.x] * hidden);
    uint4* to = (uint4*)(out + (u64)blockIdx.x * hidden);
    for (int i = threadIdx.x; i < hidden / 8; i += blockDim.x) to[i] = from[i];
}
