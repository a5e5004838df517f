// warp: sums and maxima over the lanes of a warp; every lane gets the result. Stands before every kernel
// file, after prelude.
//
// A quad is four neighbouring lanes. Floats are added in the order of the distances: another order changes
// last bits.

// Returns the value of the lane whose number differs in the bits of `apart`.
template <typename T>
DEVICE T exchanged(T x, int apart) { return __shfl_xor_sync(~0u, x, apart); }

DEVICE float warp_sum(float x) {
#pragma unroll
    for (int apart = 16; apart > 0; apart /= 2) x += exchanged(x, apart);
    return x;
}

DEVICE float warp_max(float x) {
#pragma unroll
    for (int apart = 16; apart > 0; apart /= 2) x = fmaxf(x, exchanged(x, apart));
    return x;
}

// A sum, neighbours first.
DEVICE float warp_sum_upwards(float x) {
#pragma unroll
    for (int apart = 1; apart < 32; apart *= 2) x += exchanged(x, apart);
    return x;
}

// Over the eight lanes that have the same place in their quads.
DEVICE float sum_across_quads(float x) {
#pragma unroll
    for (int apart = 4; apart < 32; apart *= 2) x += exchanged(x, apart);
    return x;
}

DEVICE float quad_sum(float x) {
    x += exchanged(x, 1);
    return x + exchanged(x, 2);
}

DEVICE float quad_max(float x) {
    x = fmaxf(x, exchanged(x, 1));
    return fmaxf(x, exchanged(x, 2));
}
