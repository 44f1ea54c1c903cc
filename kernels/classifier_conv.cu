// Convolutions of a classifier, and their gradients by the picture, as matrix products: output channels by
// pixels of all pictures, summed over a group's input channels and the kernel's elements. The right operand
// is never in memory as a matrix; a tile gathers what it needs of it.
#include "gather.cuh"

ARGUMENTS(Ending, bias, added, has_bias, has_added, function)
ARGUMENTS(Tap, offset, row, column, unused)
ARGUMENTS(TapClass, rows, columns, first_row, first_column, first, terms)
ARGUMENTS(Gather, taps, classes, pictures, groups, inputs, outputs, height, width, out_height, out_width, step_down,
          step_right, out_step_down, out_step_right)

// A class's terms are padded to whole slices: taps that read no pixel, and weights of zero.
struct ClassifierConvArgs {
    Gather gather;
    Buffer<const float> x;
    Buffer<const float> weight; // of each class and group: padded terms x row
    Buffer<float> y;
    Ending ending;
    uint32_t row; // a group's outputs, padded to a multiple of 4
};
ARGUMENTS(ClassifierConvArgs, gather, x, weight, y, ending, row)

// The weights: rows are output channels.
template <class T> struct Weights {
    // Elements at a time, and the terms between those of a thread.
    static constexpr uint32_t QUADS = T::ROWS / 4, STEP = T::THREADS / QUADS, HELD = SLICE / STEP;
    Global<const float> next; // of the thread's quad of the first term
    uint32_t row;
    bool inside;
    Float4 held[HELD];
};

template <class T> DEVICE void load(Weights<T>& weights) {
    UNROLL
    for (uint32_t i = 0; i < Weights<T>::HELD; ++i) {
        weights.held[i] = {};
        if (weights.inside) {
            weights.held[i] = read4(weights.next + i * Weights<T>::STEP * weights.row);
        }
    }
    weights.next = weights.next + SLICE * weights.row;
}

template <class T> DEVICE void store(const Weights<T>& weights, Shared<float> to) {
    const uint32_t k = threadIdx.x / Weights<T>::QUADS, i = threadIdx.x % Weights<T>::QUADS * 4;
    UNROLL
    for (uint32_t h = 0; h < Weights<T>::HELD; ++h) {
        write4(to + ((k + h * Weights<T>::STEP) * T::LEFT + i), weights.held[h]);
    }
}

// What the pixels read: columns are pixels, a thread has one.
template <class T> struct Pixels {
    static constexpr uint32_t STEP = T::THREADS / T::COLUMNS, HELD = SLICE / STEP;
    float held[HELD];
};

template <class T> DEVICE void store(const Pixels<T>& pixels, Shared<float> to) {
    const uint32_t k = threadIdx.x / T::COLUMNS;
    UNROLL
    for (uint32_t h = 0; h < Pixels<T>::HELD; ++h) {
        to[(k + h * Pixels<T>::STEP) * T::RIGHT + column_of<T>()] = pixels.held[h];
    }
}

// Of a convolution of one kernel element, stride 1 and no padding: every pixel reads itself.
template <class T> struct Pointwise : Pixels<T> {
    Global<const float> next; // the pixel in the channel of the thread's first term
    size_t plane;
    uint32_t left; // terms from that one on; none of a column that is no pixel
};

template <class T> DEVICE void load(Pointwise<T>& pixels) {
    UNROLL
    for (uint32_t h = 0; h < Pixels<T>::HELD; ++h) {
        pixels.held[h] = 0.0f;
        if (h * Pixels<T>::STEP < pixels.left) {
            pixels.held[h] = pixels.next[h * Pixels<T>::STEP * pixels.plane];
        }
    }
    pixels.next = pixels.next + SLICE * pixels.plane;
    pixels.left -= min(pixels.left, SLICE);
}

// Of any convolution, by the table of taps.
template <class T> struct Gathered : Pixels<T> {
    Global<const Tap> next; // the thread's first one
    Global<const float> anchor;
    int row, column; // of the anchor
    uint32_t height, width;
};

template <class T> DEVICE void load(Gathered<T>& pixels) {
    UNROLL
    for (uint32_t h = 0; h < Pixels<T>::HELD; ++h) {
        const Tap tap = pixels.next[h * Pixels<T>::STEP];
        pixels.held[h] = 0.0f;
        if (is_inside(pixels.row + tap.row, pixels.height) && is_inside(pixels.column + tap.column, pixels.width)) {
            pixels.held[h] = pixels.anchor[tap.offset];
        }
    }
    pixels.next = pixels.next + SLICE;
}

// What a block computes: a tile of a class's pixels in a group of channels. Tiles of the same pixels follow
// one another, for they read the same.
struct Work {
    TapClass pixels;
    uint32_t group;
    uint32_t first_row, first_column;
    // The thread's column: a pixel, if it is one.
    uint32_t n;
    bool any;
};

template <class T> DEVICE Work work_of(const Gather& gather) {
    const TapClass pixels = gather.classes[blockIdx.z];
    const uint32_t down = (gather.outputs + T::ROWS - 1) / T::ROWS;
    const uint32_t first_column = blockIdx.x / down * T::COLUMNS, n = first_column + column_of<T>();
    return {pixels, blockIdx.y, blockIdx.x % down * T::ROWS, first_column, n, n < count(gather, pixels)};
}

template <class T, class Input> DEVICE void conv(const ClassifierConvArgs& args, const Work& work, Input& input) {
    const Gather& gather = args.gather;
    SharedMemory shared;
    const Shared<float> memory = shared.take<float>(T::MEMORY);
    const uint32_t slices = (work.pixels.terms + SLICE - 1) / SLICE;
    const size_t first = size_t(work.pixels.first) * gather.groups + size_t(work.group) * slices * SLICE;
    const size_t term = first + threadIdx.x / Weights<T>::QUADS;
    const uint32_t row = work.first_row + threadIdx.x % Weights<T>::QUADS * 4;
    Weights<T> weights = {args.weight + (term * args.row + row), args.row, row < args.row, {}};

    float sums[T::HEIGHT][T::WIDTH] = {};
    add_product<T>(weights, input, slices, memory, place<T>(), sums);

    // Not kept in registers meanwhile.
    const Work out = work_of<T>(gather);
    const Pixel pixel = pixel_of(gather, out.pixels, out.n);
    const size_t start = output_channel(gather, pixel.picture, out.group, out.first_row) + pixel.at;
    const uint32_t plane = gather.out_height * gather.out_width, rows = out.any ? gather.outputs - out.first_row : 0;
    const uint32_t bias = out.group * gather.outputs + out.first_row;
    put_sums<T>(Out{args.ending, args.y, start, plane, rows, bias, 1}, memory, place<T>(), sums);
}

template <class T> DEVICE void pointwise(const ClassifierConvArgs& args) {
    const Gather& gather = args.gather;
    const Work work = work_of<T>(gather);
    const uint32_t plane = gather.height * gather.width, k = threadIdx.x / T::COLUMNS;
    const size_t at = input_channel(gather, work.n / plane, work.group, k) + work.n % plane;
    const bool any = work.any && k < work.pixels.terms;
    Pointwise<T> input = {{}, args.x + at, plane, any ? work.pixels.terms - k : 0};
    conv<T>(args, work, input);
}

template <class T> DEVICE void gathered(const ClassifierConvArgs& args) {
    // An anchor so far out that no tap reaches the picture.
    constexpr int NOWHERE = -(1 << 30);
    const Gather& gather = args.gather;
    const Work work = work_of<T>(gather);
    if (work.first_column >= count(gather, work.pixels)) {
        return;
    }
    const Pixel pixel = pixel_of(gather, work.pixels, work.n);
    const size_t channel = input_channel(gather, pixel.picture, work.group, 0);
    const ptrdiff_t anchor = ptrdiff_t(pixel.row) * gather.width + pixel.column;
    Gathered<T> input = {{},
                         gather.taps + (work.pixels.first + threadIdx.x / T::COLUMNS),
                         args.x + channel + anchor,
                         work.any ? pixel.row : NOWHERE,
                         pixel.column,
                         gather.height,
                         gather.width};
    conv<T>(args, work, input);
}

KERNEL(classifier_pointwise_large, ClassifierConvArgs, 128, 3) { pointwise<Large>(args); }
KERNEL(classifier_pointwise_flat, ClassifierConvArgs, 128, 4) { pointwise<Flat>(args); }
KERNEL(classifier_pointwise_small, ClassifierConvArgs, 64, 8) { pointwise<Small>(args); }
KERNEL(classifier_conv_large, ClassifierConvArgs, 128, 3) { gathered<Large>(args); }
KERNEL(classifier_conv_flat, ClassifierConvArgs, 128, 4) { gathered<Flat>(args); }
KERNEL(classifier_conv_small, ClassifierConvArgs, 64, 8) { gathered<Small>(args); }

struct ResidualArgs {
    Buffer<const float> dy;
    Buffer<float> to;
    uint64_t elements;
    uint32_t accumulate;
};
ARGUMENTS(ResidualArgs, dy, to, elements, accumulate)

// The gradient by what an operation adds to its sums is its output's. A thread to an element.
KERNEL(classifier_residual_backward, ResidualArgs, 256) {
    const uint64_t at = uint64_t(blockIdx.x) * blockDim.x + threadIdx.x;
    if (at >= args.elements) {
        return;
    }
    const Global<float> to = args.to;
    const float gradient = args.dy[at];
    to[at] = args.accumulate ? to[at] + gradient : gradient;
}
