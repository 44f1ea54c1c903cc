// What the convolutions' kernels share: how a pixel of the output is gathered from pixels of the input, in a
// convolution's forward pass and in its gradient by the picture alike.
#pragma once

#include "product.cuh"

// A term of an output pixel's sum: a weight, and the input pixel it is multiplied with, relative to the
// pixel where the sum is anchored.
struct alignas(16) Tap {
    int32_t offset; // in elements, the channel's included
    int32_t row, column;
    int32_t unused;
};

// The output pixels that read the input by the same taps: those of every step-th row and column. A forward
// pass has one class; a gradient has as many as the convolution's strides have places to start.
struct TapClass {
    uint32_t rows, columns; // of its pixels
    uint32_t first_row, first_column;
    uint32_t first; // of its taps, in the table
    uint32_t terms; // its taps
};

// The shapes of both sides.
struct Gather {
    Buffer<const Tap> taps;
    Buffer<const TapClass> classes;
    uint32_t pictures;
    uint32_t groups;
    uint32_t inputs, outputs; // channels of a group
    uint32_t height, width;   // of the input
    uint32_t out_height, out_width;
    // Between the anchors of a class's neighboring pixels, and between the pixels themselves.
    uint32_t step_down, step_right;
    uint32_t out_step_down, out_step_right;
};

// A pixel of a class, and the input pixel where its sum is anchored.
struct Pixel {
    uint32_t picture;
    uint32_t at;     // in an output channel
    int row, column; // of the anchor
};

// Pixel n of a class, counted over all pictures.
DEVICE Pixel pixel_of(const Gather& gather, const TapClass& pixels, uint32_t n) {
    const uint32_t row = n / pixels.columns, i = row % pixels.rows, j = n % pixels.columns;
    const uint32_t out_row = pixels.first_row + i * gather.out_step_down;
    const uint32_t out_column = pixels.first_column + j * gather.out_step_right;
    return {row / pixels.rows, out_row * gather.out_width + out_column, int(i * gather.step_down),
            int(j * gather.step_right)};
}

// Of a class's pixels in all pictures.
DEVICE uint32_t count(const Gather& gather, const TapClass& pixels) {
    return gather.pictures * pixels.rows * pixels.columns;
}

// Where a channel of a group of a picture starts.
DEVICE size_t input_channel(const Gather& gather, uint32_t picture, uint32_t group, uint32_t channel) {
    const size_t plane = size_t(picture) * gather.groups * gather.inputs + group * gather.inputs + channel;
    return plane * (gather.height * gather.width);
}

DEVICE size_t output_channel(const Gather& gather, uint32_t picture, uint32_t group, uint32_t channel) {
    const size_t plane = size_t(picture) * gather.groups * gather.outputs + group * gather.outputs + channel;
    return plane * (gather.out_height * gather.out_width);
}

DEVICE bool is_inside(int at, uint32_t n) { return uint32_t(at) < n; }
