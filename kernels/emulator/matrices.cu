// Matrix-multiply fragments, rounding to bfloat16 and asynchronous copies, for tests of the emulator alone:
// they are in no build for a GPU.
#include "../device.cuh"

struct MatricesArgs {
    Buffer<const float> a; // 16 x 16
    Buffer<const float> b; // 16 x 8
    Buffer<float> product; // 16 x 8, with what is added to
    uint32_t fault;
};
ARGUMENTS(MatricesArgs, a, b, product, fault)

// What multiply_product may do wrong.
enum Mistake : uint32_t { NONE, OUT_OF_BOUNDS, DIVERGENT };

// product += a * b: a by rows, b as it lies, transposed on the way out of shared memory.
KERNEL(multiply_product, MatricesArgs, 32) {
    SharedMemory memory;
    const Shared<BFloat16x8> a = memory.take<BFloat16x8>(32);
    const Shared<BFloat16x8> b = memory.take<BFloat16x8>(16);
    const Global<const float> from_a = args.a;
    const Global<const float> from_b = args.b;
    const Global<float> product = args.product;
    const unsigned lane = threadIdx.x;
    // Half a row of a, by its row and its half.
    BFloat16x8 values;
    for (unsigned i = 0; i < 4; ++i) {
        values.words[i] = to_bfloat16(from_a[lane * 8 + 2 * i], from_a[lane * 8 + 2 * i + 1]);
    }
    a[lane] = values;
    if (lane < 16) {
        for (unsigned i = 0; i < 4; ++i) {
            values.words[i] = to_bfloat16(from_b[lane * 8 + 2 * i], from_b[lane * 8 + 2 * i + 1]);
        }
        b[lane] = values;
    }
    barrier();
    uint32_t left[4], right[4];
    const unsigned beyond = args.fault == OUT_OF_BOUNDS;
    load_matrices(left, a + (lane % 16 * 2 + lane / 16 + beyond));
    load_transposed(right, b + lane % 16);
    float sum[4];
    for (unsigned i = 0; i < 4; ++i) {
        sum[i] = product[(lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2];
    }
    if (args.fault != DIVERGENT || lane != 31) {
        multiply_matrices(sum, left, right[0], right[1]);
    }
    for (unsigned i = 0; i < 4; ++i) {
        product[(lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2] = sum[i];
    }
}

struct RoundArgs {
    Buffer<const float> from;
    Buffer<uint32_t> to;
};
ARGUMENTS(RoundArgs, from, to)

// Pairs of numbers, rounded.
KERNEL(round_pairs, RoundArgs, 64) {
    const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    const Global<const float> from = args.from;
    const Global<uint32_t> to = args.to;
    to[i] = to_bfloat16(from[2 * i], from[2 * i + 1]);
}

struct CopiesArgs {
    Buffer<const BFloat16x8> from;
    Buffer<BFloat16x8> to;
    uint32_t count; // of `from`; zeros follow
    uint32_t fault;
};
ARGUMENTS(CopiesArgs, from, to, count, fault)

// Two groups of copies, of which the first is waited for, then both. Fault: the second is used too early.
KERNEL(copy_beside, CopiesArgs, 64) {
    SharedMemory memory;
    const Shared<BFloat16x8> row = memory.take<BFloat16x8>(2 * blockDim.x);
    const Global<const BFloat16x8> from = args.from;
    const Global<BFloat16x8> to = args.to;
    AsyncCopies copies;
    for (unsigned group = 0; group < 2; ++group) {
        const unsigned at = group * blockDim.x + threadIdx.x;
        copies.copy(row + at, from + at, at < args.count);
        copies.commit();
    }
    copies.wait<1>();
    barrier();
    const unsigned neighbor = (threadIdx.x + 1) % blockDim.x;
    to[threadIdx.x] = row[neighbor];
    if (!args.fault) {
        copies.wait<0>();
        barrier();
    }
    to[blockDim.x + threadIdx.x] = row[blockDim.x + neighbor];
}
