// Upsampling by 2, nearest or bilinear (PyTorch's align_corners=False), and its derivative.
#include "dip.cuh"

struct UpsampleArgs {
    Buffer<const uint32_t> slots;
    Maps x; // channels x height x width
    Maps y; // channels x 2 height x 2 width
    uint32_t channels, height, width;
    uint32_t bilinear;
};
ARGUMENTS(UpsampleArgs, slots, x, y, channels, height, width, bilinear)

// The other source coordinate of a bilinearly upsampled one, besides at / 2, on an axis of n; it has a
// quarter of the weight.
DEVICE uint32_t far_source(uint32_t at, uint32_t n) {
    const uint32_t near = at / 2;
    return at % 2 == 0 ? max(near, 1u) - 1 : min(near + 1, n - 1);
}

// A thread to an element of y.
KERNEL(dip_upsample_forward, UpsampleArgs, 256) {
    const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= 4 * args.channels * args.height * args.width) {
        return;
    }
    const uint32_t slot = args.slots[blockIdx.y];
    const Global<const float> maps = of_slot(args.x, slot);
    const Global<float> y = of_slot(args.y, slot);
    const uint32_t column = i % (2 * args.width);
    const uint32_t row = i / (2 * args.width) % (2 * args.height);
    const uint32_t channel = i / (2 * args.width) / (2 * args.height);
    const Global<const float> x = maps + channel * args.height * args.width;
    const Global<const float> near = x + row / 2 * args.width;
    float value = near[column / 2];
    if (args.bilinear) {
        const Global<const float> far = x + far_source(row, args.height) * args.width;
        const uint32_t beside = far_source(column, args.width);
        const float upper = multiply_add(0.75f, value, 0.25f * near[beside]);
        const float lower = multiply_add(0.75f, far[column / 2], 0.25f * far[beside]);
        value = multiply_add(0.75f, upper, 0.25f * lower);
    }
    y[i] = value;
}

// The weight of source coordinate `from` in upsampled coordinate `at` on an axis of n.
DEVICE float weight_in(uint32_t from, uint32_t at, uint32_t n, bool bilinear) {
    const float near = at / 2 == from ? 1.0f : 0.0f;
    if (!bilinear) {
        return near;
    }
    return 0.75f * near + (far_source(at, n) == from ? 0.25f : 0.0f);
}

// A thread to an element of x; y is the derivative by y, x takes the one by x.
KERNEL(dip_upsample_backward, UpsampleArgs, 256) {
    const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= args.channels * args.height * args.width) {
        return;
    }
    const uint32_t slot = args.slots[blockIdx.y];
    const Global<const float> maps = of_slot(args.y, slot);
    const Global<float> dx = of_slot(args.x, slot);
    const uint32_t column = i % args.width, row = i / args.width % args.height;
    const uint32_t channel = i / args.width / args.height;
    const Global<const float> dy = maps + 4 * channel * args.height * args.width;
    // Bilinear weights reach one pixel beyond the two that lie in this one.
    const uint32_t reach = args.bilinear ? 1 : 0;
    float sum = 0.0f;
    for (uint32_t y = max(2 * row, reach) - reach; y < min(2 * row + 2 + reach, 2 * args.height); ++y) {
        const float down = weight_in(row, y, args.height, args.bilinear);
        for (uint32_t x = max(2 * column, reach) - reach; x < min(2 * column + 2 + reach, 2 * args.width); ++x) {
            const float weight = down * weight_in(column, x, args.width, args.bilinear);
            sum = multiply_add(weight, dy[y * 2 * args.width + x], sum);
        }
    }
    dx[i] = sum;
}
