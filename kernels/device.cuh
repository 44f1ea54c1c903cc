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
// - UNROLL stands before a loop over an array that must stay in registers; ROLLED before one that has no
//   registers to spare.
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

// Four elements in one access; they begin at a multiple of 16 bytes.
struct Quad {
    float a, b, c, d;
};
DEVICE Quad read_quad(const float* at) {
    const float4 quad = *reinterpret_cast<const float4*>(at);
    return {quad.x, quad.y, quad.z, quad.w};
}

// a * b + c, rounded once.
DEVICE float multiply_add(float a, float b, float c) { return __fmaf_rn(a, b, c); }
DEVICE double multiply_add(double a, double b, double c) { return __fma_rn(a, b, c); }

// The sine and cosine of an angle in turns.
DEVICE float sin_turns(float turns) { return sinpif(2.0f * turns); }
DEVICE float cos_turns(float turns) { return cospif(2.0f * turns); }

#else

#include "emulator/device.h"

#endif

// Asynchronous copies and matrix-multiply fragments belong here, with both meanings, when a kernel
// first needs them.

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
