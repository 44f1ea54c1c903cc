// Pools of any window: the maximum or the average of what lies in it, and their gradients, which every
// input cell gathers from the windows that it lies in.
#include "axes.cuh"

// One axis of a picture and of the windows on it.
struct PoolAxis {
    Divisor size, outputs;
    Divisor stride, dilation;
    uint32_t kernel;
    uint32_t before; // padding ahead of the picture
    uint32_t padded; // the picture with its padding on both sides
};

// What a window reads along an axis.
struct Span {
    uint32_t first;   // cell of the picture; none where there are no taps
    uint32_t taps;    // in the picture
    uint32_t counted; // in the padded picture
};

// How many taps of the window that starts at `start` lie before `end`.
DEVICE uint32_t taps_before(const PoolAxis& axis, uint32_t start, uint32_t end) {
    return start >= end ? 0 : min(axis.kernel, divide(end - start - 1, axis.dilation) + 1);
}

DEVICE Span span(const PoolAxis& axis, uint32_t output) {
    const uint32_t start = output * axis.stride.number;
    const uint32_t ahead = taps_before(axis, start, axis.before);
    const uint32_t taps = taps_before(axis, start, axis.before + axis.size.number) - ahead;
    const uint32_t first = start + ahead * axis.dilation.number - axis.before;
    return {first, taps, taps_before(axis, start, axis.padded)};
}

struct PoolArgs {
    Buffer<const float> x;        // planes x height x width; the maximum's
    Buffer<float> y;              // planes x output height x output width; likewise in the gradient
    Buffer<const float> gradient; // by y
    Buffer<float> to;             // the gradient by x
    PoolAxis down, across;
    uint32_t elements; // of what is written
    uint32_t maximum;
    uint32_t count_include_pad;
    uint32_t accumulate;
};
ARGUMENTS(PoolArgs, x, y, gradient, to, down, across, elements, maximum, count_include_pad, accumulate)

// What an average divides by.
DEVICE float cells(const PoolArgs& args, const Span& down, const Span& across) {
    const uint32_t count = args.count_include_pad ? down.counted * across.counted : down.taps * across.taps;
    return float(max(count, 1u));
}

// A cell of a picture, or of the output.
struct Cell {
    uint32_t plane, row, column;
};

DEVICE Cell cell(uint32_t index, const Divisor& height, const Divisor& width) {
    const uint32_t line = divide(index, width), plane = divide(line, height);
    return {plane, line - plane * height.number, index - line * width.number};
}

// A thread to an output.
KERNEL(classifier_pool, PoolArgs, 256, 4) {
    const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= args.elements) {
        return;
    }
    const Cell output = cell(i, args.down.outputs, args.across.outputs);
    const Span down = span(args.down, output.row), across = span(args.across, output.column);
    const uint32_t width = args.across.size.number;
    const Global<const float> x = args.x + output.plane * args.down.size.number * width;
    const Global<float> y = args.y;
    float joined = args.maximum ? -INFINITY : 0.0f;
    for (uint32_t ky = 0; ky < down.taps; ++ky) {
        const uint32_t row = down.first + ky * args.down.dilation.number;
        for (uint32_t kx = 0; kx < across.taps; ++kx) {
            const float value = x[row * width + across.first + kx * args.across.dilation.number];
            joined = args.maximum ? fmaxf(joined, value) : joined + value;
        }
    }
    y[i] = args.maximum ? joined : joined / cells(args, down, across);
}

// Windows of an axis: some of first to last, ends included, read a cell; there may be none.
struct Windows {
    uint32_t first, last;
};

DEVICE Windows windows(const PoolAxis& axis, uint32_t position) {
    const uint32_t at = position + axis.before, reach = (axis.kernel - 1) * axis.dilation.number;
    const uint32_t first = at <= reach ? 0 : divide(at - reach - 1, axis.stride) + 1;
    return {first, min(divide(at, axis.stride), axis.outputs.number - 1)};
}

// Whether a window that starts at or before a cell and reaches it has a tap there.
DEVICE bool has_tap(const PoolAxis& axis, uint32_t window, uint32_t position) {
    const uint32_t distance = position + axis.before - window * axis.stride.number;
    return divide(distance, axis.dilation) * axis.dilation.number == distance;
}

// Whether no tap of the window ahead of a cell holds the cell's value: ties go to the first.
DEVICE bool is_first(const PoolArgs& args, Global<const float> x, const Cell& at, const Span& down, const Span& across) {
    const uint32_t width = args.across.size.number;
    const uint32_t step_down = args.down.dilation.number, step_across = args.across.dilation.number;
    const float value = x[at.row * width + at.column];
    for (uint32_t row = down.first; row <= at.row; row += step_down) {
        const uint32_t end = row < at.row ? across.first + across.taps * step_across : at.column;
        for (uint32_t column = across.first; column < end; column += step_across) {
            if (x[row * width + column] == value) {
                return false;
            }
        }
    }
    return true;
}

// A thread to a cell of the picture.
KERNEL(classifier_pool_backward, PoolArgs, 256, 4) {
    const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= args.elements) {
        return;
    }
    const Cell at = cell(i, args.down.size, args.across.size);
    const Windows rows = windows(args.down, at.row), columns = windows(args.across, at.column);
    const uint32_t out_width = args.across.outputs.number;
    const uint32_t plane = at.plane * args.down.outputs.number * out_width;
    const Global<const float> gradient = args.gradient + plane;
    float sum = 0.0f;
    for (uint32_t row = rows.first; row <= rows.last; ++row) {
        if (!has_tap(args.down, row, at.row)) {
            continue;
        }
        const Span down = span(args.down, row);
        for (uint32_t column = columns.first; column <= columns.last; ++column) {
            if (!has_tap(args.across, column, at.column)) {
                continue;
            }
            const Span across = span(args.across, column);
            const uint32_t output = row * out_width + column;
            if (!args.maximum) {
                sum += gradient[output] / cells(args, down, across);
                continue;
            }
            const Global<const float> x = args.x + at.plane * args.down.size.number * args.across.size.number;
            const Global<const float> y = args.y + plane;
            const float value = x[at.row * args.across.size.number + at.column];
            if (y[output] == value && is_first(args, x, at, down, across)) {
                sum += gradient[output];
            }
        }
    }
    const Global<float> to = args.to;
    to[i] = args.accumulate ? to[i] + sum : sum;
}
