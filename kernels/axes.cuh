// Where elements lie: indices of several axes, and the divisions that take them apart.
#pragma once

#include "device.cuh"

// A number that indices below 2^31 are divided by: a product and a shift (Granlund and Montgomery 1994).
struct Divisor {
    uint32_t number, multiplier, shift;
};

DEVICE uint32_t divide(uint32_t index, const Divisor& by) {
    return uint32_t(uint64_t(index) * by.multiplier >> by.shift);
}

constexpr unsigned AXES = 12;

// Axes of elements, the first one outermost, and how far apart neighbors on each lie in another tensor:
// a distance modulo 2^32, so that it may point back. `count` is at least 1; the first axis has no end.
struct Axes {
    Divisor sizes[AXES];
    uint32_t strides[AXES];
    uint32_t count;
};

// Where element `index` lies in the other tensor.
DEVICE uint32_t place(const Axes& axes, uint32_t index) {
    uint32_t at = 0;
    for (uint32_t axis = axes.count - 1; axis > 0; --axis) {
        const uint32_t ahead = divide(index, axes.sizes[axis]);
        at += (index - ahead * axes.sizes[axis].number) * axes.strides[axis];
        index = ahead;
    }
    return at + index * axes.strides[0];
}
