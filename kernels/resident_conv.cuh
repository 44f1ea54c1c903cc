// The resident step's convolutions and their derivatives, and the staging of what they read.
#pragma once

#include "resident.cuh"

// The margin of a map: reflected, or zero.
DEVICE void fill_margin(const Step& step, const Memory& memory, bool reflect) {
    const uint32_t across = step.width + 2, round = 2 * (across + step.height);
    const Share share = share_of(step);
    for (uint32_t channel = share.channel; channel < step.inputs; channel += share.channels) {
        const Memory map = memory + (step.y.at + channel * step.y.plane);
        for (uint32_t i = share.pixel; i < round; i += share.pixels) {
            int row, column;
            if (i < 2 * across) {
                row = i < across ? -1 : int(step.height);
                column = int(i < across ? i : i - across) - 1;
            } else {
                row = int(i / 2 - across);
                column = i % 2 == 0 ? -1 : int(step.width);
            }
            float value = 0.0f;
            if (reflect) {
                const int last_row = 2 * int(step.height) - 2, last_column = 2 * int(step.width) - 2;
                const int from_row = row < 0 ? 1 : min(row, last_row - row);
                const int from_column = column < 0 ? 1 : min(column, last_column - column);
                value = map[from_row * int(step.y.pitch) + from_column];
            }
            map[row * int(step.y.pitch) + column] = value;
        }
    }
}

// Numbers that a pair of channels has in a packed weight: nine taps, so that four can be read at once.
constexpr uint32_t PACKED = 12;

DEVICE void stage(const ResidentArgs& args, const Step& step, const Memory& memory) {
    const Share share = share_of(step);
    for (uint32_t channel = share.channel; channel < step.inputs; channel += share.channels) {
        const Affine norm = norm_of(memory, step, channel);
        for (uint32_t pixel = share.pixel; pixel < step.height * step.width; pixel += share.pixels) {
            const float value = seen(memory, step, norm, in(step, step.x, channel, pixel));
            memory[in(step, step.y, channel, pixel)] = value;
        }
    }
    if (step.packed != NOWHERE) {
        for (uint32_t i = threadIdx.x; i < 9 * step.inputs * step.outputs; i += blockDim.x) {
            memory[step.packed + i / 9 * PACKED + i % 9] = float(memory[step.weight + i]);
        }
    }
    if (step.margin) {
        if (args.reflect) {
            barrier();
        }
        fill_margin(step, memory, args.reflect);
    }
}

struct Taps {
    float of[9];
};

DEVICE Taps taps_at(const Memory& packed) {
    const Float4 first = read4(packed), second = read4(packed + 4);
    return {{first.lane[0], first.lane[1], first.lane[2], first.lane[3], second.lane[0], second.lane[1], second.lane[2],
             second.lane[3], packed[8]}};
}

// ROWS pixels of a column times CHANNELS channels a thread. With BACK, the derivative by the input from
// the one by the output, d in x's place: the same with the kernel turned by half a circle.
template <int ROWS, int CHANNELS, bool BACK> DEVICE void convolve(const Step& step, const Memory& memory) {
    const uint32_t sources = BACK ? step.outputs : step.inputs, results = BACK ? step.inputs : step.outputs;
    const Map& from = BACK ? step.d : step.x;
    const uint32_t spots = step.height / ROWS * step.width;
    const uint32_t per_source = BACK ? PACKED * step.inputs : PACKED;
    const uint32_t per_result = BACK ? PACKED : PACKED * step.inputs;
    const int stride = BACK ? 1 : step.stride;
    for (uint32_t item = threadIdx.x; item < results / CHANNELS * spots; item += blockDim.x) {
        const uint32_t tile = quotient(item, step.per_plane), spot = item - tile * spots;
        const uint32_t group = quotient(spot, step.per_row), column = spot - group * step.width;
        const uint32_t row = group * ROWS, first = tile * CHANNELS;
        Memory values = memory + int(from.at + (int(row) * stride - 1) * int(from.pitch) + int(column) * stride - 1);
        Memory weights = memory + (step.packed + first * per_result);
        float sums[ROWS][CHANNELS] = {};
        for (uint32_t i = 0; i < sources; ++i) {
            float around[ROWS + 2][3];
            UNROLL
            for (int k = 0; k < 3 * (ROWS + 2); ++k) {
                around[k / 3][k % 3] = values[k / 3 * from.pitch + k % 3];
            }
            UNROLL
            for (int c = 0; c < CHANNELS; ++c) {
                const Taps taps = taps_at(weights + c * per_result);
                UNROLL
                for (int k = 0; k < 9; ++k) {
                    UNROLL
                    for (int r = 0; r < ROWS; ++r) {
                        sums[r][c] = multiply_add(taps.of[BACK ? 8 - k : k], around[r + k / 3][k % 3], sums[r][c]);
                    }
                }
            }
            values = values + from.plane;
            weights = weights + per_source;
        }
        const Memory result = memory + (step.y.at + row * step.y.pitch + column);
        UNROLL
        for (int c = 0; c < CHANNELS; ++c) {
            const float bias = BACK ? 0.0f : memory[step.weight + 9 * step.inputs * step.outputs + first + c];
            UNROLL
            for (int r = 0; r < ROWS; ++r) {
                // Last, so that its size, which normalization takes off again, rounds the sum only once.
                result[(first + c) * step.y.plane + r * step.y.pitch] = sums[r][c] + bias;
            }
        }
    }
}

// The largest tile that leaves no channels over.
template <int ROWS, bool BACK> DEVICE void convolve_tiled(const Step& step, const Memory& memory) {
    const uint32_t results = BACK ? step.inputs : step.outputs;
    if (results % 4 == 0) {
        convolve<ROWS, 4, BACK>(step, memory);
    } else if (results % 3 == 0) {
        convolve<ROWS, 3, BACK>(step, memory);
    } else {
        convolve<ROWS, 1, BACK>(step, memory);
    }
}

template <bool BACK> DEVICE void convolve_tiled(const Step& step, const Memory& memory) {
    if (step.rows == 4) {
        convolve_tiled<4, BACK>(step, memory);
    } else {
        convolve_tiled<1, BACK>(step, memory);
    }
}

// A thread to CHANNELS channels of PIXELS pixels.
template <int PIXELS> DEVICE void convolve_pixel(const Step& step, const Memory& memory) {
    constexpr uint32_t CHANNELS = 4;
    const uint32_t spots = step.height * step.width / PIXELS;
    for (uint32_t item = threadIdx.x; item < (step.outputs + CHANNELS - 1) / CHANNELS * spots; item += blockDim.x) {
        const uint32_t tile = quotient(item, step.per_plane), spot = item - tile * spots;
        const uint32_t first = tile * CHANNELS, last = step.outputs - 1;
        float sums[PIXELS][CHANNELS] = {};
        for (uint32_t i = 0; i < step.inputs; ++i) {
            const Affine norm = norm_of(memory, step, i);
            float values[PIXELS];
            UNROLL
            for (int p = 0; p < PIXELS; ++p) {
                values[p] = seen(memory, step, norm, step.x.at + i * step.x.plane + p * spots + spot);
            }
            UNROLL
            for (uint32_t c = 0; c < CHANNELS; ++c) {
                const float weight = memory[step.weight + min(first + c, last) * step.inputs + i];
                UNROLL
                for (int p = 0; p < PIXELS; ++p) {
                    sums[p][c] = multiply_add(weight, values[p], sums[p][c]);
                }
            }
        }
        UNROLL
        for (uint32_t c = 0; c < CHANNELS; ++c) {
            if (first + c < step.outputs) {
                const float bias = memory[step.weight + step.outputs * step.inputs + first + c];
                UNROLL
                for (int p = 0; p < PIXELS; ++p) {
                    memory[step.y.at + (first + c) * step.y.plane + p * spots + spot] = sums[p][c] + bias;
                }
            }
        }
    }
}

// The sum over the warp that is a lane's, of several; not all lanes have any.
struct Spread {
    uint32_t number;
    bool any;
    float sum;
};

template <unsigned MASK, int COUNT>
DEVICE Spread halve(float (&values)[COUNT], uint32_t first, uint32_t count) {
    if constexpr (MASK == 0) {
        static_assert(COUNT == 1, "a lane for each sum");
        return {first, count > 0, values[0]};
    } else {
        constexpr int HALF = (COUNT + 1) / 2;
        const bool upper = (threadIdx.x & MASK) != 0;
        float kept[HALF];
        UNROLL
        for (int k = 0; k < HALF; ++k) {
            const float low = values[k], high = k + HALF < COUNT ? values[k + HALF < COUNT ? k + HALF : 0] : 0.0f;
            kept[k] = (upper ? high : low) + shuffle_xor(upper ? low : high, MASK);
        }
        const uint32_t half = HALF;
        return halve<MASK / 2>(kept, first + (upper ? half : 0), upper ? max(count, half) - half : min(count, half));
    }
}

// Each value's sum over the warp, as warp_sum has it, but each in one lane: with every exchange, a lane keeps
// half of the values.
template <int COUNT> DEVICE Spread warp_spread(float (&values)[COUNT]) { return halve<WARP / 2>(values, 0, COUNT); }

// A warp to an input channel and CHANNELS output channels, a lane to a piece of a column: `rows` pixels of d,
// with a window of x that moves down with them. The derivative by the bias, which normalization takes off
// again, is zero, and stays so.
template <int STRIDE, int CHANNELS>
DEVICE void weights(const ResidentArgs& args, const Step& step, const Memory& memory) {
    const uint32_t pieces = (step.height + step.rows - 1) / step.rows * step.width;
    const uint32_t items = step.outputs / CHANNELS * step.inputs;
    for (uint32_t item = threadIdx.x / WARP; item < items; item += blockDim.x / WARP) {
        const uint32_t tile = item / step.inputs, i = item - tile * step.inputs, first = tile * CHANNELS;
        float sums[9 * CHANNELS] = {};
        for (uint32_t piece = threadIdx.x % WARP; piece < pieces; piece += WARP) {
            const uint32_t group = quotient(piece, step.per_row), column = piece - group * step.width;
            const uint32_t row = group * step.rows, end = min(row + step.rows, step.height);
            Memory d = memory + (step.d.at + first * step.d.plane + row * step.d.pitch + column);
            Memory x = memory + int(step.x.at + i * step.x.plane + (int(row) * STRIDE - 1) * int(step.x.pitch) +
                                    int(column) * STRIDE - 1);
            float window[9];
            UNROLL
            for (int k = 0; k < 9 - 3 * STRIDE; ++k) {
                window[k] = x[k / 3 * step.x.pitch + k % 3];
            }
            for (uint32_t y = row; y < end; ++y) {
                UNROLL
                for (int k = 9 - 3 * STRIDE; k < 9; ++k) {
                    window[k] = x[k / 3 * step.x.pitch + k % 3];
                }
                UNROLL
                for (uint32_t c = 0; c < CHANNELS; ++c) {
                    const float value = d[c * step.d.plane];
                    UNROLL
                    for (uint32_t k = 0; k < 9; ++k) {
                        sums[9 * c + k] = multiply_add(window[k], value, sums[9 * c + k]);
                    }
                }
                UNROLL
                for (int k = 0; k < 9 - 3 * STRIDE; ++k) {
                    window[k] = window[k + 3 * STRIDE];
                }
                x = x + STRIDE * step.x.pitch;
                d = d + step.d.pitch;
            }
        }
        const Spread spread = warp_spread(sums);
        if (spread.any) {
            const uint32_t o = first + spread.number / 9;
            memory[args.gradients_at + step.weight + 9 * (o * step.inputs + i) + spread.number % 9] = spread.sum;
        }
    }
}

template <int STRIDE> DEVICE void weights_tiled(const ResidentArgs& args, const Step& step, const Memory& memory) {
    if (step.outputs % 2 == 0) {
        weights<STRIDE, 2>(args, step, memory);
    } else {
        weights<STRIDE, 1>(args, step, memory);
    }
}

// A warp to an input channel and CHANNELS output channels.
DEVICE void weights_pixel(const ResidentArgs& args, const Step& step, const Memory& memory) {
    constexpr uint32_t CHANNELS = 4, SUMS = 2; // of the products, and of d
    const uint32_t items = (step.outputs + CHANNELS - 1) / CHANNELS * step.inputs;
    for (uint32_t item = threadIdx.x / WARP; item < items; item += blockDim.x / WARP) {
        const uint32_t tile = item / step.inputs, i = item - tile * step.inputs, first = tile * CHANNELS;
        const Affine norm = norm_of(memory, step, i);
        float sums[SUMS * CHANNELS] = {};
        for (uint32_t pixel = threadIdx.x % WARP; pixel < step.height * step.width; pixel += WARP) {
            const float x = seen(memory, step, norm, step.x.at + i * step.x.plane + pixel);
            const Memory d = memory + in(step, step.d, 0, pixel);
            UNROLL
            for (uint32_t c = 0; c < CHANNELS; ++c) {
                const float value = d[min(first + c, step.outputs - 1) * step.d.plane];
                sums[SUMS * c] = multiply_add(x, value, sums[SUMS * c]);
                sums[SUMS * c + 1] += value;
            }
        }
        const Spread spread = warp_spread(sums);
        const uint32_t o = first + spread.number / SUMS;
        if (spread.any && o < step.outputs) {
            const Memory gradient = memory + (args.gradients_at + step.weight);
            if (spread.number % SUMS == 0) {
                gradient[o * step.inputs + i] = spread.sum;
            } else if (i == 0) {
                gradient[step.inputs * step.outputs + o] = spread.sum;
            }
        }
    }
}

// A thread to 2 x 2 pixels of CHANNELS channels; `height` and `width` are those of d.
template <int CHANNELS> DEVICE void spread_two(const Step& step, const Memory& memory) {
    const uint32_t quads = step.height * step.width;
    for (uint32_t item = threadIdx.x; item < (step.inputs + CHANNELS - 1) / CHANNELS * quads; item += blockDim.x) {
        const Place place = place_of(step, item);
        const uint32_t first = place.channel * CHANNELS;
        Memory d = memory + (step.d.at + place.row * step.d.pitch + place.column);
        Memory weights = memory + step.packed;
        float sums[CHANNELS][4] = {};
        ROLLED
        for (uint32_t o = 0; o < step.outputs; ++o) {
            const float here = d[0], right = d[1];
            const float below = d[step.d.pitch], across = d[step.d.pitch + 1];
            UNROLL
            for (int c = 0; c < CHANNELS; ++c) {
                const Taps taps = taps_at(weights + PACKED * min(first + c, step.inputs - 1));
                sums[c][0] = multiply_add(taps.of[4], here, sums[c][0]);
                sums[c][1] = multiply_add(taps.of[5], here, multiply_add(taps.of[3], right, sums[c][1]));
                sums[c][2] = multiply_add(taps.of[7], here, multiply_add(taps.of[1], below, sums[c][2]));
                sums[c][3] = multiply_add(taps.of[8], here, multiply_add(taps.of[6], right, sums[c][3]));
                sums[c][3] = multiply_add(taps.of[2], below, multiply_add(taps.of[0], across, sums[c][3]));
            }
            d = d + step.d.plane;
            weights = weights + PACKED * step.inputs;
        }
        UNROLL
        for (int c = 0; c < CHANNELS; ++c) {
            if (first + c < step.inputs) {
                const Memory y = memory + (step.y.at + (first + c) * step.y.plane + 2 * place.row * step.y.pitch +
                                           2 * place.column);
                y[0] = sums[c][0];
                y[1] = sums[c][1];
                y[step.y.pitch] = sums[c][2];
                y[step.y.pitch + 1] = sums[c][3];
            }
        }
    }
}

// A pixel is read at its own coordinate, and at those in the margin that reflect to it: what the place-th
// of these three is on an axis of n, or NONE.
constexpr int NONE = -2;
DEVICE int read_at(int at, int place, int n) {
    if (place == 0) {
        return at;
    }
    const int mirrored = place == 1 ? -at : 2 * (n - 1) - at;
    return mirrored != at && (mirrored == -1 || mirrored == n) ? mirrored : NONE;
}

// The output coordinate that reads coordinate `at`, which may lie in the margin, with a kernel's tap, at
// stride 1 or 2; -1 if there is none.
DEVICE int reader(int at, int tap, int stride, int n) {
    const int shifted = at + 1 - tap, y = shifted >> (stride - 1);
    return shifted >= 0 && y * stride == shifted && y < n ? y : -1;
}

// A thread to an element of y; what comes through its own place is there.
DEVICE void mirror(const Step& step, const Memory& memory) {
    const int out_height = step.height / step.stride, out_width = step.width / step.stride;
    for (uint32_t element = threadIdx.x; element < step.inputs * step.height * step.width; element += blockDim.x) {
        const Place place = place_of(step, element);
        float sum = 0.0f;
        for (int way = 1; way < 9; ++way) {
            const int at_y = read_at(place.row, way / 3, step.height), at_x = read_at(place.column, way % 3, step.width);
            if (at_y == NONE || at_x == NONE) {
                continue;
            }
            for (int tap = 0; tap < 9; ++tap) {
                const int row = reader(at_y, tap / 3, step.stride, out_height);
                const int column = reader(at_x, tap % 3, step.stride, out_width);
                if (row < 0 || column < 0) {
                    continue;
                }
                ROLLED
                for (uint32_t o = 0; o < step.outputs; ++o) {
                    const float weight = memory[step.weight + 9 * (o * step.inputs + place.channel) + tap];
                    sum = multiply_add(weight, memory[step.d.at + o * step.d.plane + row * step.d.pitch + column], sum);
                }
            }
        }
        memory[in(step.y, place)] += sum;
    }
}

// What a 1x1 convolution makes of an input channel: the first weights, and where they are.
struct Column {
    float first[4];
    uint32_t at;
};

DEVICE Column column_of(const Step& step, const Memory& memory, uint32_t weight, uint32_t channel) {
    Column column;
    column.at = weight + channel;
    UNROLL
    for (uint32_t o = 0; o < 4; ++o) {
        column.first[o] = memory[column.at + min(o, step.outputs - 1) * step.inputs];
    }
    return column;
}

// The derivative by that channel, at a pixel of d, which has those by the outputs.
DEVICE float back_through(const Step& step, const Memory& memory, const Column& column, uint32_t pixel) {
    float sum = 0.0f;
    UNROLL
    for (uint32_t o = 0; o < 4; ++o) {
        if (o < step.outputs) {
            sum = multiply_add(column.first[o], memory[pixel + o * step.d.plane], sum);
        }
    }
    for (uint32_t o = 4; o < step.outputs; ++o) {
        sum = multiply_add(memory[column.at + o * step.inputs], memory[pixel + o * step.d.plane], sum);
    }
    return sum;
}

// A thread to an element.
DEVICE void spread_pixel(const Step& step, const Memory& memory) {
    for (uint32_t element = threadIdx.x; element < step.inputs * step.height * step.width; element += blockDim.x) {
        const Place place = place_of(step, element);
        const uint32_t pixel = in(step.d, {0, place.row, place.column});
        const Column column = column_of(step, memory, step.weight, place.channel);
        memory[in(step.y, place)] += back_through(step, memory, column, pixel);
    }
}
