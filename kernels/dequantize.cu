// dequantize: llama.cpp's blocks of quantised numbers to bf16.
//
// out[row, i] = factor * x + offset, where x is number i of row `row` in the file, or of another row of the
// same head: where a file has the rotary pairs (0, 1), (2, 3), … side by side, row r of a head of `head_dim`
// rows is row 2 (r % (head_dim / 2)) + r / (head_dim / 2) in the file. A head_dim of 0 leaves rows where they
// are.
//
// blocks  [n_rows, width / NUMBERS] blocks of BYTES bytes, as ggml-common.h has them
// out     [n_rows, width] bf16; width a multiple of NUMBERS
// grid ceil(n_vectors / THREADS) with n_vectors = n_rows * width / 8; a thread writes eight numbers
// Compile with -D FORMAT (Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, IQ4_NL, IQ4_XS or
// MXFP4).
// Reference: tests/cuda/check_blocks.py

constexpr int THREADS = 256;

GEOMETRY(dequantize, THREADS, THREADS, 1, 0, 0);

struct DequantizeParams {
    const u8* blocks;
    uint4* out;
    u64 n_vectors;
    int width, head_dim;
    float factor, offset;
};
static_assert(sizeof(DequantizeParams) == 40, "as in src/engine/cuda/params.rs");

// ---- numbers that a block begins or ends with

DEVICE float f16_at(const u8* at) {
    float x;
    u16 bits = (u16)(at[0] | at[1] << 8);
    asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(bits));
    return x;
}

// Four bits of a byte: the low ones, or the high ones.
DEVICE int nibble(u8 byte, bool high) { return high ? byte >> 4 : byte & 15; }

// Scale and minimum of 32 numbers, six bits each, of the twelve bytes that Q4_K and Q5_K have of them.
DEVICE void six_bits(const u8* packed, int part, int& scale, int& minimum) {
    if (part < 4) {
        scale = packed[part] & 63, minimum = packed[part + 4] & 63;
    } else {
        scale = (packed[part + 4] & 15) | packed[part - 4] >> 6 << 4;
        minimum = packed[part + 4] >> 4 | packed[part] >> 6 << 4;
    }
}

// ---- formats: number `i` of a block

// 32 numbers in 16 bytes: the low halves hold the first 16 of them, the high halves the others.
struct Halves {
    static constexpr int NUMBERS = 32;
    static DEVICE int of(const u8* bytes, int i) { return nibble(bytes[i % 16], i >= 16); }
};

struct Q4_0 : Halves {
    static constexpr int BYTES = 18;
    static DEVICE float at(const u8* b, int i) { return f16_at(b) * (of(b + 2, i) - 8); }
};

struct Q4_1 : Halves {
    static constexpr int BYTES = 20;
    static DEVICE float at(const u8* b, int i) { return f16_at(b) * of(b + 4, i) + f16_at(b + 2); }
};

struct Q5_0 : Halves {
    static constexpr int BYTES = 22;
    static DEVICE float at(const u8* b, int i) {
        int fifth = b[2 + i / 8] >> i % 8 & 1;
        return f16_at(b) * ((of(b + 6, i) | fifth << 4) - 16);
    }
};

struct Q5_1 : Halves {
    static constexpr int BYTES = 24;
    static DEVICE float at(const u8* b, int i) {
        int fifth = b[4 + i / 8] >> i % 8 & 1;
        return f16_at(b) * (of(b + 8, i) | fifth << 4) + f16_at(b + 2);
    }
};

struct Q8_0 {
    static constexpr int NUMBERS = 32, BYTES = 34;
    static DEVICE float at(const u8* b, int i) { return f16_at(b) * (signed char)b[2 + i]; }
};

struct Q2_K {
    static constexpr int NUMBERS = 256, BYTES = 84;
    static DEVICE float at(const u8* b, int i) {
        const u8 *scales = b, *numbers = b + 16;
        int scale = scales[i / 16], x = numbers[i / 128 * 32 + i % 32] >> i % 128 / 32 * 2 & 3;
        return f16_at(b + 80) * (scale & 15) * x - f16_at(b + 82) * (scale >> 4);
    }
};

struct Q3_K {
    static constexpr int NUMBERS = 256, BYTES = 110;
    static DEVICE float at(const u8* b, int i) {
        const u8 *third = b, *numbers = b + 32, *scales = b + 96;
        int part = i / 16;
        int scale = nibble(scales[part % 8], part >= 8) | (scales[8 + part % 4] >> part / 4 * 2 & 3) << 4;
        int x = numbers[i / 128 * 32 + i % 32] >> i % 128 / 32 * 2 & 3;
        bool low = third[i % 32] >> i / 32 & 1;
        return f16_at(b + 108) * (scale - 32) * (low ? x : x - 4);
    }
};

struct Q4_K {
    static constexpr int NUMBERS = 256, BYTES = 144;
    static DEVICE float at(const u8* b, int i) {
        int scale, minimum, part = i / 32;
        six_bits(b + 4, part, scale, minimum);
        int x = nibble(b[16 + part / 2 * 32 + i % 32], part % 2);
        return f16_at(b) * scale * x - f16_at(b + 2) * minimum;
    }
};

struct Q5_K {
    static constexpr int NUMBERS = 256, BYTES = 176;
    static DEVICE float at(const u8* b, int i) {
        int scale, minimum, part = i / 32;
        six_bits(b + 4, part, scale, minimum);
        int x = nibble(b[48 + part / 2 * 32 + i % 32], part % 2) | (b[16 + i % 32] >> part & 1) << 4;
        return f16_at(b) * scale * x - f16_at(b + 2) * minimum;
    }
};

struct Q6_K {
    static constexpr int NUMBERS = 256, BYTES = 210;
    static DEVICE float at(const u8* b, int i) {
        int half = i / 128, part = i % 128 / 32;
        int low = nibble(b[half * 64 + part % 2 * 32 + i % 32], part >= 2);
        int high = b[128 + half * 32 + i % 32] >> part * 2 & 3;
        return f16_at(b + 208) * (signed char)b[192 + i / 16] * ((low | high << 4) - 32);
    }
};

__constant__ signed char IQ4_VALUES[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

struct IQ4_NL : Halves {
    static constexpr int BYTES = 18;
    static DEVICE float at(const u8* b, int i) { return f16_at(b) * IQ4_VALUES[of(b + 2, i)]; }
};

struct IQ4_XS {
    static constexpr int NUMBERS = 256, BYTES = 136;
    static DEVICE float at(const u8* b, int i) {
        int part = i / 32, high = (b[2 + part / 4] >> part % 4 * 2 & 3) << 4;
        int scale = nibble(b[4 + part / 2], part % 2) | high;
        return f16_at(b) * (scale - 32) * IQ4_VALUES[Halves::of(b + 8 + part * 16, i % 32)];
    }
};

// Twice the numbers of a sign, two bits of exponent and one of fraction.
__constant__ signed char E2M1_VALUES[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

struct MXFP4 : Halves {
    static constexpr int BYTES = 17;
    static DEVICE float at(const u8* b, int i) {
        return ldexpf((float)E2M1_VALUES[of(b + 1, i)], b[0] - 128);
    }
};

// ---- kernel

KERNEL void __launch_bounds__(THREADS) dequantize(DequantizeParams p) {
    u64 vector = (u64)blockIdx.x * THREADS + threadIdx.x;
    if (vector >= p.n_vectors) return;
    int row = vector * 8 / p.width, first = vector * 8 % p.width;
    if (p.head_dim > 0) {
        int in_head = row % p.head_dim, half = p.head_dim / 2;
        row += in_head % half * 2 + in_head / half - in_head;
    }
    u64 block = (u64)row * (p.width / FORMAT::NUMBERS) + first / FORMAT::NUMBERS;
    const u8* bytes = p.blocks + block * FORMAT::BYTES;
    float x[8];
#pragma unroll
    for (int i = 0; i < 8; i++) x[i] = fmaf(p.factor, FORMAT::at(bytes, first % FORMAT::NUMBERS + i), p.offset);
    p.out[vector] = {pack_bf16(x[0], x[1]), pack_bf16(x[2], x[3]), pack_bf16(x[4], x[5]), pack_bf16(x[6], x[7])};
}
