// Batch normalisation with the statistics of one instance, and LeakyReLU (of slope 1 where there is
// none): Ioffe and Szegedy 2015.
#include "dip.cuh"

struct NormArgs {
    Buffer<const uint32_t> slots;
    Maps x;          // channels x plane
    Maps statistics; // channels x (mean, 1 / sqrt(variance + epsilon))
    Maps weight, bias;
    Maps y;
    uint32_t channels, plane;
    float slope, epsilon;
};
ARGUMENTS(NormArgs, slots, x, statistics, weight, bias, y, channels, plane, slope, epsilon)

// Channel blockIdx.x: the mean, then the mean square of the difference from it.
KERNEL(dip_norm_statistics, NormArgs, 256) {
    SharedMemory memory;
    const Shared<float> partial = memory.take<float>(blockDim.x / WARP);
    const uint32_t slot = args.slots[blockIdx.y];
    const Global<const float> x = of_slot(args.x, slot) + blockIdx.x * args.plane;
    const Global<float> statistics = of_slot(args.statistics, slot) + 2 * blockIdx.x;
    float sum = 0.0f;
    for (uint32_t i = threadIdx.x; i < args.plane; i += blockDim.x) {
        sum += x[i];
    }
    const float mean = block_sum(sum, partial) / float(args.plane);
    float squares = 0.0f;
    for (uint32_t i = threadIdx.x; i < args.plane; i += blockDim.x) {
        const float difference = x[i] - mean;
        squares = multiply_add(difference, difference, squares);
    }
    const float variance = block_sum(squares, partial) / float(args.plane);
    if (threadIdx.x == 0) {
        statistics[0] = mean;
        statistics[1] = 1.0f / sqrtf(variance + args.epsilon);
    }
}

// A thread to an element.
KERNEL(dip_norm_forward, NormArgs, 256) {
    const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= args.channels * args.plane) {
        return;
    }
    const uint32_t slot = args.slots[blockIdx.y], channel = i / args.plane;
    const Global<const float> x = of_slot(args.x, slot);
    const Global<const float> statistics = of_slot(args.statistics, slot) + 2 * channel;
    const Global<const float> weight = of_slot(args.weight, slot);
    const Global<const float> bias = of_slot(args.bias, slot);
    const Global<float> y = of_slot(args.y, slot);
    const float normal = (x[i] - statistics[0]) * statistics[1];
    y[i] = leaky(multiply_add(normal, weight[channel], bias[channel]), args.slope);
}

struct NormBackwardArgs {
    Buffer<const uint32_t> slots;
    Maps x, statistics, weight, bias; // as in the forward pass
    Maps dy;                          // the derivative by y; takes the one by x
    Maps dweight, dbias;
    uint32_t channels, plane;
    float slope;
};
ARGUMENTS(NormBackwardArgs, slots, x, statistics, weight, bias, dy, dweight, dbias, channels, plane, slope)

// The derivative by what LeakyReLU takes, which is on `normal`'s side of zero; the slope's at zero.
DEVICE float leaky_backward(float dy, float normal, float weight, float bias, float slope) {
    return multiply_add(normal, weight, bias) > 0.0f ? dy : slope * dy;
}

// Channel blockIdx.x: the derivatives by weight and bias.
KERNEL(dip_norm_backward_parameters, NormBackwardArgs, 256) {
    SharedMemory memory;
    const Shared<float> partial = memory.take<float>(blockDim.x / WARP);
    const uint32_t slot = args.slots[blockIdx.y], channel = blockIdx.x;
    const Global<const float> x = of_slot(args.x, slot) + channel * args.plane;
    const Global<const float> dy = of_slot(args.dy, slot) + channel * args.plane;
    const Global<const float> statistics = of_slot(args.statistics, slot) + 2 * channel;
    const Global<const float> weights = of_slot(args.weight, slot);
    const Global<const float> biases = of_slot(args.bias, slot);
    const float mean = statistics[0], scale = statistics[1];
    const float weight = weights[channel], bias = biases[channel];
    float product = 0.0f, sum = 0.0f;
    for (uint32_t i = threadIdx.x; i < args.plane; i += blockDim.x) {
        const float normal = (x[i] - mean) * scale;
        const float d = leaky_backward(dy[i], normal, weight, bias, args.slope);
        product = multiply_add(d, normal, product);
        sum += d;
    }
    product = block_sum(product, partial);
    sum = block_sum(sum, partial);
    if (threadIdx.x == 0) {
        const Global<float> dweight = of_slot(args.dweight, slot);
        const Global<float> dbias = of_slot(args.dbias, slot);
        dweight[channel] = product;
        dbias[channel] = sum;
    }
}

// A thread to an element; after the derivatives by weight and bias, whose sums are part of this one.
KERNEL(dip_norm_backward, NormBackwardArgs, 256) {
    const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= args.channels * args.plane) {
        return;
    }
    const uint32_t slot = args.slots[blockIdx.y], channel = i / args.plane;
    const Global<const float> x = of_slot(args.x, slot);
    const Global<const float> statistics = of_slot(args.statistics, slot) + 2 * channel;
    const Global<const float> weights = of_slot(args.weight, slot);
    const Global<const float> biases = of_slot(args.bias, slot);
    const Global<const float> dweight = of_slot(args.dweight, slot);
    const Global<const float> dbias = of_slot(args.dbias, slot);
    const Global<float> dy = of_slot(args.dy, slot);
    const float scale = statistics[1], weight = weights[channel];
    const float normal = (x[i] - statistics[0]) * scale;
    const float d = leaky_backward(dy[i], normal, weight, biases[channel], args.slope);
    const float means = multiply_add(normal, dweight[channel], dbias[channel]) / float(args.plane);
    dy[i] = weight * scale * (d - means);
}
