// What every kernel is written against. The same source has two meanings: nvcc compiles it to device
// code, where all of this is plain CUDA at no cost; the host compiler compiles it for the emulator,
// where pointers check and count.
//
// Conventions:
// - One file per family of operations; device.cuh is its first include.
// - KERNEL(name, Arguments, threads) { ... } starts a kernel. Names are unique in the project. Its one
//   argument, `args`, is a struct passed by value, its shapes included. `threads` is a literal: the
//   largest block it may be launched with. A fourth argument is the blocks that a multiprocessor should
//   hold at least, which bounds the registers.
// - ARGUMENTS(Type, fields...) after an argument struct lets tests hold its layout against its mirror
//   in Rust. An array of fixed length is one field.
// - A device address in an argument struct, or in a struct in memory, is a Buffer<T>. It becomes a
//   Global<T> (Global<const T> to read only) before it is used. Never `auto x = pointer[i]`: write the
//   element's type.
// - Shared memory is dynamic, taken piece by piece from a SharedMemory in the order in which the host
//   adds its pieces up.
// - UNROLL stands before a loop over an array that must stay in registers, ROLLED before one whose turns,
//   taken together, would need too many of them.
// - Blocks have one dimension, grids up to three. CUDA's threadIdx, blockIdx, blockDim and gridDim.
// - a * b + c is never contracted: multiply_add says where it should be, and is counted. So results
//   without library functions are the same bits on every device and on the emulator.
// - No sum may depend on the order of threads: no floating-point atomics; block_sum's order is fixed.
#pragma once

#include <cstddef>
#include <cstdint>

#if defined(__CUDACC__)

#define DEVICE static __device__ __forceinline__
#define KERNEL(name, Arguments, ...)                                                               \
    extern "C" __global__ void __launch_bounds__(__VA_ARGS__) name(const __grid_constant__ Arguments args)
#define ARGUMENTS(Type, ...)
#define UNROLL _Pragma("unroll")
#define ROLLED _Pragma("unroll 1")

template <typename T> using Buffer = T*;
template <typename T> using Global = T*;
template <typename T> using Shared = T*;

extern __shared__ __align__(16) unsigned char block_memory[];

// Hands out the block's dynamic shared memory; every piece starts at a multiple of 16 bytes.
class SharedMemory {
    unsigned char* next = block_memory;

public:
    template <typename T> __device__ __forceinline__ Shared<T> take(size_t count) {
        T* piece = reinterpret_cast<T*>(next);
        next += (count * sizeof(T) + 15) / 16 * 16;
        return piece;
    }
};

// Waits for all threads of the block, which must all come to the same barrier.
DEVICE void barrier() { __syncthreads(); }

// Four numbers that move at once; their address is a multiple of 16 bytes.
struct alignas(16) Float4 {
    float lane[4];
};

DEVICE Float4 read4(const float* from) { return *reinterpret_cast<const Float4*>(from); }
DEVICE void write4(float* to, const Float4& values) { *reinterpret_cast<Float4*>(to) = values; }

// The value of the lane whose number differs in the bits of `mask`; all lanes of the warp take part.
template <typename T> DEVICE T shuffle_xor(T value, unsigned mask) {
    return __shfl_xor_sync(0xffffffffu, value, mask);
}

// Each value's sum over the warp, the same in all lanes, which all take part. A tree: lanes that differ
// in the highest bit are added first.
template <typename T, int COUNT> DEVICE void warp_sum(T (&values)[COUNT]) {
    UNROLL
    for (int k = 0; k < COUNT; ++k) {
        UNROLL
        for (unsigned mask = 16; mask > 0; mask /= 2) {
            values[k] += shuffle_xor(values[k], mask);
        }
    }
}

// Adds to memory and returns what was there.
template <typename T> DEVICE T atomic_add(T* at, T value) { return atomicAdd(at, value); }

// The value, of which the compiler knows nothing: what depends on it is not computed before.
DEVICE uint32_t unknown(uint32_t value) {
    asm volatile("" : "+r"(value));
    return value;
}

// a * b + c, rounded once.
DEVICE float multiply_add(float a, float b, float c) { return __fmaf_rn(a, b, c); }
DEVICE double multiply_add(double a, double b, double c) { return __fma_rn(a, b, c); }

// The sine and cosine of an angle in turns.
DEVICE float sin_turns(float turns) { return sinpif(2.0f * turns); }
DEVICE float cos_turns(float turns) { return cospif(2.0f * turns); }

// Writes two neighbors at once; the first lies at a multiple of 8 bytes.
DEVICE void store_pair(Global<float> at, float first, float second) {
    *reinterpret_cast<float2*>(at) = make_float2(first, second);
}

// Eight numbers of bfloat16: what a row of a matrix is loaded by. Each word has two, the first in its low
// half.
struct alignas(16) BFloat16x8 {
    uint32_t words[4];
};

// Two numbers rounded to bfloat16, to nearest, ties to even; no number is 0x7fff.
DEVICE uint32_t to_bfloat16(float low, float high) {
    uint32_t pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}

// Copies from device memory to shared memory that go on beside the thread's work: commit() closes a group
// of them, and wait<N>() waits until at most the last N groups are still under way. Other threads see
// them after a barrier that follows the wait.
class AsyncCopies {
public:
    // Zeros where there is nothing to copy; `from` is then not read.
    __device__ __forceinline__ void copy(Shared<BFloat16x8> to, Global<const BFloat16x8> from, bool there) {
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(uint32_t(__cvta_generic_to_shared(to))),
                     "l"(__cvta_generic_to_global(from)), "r"(there ? 16 : 0)
                     : "memory");
    }
    __device__ __forceinline__ void commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
    template <int GROUPS> __device__ __forceinline__ void wait() {
        asm volatile("cp.async.wait_group %0;" ::"n"(GROUPS) : "memory");
    }
};

// Four matrices of 8 x 8 from shared memory: lane l gives row l % 8 of matrix l / 8, and gets of matrix m,
// in fragment[m], elements (l / 4, 2 * (l % 4)) and the next of the row. All lanes of the warp take part.
DEVICE void load_matrices(uint32_t (&fragment)[4], Shared<const BFloat16x8> row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(fragment[0]), "=r"(fragment[1]), "=r"(fragment[2]), "=r"(fragment[3])
                 : "r"(uint32_t(__cvta_generic_to_shared(row)))
                 : "memory");
}

// The same of the transposed matrices: elements (2 * (l % 4), l / 4) and the next of the column.
DEVICE void load_transposed(uint32_t (&fragment)[4], Shared<const BFloat16x8> row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(fragment[0]), "=r"(fragment[1]), "=r"(fragment[2]), "=r"(fragment[3])
                 : "r"(uint32_t(__cvta_generic_to_shared(row)))
                 : "memory");
}

// sum += a * b for matrices of 16 x 16 and 16 x 8. `a` has its quarters in the order top left, bottom left,
// top right, bottom right, as load_matrices gives them; b0 and b1 have the upper and lower half of b, as
// load_transposed gives them. Lane l holds of the sum elements (l / 4, 2 * (l % 4)) and the next of the row,
// then those eight rows below. The order of the additions is the device's own. All lanes take part.
DEVICE void multiply_matrices(float (&sum)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

#else

#include "emulator/device.h"

#endif

constexpr unsigned WARP = 32;

// Each value's sum over the block, the same in all threads, in a fixed order; the block is whole warps.
// `partial` has COUNT elements for each warp, and is free again when the function returns.
template <typename T, int COUNT> DEVICE void block_sum(T (&values)[COUNT], Shared<T> partial) {
    warp_sum(values);
    UNROLL
    for (int k = 0; k < COUNT; ++k) {
        if (threadIdx.x % WARP == 0) {
            partial[threadIdx.x / WARP * COUNT + k] = values[k];
        }
        values[k] = 0;
    }
    barrier();
    for (unsigned warp = 0; warp < blockDim.x / WARP; ++warp) {
        UNROLL
        for (int k = 0; k < COUNT; ++k) {
            values[k] += partial[warp * COUNT + k];
        }
    }
    barrier();
}

template <typename T> DEVICE T block_sum(T value, Shared<T> partial) {
    T values[1] = {value};
    block_sum(values, partial);
    return values[0];
}
