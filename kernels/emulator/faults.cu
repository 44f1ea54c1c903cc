// Small kernels with one fault each that the emulator must report, and what each is without the fault.
// `args.fault` switches it on. For tests of the emulator alone: they are in no build for a GPU.
#include "../device.cuh"

struct FaultArgs {
    Buffer<const float> input;
    Buffer<float> out;
    uint32_t count;
    uint32_t fault;
};
ARGUMENTS(FaultArgs, input, out, count, fault)

// Every thread writes its neighbor's number. Fault: nothing waits for the neighbor to have written.
KERNEL(missing_barrier, FaultArgs, 64) {
    SharedMemory memory;
    const Shared<float> row = memory.take<float>(blockDim.x);
    const Global<const float> input = args.input;
    const Global<float> out = args.out;
    row[threadIdx.x] = 0.0f;
    barrier();
    row[threadIdx.x] = input[threadIdx.x];
    if (!args.fault) {
        barrier();
    }
    out[threadIdx.x] = row[(threadIdx.x + 1) % blockDim.x];
}

// Fault: the last thread reads past the end.
KERNEL(out_of_bounds_read, FaultArgs, 64) {
    const Global<const float> input = args.input;
    const Global<float> out = args.out;
    out[threadIdx.x] = input[threadIdx.x + args.fault];
}

// Fault: the last thread writes past the end of the piece of shared memory, into the next.
KERNEL(out_of_bounds_shared, FaultArgs, 64) {
    SharedMemory memory;
    const Shared<float> row = memory.take<float>(blockDim.x);
    const Shared<float> next = memory.take<float>(blockDim.x);
    next[threadIdx.x] = 1.0f;
    row[threadIdx.x + args.fault] = 2.0f;
    const Global<float> out = args.out;
    out[threadIdx.x] = next[threadIdx.x];
}

// Fault: the last thread's element was never written.
KERNEL(uninitialized_shared, FaultArgs, 64) {
    SharedMemory memory;
    const Shared<float> row = memory.take<float>(blockDim.x);
    if (threadIdx.x + args.fault < blockDim.x) {
        row[threadIdx.x] = 1.0f;
    }
    const Global<float> out = args.out;
    out[threadIdx.x] = row[threadIdx.x];
}

// Fault: half the block passes the barrier by.
KERNEL(divergent_barrier, FaultArgs, 64) {
    const Global<float> out = args.out;
    if (!args.fault || threadIdx.x < blockDim.x / 2) {
        barrier();
    }
    out[threadIdx.x] = 1.0f;
}

// Fault: odd lanes do not shuffle.
KERNEL(divergent_shuffle, FaultArgs, 64) {
    const Global<float> out = args.out;
    float value = float(threadIdx.x);
    if (!args.fault || threadIdx.x % 2 == 0) {
        value = shuffle_xor(value, 1);
    }
    out[threadIdx.x] = value;
}

// Fault: blocks race for one element.
KERNEL(racing_blocks, FaultArgs, 64) {
    const Global<float> out = args.out;
    if (threadIdx.x == 0) {
        out[args.fault ? 0 : blockIdx.x] = float(blockIdx.x);
    }
}

struct CountArgs {
    Buffer<uint32_t> counts;
};
ARGUMENTS(CountArgs, counts)

// counts[0] counts all threads, counts[1] sums them block by block over shared memory.
KERNEL(count_threads, CountArgs, 64) {
    SharedMemory memory;
    const Shared<uint32_t> count = memory.take<uint32_t>(1);
    const Global<uint32_t> counts = args.counts;
    if (threadIdx.x == 0) {
        count[0] = 0;
    }
    barrier();
    atomic_add(count, 1u);
    atomic_add(counts, 1u);
    barrier();
    if (threadIdx.x == 0) {
        atomic_add(counts + 1, uint32_t(count[0]));
    }
}

struct MultiplyArgs {
    Buffer<const float> a;
    Buffer<const float> b;
    Buffer<float> out;
    uint32_t n;
};
ARGUMENTS(MultiplyArgs, a, b, out, n)

// The product of two n x n matrices, one element a thread: what the emulator's speed is measured with.
KERNEL(multiply_matrices, MultiplyArgs, 256) {
    const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= args.n * args.n) {
        return;
    }
    const Global<const float> row = args.a + i / args.n * args.n;
    const Global<const float> column = args.b + i % args.n;
    float sum = 0.0f;
    for (uint32_t k = 0; k < args.n; ++k) {
        sum = multiply_add(row[k], column[k * args.n], sum);
    }
    const Global<float> out = args.out;
    out[i] = sum;
}
