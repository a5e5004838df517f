// soft_cap: products of queries and keys become cap tanh(product / cap), infinities NaN so that they are found.
// SOFT_CAP is 0 for none.

#ifndef SOFT_CAP
#define SOFT_CAP 0.0f
#endif

DEVICE float soft_cap(float product) {
    if (SOFT_CAP == 0.0f) return product;
    const float cap = SOFT_CAP;
    float e = exp2_fast(fabsf(product) * (-2.0f * LOG2E / cap));
    return copysignf(cap * (1.0f - e) / (1.0f + e), product) + 0.0f * product;
}
