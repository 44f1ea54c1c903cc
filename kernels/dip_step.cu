// What an iteration of a DIP network has beside its layers: noise on the input, the loss, the outputs'
// average, Adam, and the count of iterations. The count is kept here, so that every iteration's launches
// are the same.
#include "dip_step.cuh"

struct JitterArgs {
    Buffer<const uint32_t> slots;
    Buffer<const uint32_t> iterations; // that each slot has done
    Buffer<const uint32_t> keys;       // three words a slot: Philox's key, and the tile
    Maps z, out;
    uint32_t elements;
    float sigma;
};
ARGUMENTS(JitterArgs, slots, iterations, keys, z, out, elements, sigma)

// A thread to four elements: z + sigma * N(0, 1).
KERNEL(dip_jitter, JitterArgs, 256) {
    const uint32_t block = blockIdx.x * blockDim.x + threadIdx.x;
    if (4 * block >= args.elements) {
        return;
    }
    const uint32_t slot = args.slots[blockIdx.y];
    const Global<const uint32_t> keys = args.keys + 3 * slot;
    const Global<const uint32_t> iterations = args.iterations;
    const Global<const float> z = of_slot(args.z, slot);
    const Global<float> out = of_slot(args.out, slot);
    float normals[4];
    jitter_normals(keys, iterations[slot], block, normals);
    UNROLL
    for (uint32_t k = 0; k < 4; ++k) {
        const uint32_t i = 4 * block + k;
        if (i < args.elements) {
            out[i] = multiply_add(args.sigma, normals[k], z[i]);
        }
    }
}

struct LossArgs {
    Buffer<const uint32_t> slots;
    Buffer<const uint32_t> iterations;
    Maps x;       // the network's output; takes the loss's derivative
    Maps target;
    Maps picture; // takes sigmoid(x), or the average of those
    Maps errors;  // takes the squared errors, a sum for each block
    uint32_t elements;
    float keep; // how much of the average so far stays; 0 for no average
};
ARGUMENTS(LossArgs, slots, iterations, x, target, picture, errors, elements, keep)

// A thread to an element.
KERNEL(dip_loss, LossArgs, 256) {
    SharedMemory memory;
    const Shared<float> partial = memory.take<float>(blockDim.x / WARP);
    const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
    const uint32_t slot = args.slots[blockIdx.y];
    float square = 0.0f;
    if (i < args.elements) {
        const Global<float> x = of_slot(args.x, slot);
        const Global<const float> target = of_slot(args.target, slot);
        const Global<float> picture = of_slot(args.picture, slot);
        const Global<const uint32_t> iterations = args.iterations;
        const Loss loss = loss_at(x[i], target[i], args.elements);
        square = loss.error * loss.error;
        x[i] = loss.derivative;
        average(picture, i, loss.pixel, args.keep, iterations[slot] == 0);
    }
    const float sum = block_sum(square, partial);
    if (threadIdx.x == 0) {
        const Global<float> errors = of_slot(args.errors, slot);
        errors[blockIdx.x] = sum;
    }
}

struct AdamArgs {
    Buffer<const uint32_t> slots;
    Buffer<const uint32_t> iterations;
    Maps values, gradients;
    Maps first, second; // moments
    uint32_t count;
    AdamRates rates;
};
ARGUMENTS(AdamRates, learning_rate, epsilon, beta2, log_beta1, log_beta2, one_less_beta1, one_less_beta2)
ARGUMENTS(AdamArgs, slots, iterations, values, gradients, first, second, count, rates)

// A thread to a number.
KERNEL(dip_adam, AdamArgs, 256) {
    const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= args.count) {
        return;
    }
    const uint32_t slot = args.slots[blockIdx.y];
    const Global<const uint32_t> iterations = args.iterations;
    const Global<const float> gradients = of_slot(args.gradients, slot);
    const Global<float> values = of_slot(args.values, slot);
    const Global<float> first = of_slot(args.first, slot);
    const Global<float> second = of_slot(args.second, slot);
    const Adam adam = adam_of(args.rates, iterations[slot]);
    float m = first[i], v = second[i];
    const float step = adam_step(args.rates, adam, gradients[i], m, v);
    first[i] = m;
    second[i] = v;
    values[i] = values[i] - step;
}

struct IterationsArgs {
    Buffer<const uint32_t> slots;
    Buffer<uint32_t> iterations;
    uint32_t count; // of instances in use
};
ARGUMENTS(IterationsArgs, slots, iterations, count)

// A thread to an instance: one more iteration is done.
KERNEL(dip_iterations, IterationsArgs, 256) {
    const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < args.count) {
        const Global<uint32_t> iterations = args.iterations;
        iterations[args.slots[i]] += 1;
    }
}
