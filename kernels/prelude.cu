// prelude: types, bf16 and single numbers. Stands before every kernel file: the loader concatenates, no file
// includes another.
//
// bf16 values are u16 in memory. Everything compiles with NVRTC alone, without any header.

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

#define DEVICE __device__ __forceinline__
#define KERNEL extern "C" __global__
#define LOG2E 1.4426950408889634f

constexpr int smaller(int a, int b) { return a < b ? a : b; }
constexpr int larger(int a, int b) { return a > b ? a : b; }

DEVICE float infinity() { return __int_as_float(0x7f800000); }

// ---- launches
//
// A kernel takes one structure of parameters, which has the same name and fields in src/engine/cuda/params.rs
// and tests/cuda/params.py, and says here how it is launched. The host reads that when it loads the module.

struct Geometry {
    int threads;          // of a thread block
    int items;            // that a thread block takes, in the grid's x
    int heads;            // that a thread block takes, in the grid's y
    int shared;           // dynamic shared memory of a thread block, bytes
    int shared_per_held;  // more of it for each of what the caller says that a thread block holds
};

#define GEOMETRY(kernel, ...) extern "C" __device__ const Geometry kernel##_geometry = {__VA_ARGS__}

// The key-value head of this thread block's query head, blockIdx.y.
DEVICE int kv_head_of(int n_kv_heads) { return blockIdx.y / (gridDim.y / n_kv_heads); }

// ---- bf16

DEVICE float from_bf16(u16 x) { return __uint_as_float((u32)x << 16); }
DEVICE float low_bf16(u32 pair) { return __uint_as_float(pair << 16); }
DEVICE float high_bf16(u32 pair) { return __uint_as_float(pair & 0xFFFF0000u); }

DEVICE u32 pack_bf16(float low, float high) {
    u32 pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}

DEVICE u16 to_bf16(float x) { return (u16)pack_bf16(x, 0.0f); }

// Both halves squared and rounded to bf16.
DEVICE u32 square_bf16(u32 pair) {
    u32 squared;
    asm("fma.rn.bf16x2 %0, %1, %1, %2;" : "=r"(squared) : "r"(pair), "r"(0x80008000u));
    return squared;
}

// ---- fast approximations of one instruction

DEVICE float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

DEVICE float log2_fast(float x) {
    float y;
    asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

DEVICE float sqrt_fast(float x) {
    float y;
    asm("sqrt.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// Larger floats get larger integers, none of them 0 or above 0xFF800000; both zeros the same.
DEVICE u32 ordered(float x) {
    u32 bits = __float_as_uint(x + 0.0f);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}
