// Batch normalization with the statistics of one instance, and LeakyReLU (of slope 1 where there is
// none): Ioffe and Szegedy 2015.
//
// What normalization cancels, its derivative must cancel too: the gradient by the scale of a channel
// that is normalized once more is a millionth of its terms. So sums over a channel are taken in double
// precision, and so is what is computed once a channel.
#include "dip.cuh"

// What normalization knows of a channel.
struct Statistics {
    double residual;      // what the mean, rounded, lacks
    double precision; // 1 / (variance + epsilon)
    float mean;
    float scale; // sqrt(precision)
};
ARGUMENTS(Statistics, residual, precision, mean, scale)

// The derivative by x beside its part that is proportional to the one by y: a line in x - mean.
struct Line {
    float coefficient, coefficient_low, level;
};
ARGUMENTS(Line, coefficient, coefficient_low, level)

struct NormArgs {
    Buffer<const uint32_t> slots;
    Maps x;                        // channels x plane
    Buffer<Statistics> statistics; // slots x channels
    Maps weight, bias;
    Maps y;
    uint32_t channels, plane;
    float slope;
    double epsilon;
};
ARGUMENTS(NormArgs, slots, x, statistics, weight, bias, y, channels, plane, slope, epsilon)

// Channel blockIdx.x: the mean, then the mean square of the distance from it.
KERNEL(dip_norm_statistics, NormArgs, 256) {
    SharedMemory memory;
    const Shared<double> partial = memory.take<double>(2 * blockDim.x / WARP);
    const uint32_t slot = args.slots[blockIdx.y];
    const Global<const float> x = of_slot(args.x, slot) + blockIdx.x * args.plane;
    double sum = 0.0;
    for (uint32_t i = threadIdx.x; i < args.plane; i += blockDim.x) {
        sum += double(x[i]);
    }
    const float mean = float(block_sum(sum, partial) / args.plane);
    double sums[2] = {}; // of the distances, which is what the mean lacks, and of their squares
    for (uint32_t i = threadIdx.x; i < args.plane; i += blockDim.x) {
        // As the layer itself has it.
        const double distance = double(x[i] - mean);
        sums[0] += distance;
        sums[1] = multiply_add(distance, distance, sums[1]);
    }
    block_sum(sums, partial);
    if (threadIdx.x == 0) {
        const double residual = sums[0] / args.plane;
        const double variance = sums[1] / args.plane - residual * residual;
        const double precision = 1.0 / ((variance > 0.0 ? variance : 0.0) + args.epsilon);
        const Global<Statistics> statistics = args.statistics + slot * args.channels;
        statistics[blockIdx.x] = Statistics{residual, precision, mean, float(sqrt(precision))};
    }
}

// A channel's normalization.
struct Affine {
    float mean, factor, bias;
};

DEVICE Affine affine(const Statistics& statistics, const Maps& weight, const Maps& bias, uint32_t slot,
                     uint32_t channel) {
    const Global<const float> weights = of_slot(weight, slot), biases = of_slot(bias, slot);
    return {statistics.mean, weights[channel] * statistics.scale, biases[channel]};
}

// Subtracting first keeps a channel without variance at exactly the bias, on LeakyReLU's side of it.
DEVICE float normalize(const Affine& affine, float x) {
    return multiply_add(x - affine.mean, affine.factor, affine.bias);
}

// A thread to an element.
KERNEL(dip_norm_forward, NormArgs, 256) {
    const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= args.channels * args.plane) {
        return;
    }
    const uint32_t slot = args.slots[blockIdx.y], channel = i / args.plane;
    const Global<const float> x = of_slot(args.x, slot);
    const Global<const Statistics> statistics = args.statistics + slot * args.channels;
    const Global<float> y = of_slot(args.y, slot);
    const Affine norm = affine(statistics[channel], args.weight, args.bias, slot, channel);
    const float value = normalize(norm, x[i]);
    y[i] = value > 0.0f ? value : args.slope * value;
}

struct NormBackwardArgs {
    Buffer<const uint32_t> slots;
    Maps x; // as in the forward pass, and so what follows
    Buffer<const Statistics> statistics;
    Maps weight, bias;
    Maps dy; // the derivative by y; takes the one by x
    Maps dweight, dbias;
    Buffer<Line> lines; // slots x channels
    uint32_t channels, plane;
    float slope;
};
ARGUMENTS(NormBackwardArgs, slots, x, statistics, weight, bias, dy, dweight, dbias, lines, channels, plane, slope)

// The derivative by what LeakyReLU takes; the slope's at zero, as PyTorch's.
DEVICE float leaky_backward(float dy, float normalized, float slope) {
    return normalized > 0.0f ? dy : slope * dy;
}

// Channel blockIdx.x: the derivatives by weight and bias, and the line.
KERNEL(dip_norm_backward_parameters, NormBackwardArgs, 256) {
    SharedMemory memory;
    const Shared<double> partial = memory.take<double>(2 * blockDim.x / WARP);
    const uint32_t slot = args.slots[blockIdx.y], channel = blockIdx.x;
    const Global<const float> x = of_slot(args.x, slot) + channel * args.plane;
    const Global<const float> dy = of_slot(args.dy, slot) + channel * args.plane;
    const Global<const Statistics> all = args.statistics + slot * args.channels;
    const Statistics statistics = all[channel];
    const Affine norm = affine(statistics, args.weight, args.bias, slot, channel);
    double sums[2] = {}; // of the derivative, and of its product with the distance from the mean
    for (uint32_t i = threadIdx.x; i < args.plane; i += blockDim.x) {
        const float value = x[i];
        const double d = double(leaky_backward(dy[i], normalize(norm, value), args.slope));
        sums[0] += d;
        sums[1] = multiply_add(d, double(value - norm.mean), sums[1]);
    }
    block_sum(sums, partial);
    if (threadIdx.x == 0) {
        const double sum = sums[0], product = sums[1] - statistics.residual * sum;
        const Global<float> dweight = of_slot(args.dweight, slot);
        const Global<float> dbias = of_slot(args.dbias, slot);
        dweight[channel] = float(product * double(statistics.scale));
        dbias[channel] = float(sum);
        // factor * (dy - sum / plane - (distance - residual) * precision * product / plane)
        const double factor = double(norm.factor) / args.plane;
        const double coefficient = -factor * statistics.precision * product;
        const double level = -factor * sum - coefficient * statistics.residual;
        const Global<Line> lines = args.lines + slot * args.channels;
        lines[channel] = Line{float(coefficient), float(coefficient - double(float(coefficient))), float(level)};
    }
}

// A thread to an element.
KERNEL(dip_norm_backward, NormBackwardArgs, 256) {
    const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= args.channels * args.plane) {
        return;
    }
    const uint32_t slot = args.slots[blockIdx.y], channel = i / args.plane;
    const Global<const float> x = of_slot(args.x, slot);
    const Global<float> dy = of_slot(args.dy, slot);
    const Global<const Statistics> statistics = args.statistics + slot * args.channels;
    const Global<Line> lines = args.lines + slot * args.channels;
    const Affine norm = affine(statistics[channel], args.weight, args.bias, slot, channel);
    const Line line = lines[channel];
    const float value = x[i], distance = value - norm.mean;
    const float d = leaky_backward(dy[i], normalize(norm, value), args.slope);
    const float low = multiply_add(distance, line.coefficient_low, line.level);
    const float around = multiply_add(distance, line.coefficient, low);
    dy[i] = multiply_add(d, norm.factor, around);
}
