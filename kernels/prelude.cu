// prelude: what every kernel file is prefixed with (the loader concatenates; no file includes another).
//
// Types, bf16, asynchronous copies, tensor-core products of 16 x 8 x 16, and the geometry of query and key blocks.
// bf16 values are u16 in memory. Everything compiles with NVRTC alone, without any header.

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

#define DEVICE __device__ __forceinline__
#define KERNEL extern "C" __global__
#define NONE 0xFFFFFFFFu  // fills up a row of kept blocks
#define LOG2E 1.4426950408889634f

constexpr int smaller(int a, int b) { return a < b ? a : b; }

DEVICE float infinity() { return __int_as_float(0x7f800000); }

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

DEVICE float sqrt_fast(float x) {
    float y;
    asm("sqrt.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// The bits of a float: products of queries and keys become cap tanh(product / cap), infinities NaN so that they are found.
// 0 for none.
#ifndef SOFT_CAP
#define SOFT_CAP 0
#endif

DEVICE float soft_cap(float product) {
    if (SOFT_CAP == 0) return product;
    const float cap = __int_as_float(SOFT_CAP);
    float e = exp2_fast(fabsf(product) * (-2.0f * LOG2E / cap));
    return copysignf(cap * (1.0f - e) / (1.0f + e), product) + 0.0f * product;
}

// Larger floats get larger integers, none of them 0 or above 0xFF800000; both zeros the same.
DEVICE u32 ordered(float x) {
    u32 bits = __float_as_uint(x + 0.0f);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

// ---- shared memory, filled while the threads go on

DEVICE u32 shared_address(const void* p) { return (u32)__cvta_generic_to_shared(p); }

DEVICE void copy_16(u32 to_shared, const void* from) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to_shared), "l"(from) : "memory");
}

DEVICE void copy_4(u32 to_shared, const void* from) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(to_shared), "l"(from) : "memory");
}

DEVICE float load_float(u32 shared) {
    float x;
    asm volatile("ld.shared.f32 %0, [%1];" : "=f"(x) : "r"(shared) : "memory");
    return x;
}

DEVICE void copies_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until at most `PENDING` of this thread's groups of copies are under way.
template <int PENDING>
DEVICE void copies_wait() { asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory"); }

// ---- tensor cores: C[16, 8] += A[16, 16] B[16, 8]; a lane holds rows lane/4 and lane/4 + 8, columns 2(lane%4) and the next

DEVICE void load_matrices(u32 (&m)[4], u32 address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3]) : "r"(address) : "memory");
}

DEVICE void load_matrices_transposed(u32 (&m)[4], u32 address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3]) : "r"(address) : "memory");
}

DEVICE void multiply(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// ---- the geometry of blocks

// What a query block sees, in tokens [q0, q1) and key blocks [v0, v1).
struct Sight {
    int q0, q1, v0, v1;
};

DEVICE Sight sight_of(int query_block, int block_q, int block_k, int n_tokens, int window) {
    Sight s;
    s.q0 = query_block * block_q;
    s.q1 = min(s.q0 + block_q, n_tokens);
    s.v0 = window > 0 ? max(s.q0 + 1 - window, 0) / block_k : 0;
    s.v1 = (s.q1 - 1) / block_k + 1;
    return s;
}

// Whether a query sees a key; a window of 0 is none.
DEVICE bool sees(int query, int key, int window) { return key <= query && (window <= 0 || key > query - window); }

// The visible key blocks that have to compete, [c0, c1), and how many of them may stay.
struct Candidates {
    int c0, c1, budget;
};

DEVICE Candidates candidates_of(Sight s, int sink_blocks, int local_blocks, int top_k) {
    Candidates c;
    c.c0 = max(s.v0, min(sink_blocks, s.v1));
    c.c1 = max(s.v1 - local_blocks, c.c0);
    c.budget = top_k - (c.c0 - s.v0) - (s.v1 - c.c1);
    return c;
}
