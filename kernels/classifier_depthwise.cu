// Depthwise convolutions of a classifier, and their gradients by the picture: every channel by itself. There
// is next to no arithmetic to them, so what counts is to read each number once.
#include "gather.cuh"

// The weights of each class and channel lie by tap.
struct DepthwiseArgs {
    Gather gather;
    Buffer<const float> x;
    Buffer<const float> weight;
    Buffer<float> y;
    Ending ending;
    // Of a window's first element, from an output pixel's anchor; where the kernel has one.
    int32_t top, left;
};
ARGUMENTS(DepthwiseArgs, gather, x, weight, y, ending, top, left)

// Output pixels that a thread computes, one below the other: neighboring threads read neighboring
// pixels, and a row that is read serves all pixels whose windows it is in.
constexpr uint32_t PIXELS = 4;

// Puts out those of the pixels that are among `rows`.
template <bool SIMPLE>
DEVICE void put(const DepthwiseArgs& args, uint32_t channel, size_t at, uint32_t rows, const float (&sums)[PIXELS]) {
    const Ending& ending = args.ending;
    const Global<float> y = args.y;
    const float bias = bias_at(ending, channel, true);
    float values[PIXELS];
    UNROLL
    for (uint32_t pixel = 0; pixel < PIXELS; ++pixel) {
        const float added = added_at(ending, at + pixel * args.gather.out_width, pixel < rows);
        values[pixel] = end<SIMPLE>(ending.function, sums[pixel] + bias + added);
    }
    UNROLL
    for (uint32_t pixel = 0; pixel < PIXELS; ++pixel) {
        if (pixel < rows) {
            y[at + pixel * args.gather.out_width] = values[pixel];
        }
    }
}

// Windows of SIZE x SIZE next to one another, STEP apart; one class.
template <int SIZE, int STEP> DEVICE void windows(const DepthwiseArgs& args) {
    const Gather& gather = args.gather;
    const uint32_t parts = (gather.out_height + PIXELS - 1) / PIXELS;
    const uint32_t n = blockIdx.x * blockDim.x + threadIdx.x, all_parts = n / gather.out_width;
    const uint32_t column = n % gather.out_width, part = all_parts % parts;
    const size_t plane = all_parts / parts;
    if (plane >= gather.pictures * gather.groups) {
        return;
    }
    const uint32_t channel = plane % gather.groups;
    const Global<const float> weights = args.weight + channel * size_t(SIZE * SIZE);
    float weight[SIZE * SIZE];
    UNROLL
    for (int tap = 0; tap < SIZE * SIZE; ++tap) {
        weight[tap] = weights[tap];
    }
    const int top = int(part * PIXELS) * STEP + args.top;
    const int left = int(column) * STEP + args.left;
    const Global<const float> x = args.x + plane * (gather.height * gather.width);
    float sums[PIXELS] = {};
    UNROLL
    for (int row = 0; row < int(PIXELS - 1) * STEP + SIZE; ++row) {
        float values[SIZE];
        const bool inside = is_inside(top + row, gather.height);
        UNROLL
        for (int k = 0; k < SIZE; ++k) {
            values[k] = 0.0f;
            if (inside && is_inside(left + k, gather.width)) {
                values[k] = x[ptrdiff_t(top + row) * gather.width + left + k];
            }
        }
        UNROLL
        for (int pixel = 0; pixel < int(PIXELS); ++pixel) {
            const int tap = row - pixel * STEP;
            if (0 <= tap && tap < SIZE) {
                UNROLL
                for (int k = 0; k < SIZE; ++k) {
                    sums[pixel] = multiply_add(weight[tap * SIZE + k], values[k], sums[pixel]);
                }
            }
        }
    }
    const uint32_t first = part * PIXELS;
    const size_t at = (plane * gather.out_height + first) * gather.out_width + column;
    if (is_simple(args.ending.function)) {
        put<true>(args, channel, at, gather.out_height - first, sums);
    } else {
        put<false>(args, channel, at, gather.out_height - first, sums);
    }
}

KERNEL(classifier_depthwise_3, DepthwiseArgs, 128) { windows<3, 1>(args); }
KERNEL(classifier_depthwise_3_step_2, DepthwiseArgs, 128) { windows<3, 2>(args); }
KERNEL(classifier_depthwise_5, DepthwiseArgs, 128) { windows<5, 1>(args); }
KERNEL(classifier_depthwise_5_step_2, DepthwiseArgs, 128) { windows<5, 2>(args); }

// Any window, by the table of taps; a thread to a pixel of a class in a channel.
KERNEL(classifier_depthwise, DepthwiseArgs, 128, 8) {
    const Gather& gather = args.gather;
    const TapClass pixels = gather.classes[blockIdx.z];
    const uint32_t n = blockIdx.x * blockDim.x + threadIdx.x, plane_pixels = pixels.rows * pixels.columns;
    const size_t plane = n / plane_pixels;
    if (plane >= gather.pictures * gather.groups) {
        return;
    }
    const uint32_t channel = plane % gather.groups;
    const Pixel pixel = pixel_of(gather, pixels, n % plane_pixels);
    const Global<const Tap> taps = gather.taps + pixels.first;
    const size_t first = size_t(pixels.first) * gather.groups + channel * size_t(pixels.terms);
    const Global<const float> weight = args.weight + first;
    const Global<const float> x = args.x + plane * (gather.height * gather.width);
    const Global<const float> anchor = x + (ptrdiff_t(pixel.row) * gather.width + pixel.column);
    float sum = 0.0f;
    for (uint32_t k = 0; k < pixels.terms; ++k) {
        const Tap tap = taps[k];
        if (is_inside(pixel.row + tap.row, gather.height) && is_inside(pixel.column + tap.column, gather.width)) {
            sum = multiply_add(weight[k], anchor[tap.offset], sum);
        }
    }
    const size_t at = plane * (gather.out_height * gather.out_width) + pixel.at;
    const Global<float> y = args.y;
    const float added = added_at(args.ending, at, true);
    y[at] = end<false>(args.ending.function, sum + bias_at(args.ending, channel, true) + added);
}
