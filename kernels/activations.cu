// activations: those of gated feed-forward blocks, of one gate and one number that passes it. `limit` is of the
// clamped one alone.
//
// silu(x) = x / (1 + exp(-x)), gelu(x) = x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3)))

DEVICE float gated_silu(float gate, float up, float limit) { return gate / (1.0f + __expf(-gate)) * up; }

// 1/2 (1 + tanh(y)) = 1 / (1 + exp(-2 y))
DEVICE float gated_gelu(float gate, float up, float limit) {
    return gate / (1.0f + __expf(-1.5957691216f * (gate + 0.044715f * gate * gate * gate))) * up;
}

// Comparisons keep a NaN.
DEVICE float gated_clamped(float gate, float up, float limit) {
    gate = gate > limit ? limit : gate;
    up = up > limit ? limit : up < -limit ? -limit : up;
    return gate / (1.0f + __expf(-1.702f * gate)) * (up + 1.0f);
}
