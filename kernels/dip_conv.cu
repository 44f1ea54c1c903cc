// Convolutions of DIP networks and their derivatives, each instance with its own weights: kernels of
// 1x1 and 3x3, strides 1 and 2, zero and reflection padding of half the kernel.
#include "dip.cuh"

ARGUMENTS(Maps, data, stride)

struct ConvArgs {
    Buffer<const uint32_t> slots;
    Maps x;      // inputs x height x width
    Maps y;      // outputs x out_height x out_width
    Maps weight; // outputs x inputs x kernel x kernel
    Maps bias;   // outputs
    uint32_t inputs, outputs;
    uint32_t height, width;
    uint32_t out_height, out_width;
    uint32_t stride;
    uint32_t reflect;    // whether the padding is a reflection
    uint32_t accumulate; // whether the derivative by x is added to what is there
};
ARGUMENTS(ConvArgs, slots, x, y, weight, bias, inputs, outputs, height, width, out_height, out_width, stride, reflect,
          accumulate)

// Channels that a thread computes of its pixel, so that what it reads is used so many times.
constexpr uint32_t CHANNELS = 4;

// What a thread computes: a pixel, which may be beyond the last one, and the first of its channels.
struct Share {
    uint32_t pixel, first;
};

DEVICE Share share_of(uint32_t pixels) {
    const uint32_t blocks = (pixels + blockDim.x - 1) / blockDim.x;
    return {blockIdx.x % blocks * blockDim.x + threadIdx.x, blockIdx.x / blocks * CHANNELS};
}

template <int KERNEL_SIZE> DEVICE void forward(const ConvArgs& args) {
    const uint32_t pixels = args.out_height * args.out_width;
    const auto [pixel, first] = share_of(pixels);
    if (pixel >= pixels) {
        return;
    }
    const uint32_t slot = args.slots[blockIdx.y];
    const Global<const float> x = of_slot(args.x, slot);
    const Global<const float> weight = of_slot(args.weight, slot);
    const Global<const float> bias = of_slot(args.bias, slot);
    const Global<float> y = of_slot(args.y, slot);
    const int top = int(pixel / args.out_width * args.stride) - KERNEL_SIZE / 2;
    const int left = int(pixel % args.out_width * args.stride) - KERNEL_SIZE / 2;
    float sums[CHANNELS] = {};
    for (uint32_t i = 0; i < args.inputs; ++i) {
        UNROLL
        for (int ky = 0; ky < KERNEL_SIZE; ++ky) {
            const int row = source(top + ky, args.height, args.reflect);
            UNROLL
            for (int kx = 0; kx < KERNEL_SIZE; ++kx) {
                const int column = source(left + kx, args.width, args.reflect);
                if (row < 0 || column < 0) {
                    continue;
                }
                const float value = x[(i * args.height + row) * args.width + column];
                UNROLL
                for (uint32_t c = 0; c < CHANNELS; ++c) {
                    if (first + c < args.outputs) {
                        const uint32_t at = ((first + c) * args.inputs + i) * KERNEL_SIZE + ky;
                        sums[c] = multiply_add(weight[at * KERNEL_SIZE + kx], value, sums[c]);
                    }
                }
            }
        }
    }
    UNROLL
    for (uint32_t c = 0; c < CHANNELS; ++c) {
        if (first + c < args.outputs) {
            // Last, so that its size, which normalization takes off again, rounds the sum only once.
            y[(first + c) * pixels + pixel] = sums[c] + bias[first + c];
        }
    }
}

// CHANNELS channels of a pixel of y.
KERNEL(dip_conv1_forward, ConvArgs, 128) { forward<1>(args); }
KERNEL(dip_conv3_forward, ConvArgs, 128, 8) { forward<3>(args); }

// The output coordinate that reads coordinate `at`, which may lie in the padding, with a kernel's tap, at
// stride 1 or 2; -1 if there is none.
DEVICE int reader(int at, int tap, int half, int stride, int n) {
    const int shifted = at + half - tap, y = shifted >> (stride - 1);
    return shifted >= 0 && y * stride == shifted && y < n ? y : -1;
}

// A pixel is read at its own coordinate and, where the padding is a reflection, at those that reflect
// to it: what the place-th of these three is on an axis of n, or `none` if it is not in the padding.
DEVICE int read_at(int at, int place, int n, int half, bool reflect, int none) {
    if (place == 0) {
        return at;
    }
    const int mirrored = place == 1 ? -at : 2 * (n - 1) - at;
    return reflect && mirrored != at && -half <= mirrored && mirrored < n + half ? mirrored : none;
}

template <int KERNEL_SIZE> DEVICE void backward_data(const ConvArgs& args) {
    constexpr int HALF = KERNEL_SIZE / 2, NONE = -1 - HALF;
    const uint32_t pixels = args.height * args.width;
    const auto [pixel, first] = share_of(pixels);
    if (pixel >= pixels) {
        return;
    }
    const uint32_t slot = args.slots[blockIdx.y];
    const Global<const float> dy = of_slot(args.y, slot);
    const Global<const float> weight = of_slot(args.weight, slot) + first * KERNEL_SIZE * KERNEL_SIZE;
    const Global<float> dx = of_slot(args.x, slot);
    const uint32_t out_pixels = args.out_height * args.out_width;
    const int row = pixel / args.width, column = pixel % args.width;
    const int places = KERNEL_SIZE == 1 ? 1 : 3;
    float sums[CHANNELS] = {};
    for (int down = 0; down < places * KERNEL_SIZE; ++down) {
        const int at_y = read_at(row, down / KERNEL_SIZE, args.height, HALF, args.reflect, NONE);
        const int y = reader(at_y, down % KERNEL_SIZE, HALF, args.stride, args.out_height);
        if (at_y == NONE || y < 0) {
            continue;
        }
        for (int right = 0; right < places * KERNEL_SIZE; ++right) {
            const int at_x = read_at(column, right / KERNEL_SIZE, args.width, HALF, args.reflect, NONE);
            const int x = reader(at_x, right % KERNEL_SIZE, HALF, args.stride, args.out_width);
            if (at_x == NONE || x < 0) {
                continue;
            }
            const int tap = down % KERNEL_SIZE * KERNEL_SIZE + right % KERNEL_SIZE;
            const Global<const float> taps = weight + tap;
            const Global<const float> values = dy + (y * args.out_width + x);
            for (uint32_t o = 0; o < args.outputs; ++o) {
                const float value = values[o * out_pixels];
                UNROLL
                for (uint32_t c = 0; c < CHANNELS; ++c) {
                    if (first + c < args.inputs) {
                        sums[c] = multiply_add(taps[(o * args.inputs + c) * KERNEL_SIZE * KERNEL_SIZE], value, sums[c]);
                    }
                }
            }
        }
    }
    UNROLL
    for (uint32_t c = 0; c < CHANNELS; ++c) {
        if (first + c < args.inputs) {
            const uint32_t at = (first + c) * pixels + pixel;
            dx[at] = args.accumulate ? sums[c] + dx[at] : sums[c];
        }
    }
}

// CHANNELS channels of a pixel of x; y is the derivative by y, x takes the one by x.
KERNEL(dip_conv1_backward_data, ConvArgs, 128) { backward_data<1>(args); }
KERNEL(dip_conv3_backward_data, ConvArgs, 128) { backward_data<3>(args); }

template <int KERNEL_SIZE> DEVICE void backward_weights(const ConvArgs& args) {
    const uint32_t pair = blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP;
    const uint32_t lane = threadIdx.x % WARP;
    if (pair >= args.outputs * args.inputs) {
        return;
    }
    const uint32_t slot = args.slots[blockIdx.y];
    const uint32_t o = pair / args.inputs, i = pair % args.inputs;
    const uint32_t out_pixels = args.out_height * args.out_width;
    const Global<const float> dy = of_slot(args.y, slot) + o * out_pixels;
    const Global<const float> x = of_slot(args.x, slot) + i * args.height * args.width;
    const Global<float> dweight = of_slot(args.weight, slot) + pair * KERNEL_SIZE * KERNEL_SIZE;
    const Global<float> dbias = of_slot(args.bias, slot);
    float sums[KERNEL_SIZE * KERNEL_SIZE] = {};
    float bias[1] = {};
    for (uint32_t pixel = lane; pixel < out_pixels; pixel += WARP) {
        const float value = dy[pixel];
        bias[0] += value;
        const int top = int(pixel / args.out_width * args.stride) - KERNEL_SIZE / 2;
        const int left = int(pixel % args.out_width * args.stride) - KERNEL_SIZE / 2;
        UNROLL
        for (int tap = 0; tap < KERNEL_SIZE * KERNEL_SIZE; ++tap) {
            const int row = source(top + tap / KERNEL_SIZE, args.height, args.reflect);
            const int column = source(left + tap % KERNEL_SIZE, args.width, args.reflect);
            if (row >= 0 && column >= 0) {
                sums[tap] = multiply_add(x[row * args.width + column], value, sums[tap]);
            }
        }
    }
    warp_sum(sums);
    if (lane == 0) {
        UNROLL
        for (int tap = 0; tap < KERNEL_SIZE * KERNEL_SIZE; ++tap) {
            dweight[tap] = sums[tap];
        }
    }
    if (i == 0) {
        warp_sum(bias);
        if (lane == 0) {
            dbias[o] = bias[0];
        }
    }
}

// A warp to a pair of an output and an input channel; weight and bias take the derivatives.
KERNEL(dip_conv1_backward_weights, ConvArgs, 128) { backward_weights<1>(args); }
KERNEL(dip_conv3_backward_weights, ConvArgs, 128) { backward_weights<3>(args); }
