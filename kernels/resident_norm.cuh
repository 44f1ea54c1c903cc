// The resident step's normalization and upsampling, and their derivatives.
#pragma once

#include "pair.cuh"
#include "resident_conv.cuh"

// Two sums over a channel that `parts` warps have put into `partials`.
DEVICE void gather(const Step& step, const Memory& partials, uint32_t channel, Pair& first, Pair& second) {
    first = second = {0.0f, 0.0f};
    for (uint32_t part = 0; part < step.parts; ++part) {
        const Memory partial = partials + 4 * (channel * step.parts + part);
        first = first + Pair{partial[0], partial[1]};
        second = second + Pair{partial[2], partial[3]};
    }
}

// The sum over the warp of one pair in its first lane, and that of another in its seventeenth.
DEVICE Pair warp_sums(const Pair& first, const Pair& second) {
    const bool upper = threadIdx.x % WARP >= WARP / 2;
    const Pair given = upper ? first : second;
    Pair kept = upper ? second : first;
    kept = kept + Pair{shuffle_xor(given.high, WARP / 2), shuffle_xor(given.low, WARP / 2)};
    UNROLL
    for (unsigned mask = WARP / 4; mask > 0; mask /= 2) {
        kept = kept + Pair{shuffle_xor(kept.high, mask), shuffle_xor(kept.low, mask)};
    }
    return kept;
}

// Sums over the warp, put where gather takes them.
DEVICE void put(const Memory& partial, const Pair& first, const Pair& second) {
    const Pair sum = warp_sums(first, second);
    if (threadIdx.x % (WARP / 2) == 0) {
        const uint32_t at = threadIdx.x % WARP / (WARP / 2) * 2;
        partial[at] = sum.high;
        partial[at + 1] = sum.low;
    }
}

// `parts` warps to a channel.
DEVICE void statistics(const ResidentArgs& args, const Step& step, const Memory& memory) {
    const uint32_t pixels = step.height * step.width;
    const Memory partials = memory + args.partials_at;
    for (uint32_t item = threadIdx.x / WARP; item < step.inputs * step.parts; item += blockDim.x / WARP) {
        const uint32_t channel = item / step.parts, part = item % step.parts;
        Pair sum = {}, squares = {};
        for (uint32_t pixel = part * WARP + threadIdx.x % WARP; pixel < pixels; pixel += step.parts * WARP) {
            const float value = memory[in(step, step.x, channel, pixel)];
            add(sum, value);
            add_product(squares, value, value);
        }
        put(partials + 4 * item, sum, squares);
    }
    barrier();
    for (uint32_t channel = threadIdx.x; channel < step.inputs; channel += blockDim.x) {
        Pair sum, squares;
        gather(step, partials, channel, sum, squares);
        const Pair count = {float(pixels), 0.0f};
        const Pair mean = sum / count;
        Pair variance = (squares + -(sum * mean)) / count;
        if (!(variance.high > 0.0f)) {
            variance = {0.0f, 0.0f};
        }
        const Pair precision = Pair{1.0f, 0.0f} / (variance + Pair{args.norm_epsilon, 0.0f});
        const float scale = sqrtf(precision.high);
        const Memory record = memory + (step.norm + channel * RECORD);
        record[MEAN] = mean.high;
        record[FACTOR] = memory[step.weight + channel] * scale;
        record[BIAS] = float(memory[step.weight + step.inputs + channel]);
        record[SCALE] = scale;
        record[RESIDUAL] = mean.low;
        record[PRECISION] = precision.high;
        record[PRECISION_LOW] = precision.low;
    }
}

// Of the 1x1 convolution that stands between a normalization and d, if one does.
DEVICE Column column_behind(const Step& step, const Memory& memory, uint32_t channel) {
    return step.via == NOWHERE ? Column{} : column_of(step, memory, step.via, channel);
}

// The derivative by an element as it is once normalized: d, back through the 1x1 convolution that stands
// between, if one does, and through LeakyReLU.
DEVICE float by_normalized(const Step& step, const Memory& memory, const Affine& norm, const Column& column,
                           uint32_t channel, uint32_t pixel, float value) {
    const float dy = step.via == NOWHERE ? float(memory[in(step, step.d, channel, pixel)])
                                         : back_through(step, memory, column, in(step, step.d, 0, pixel));
    // At zero the slope's, as PyTorch's.
    return normalize(norm, value) > 0.0f ? dy : step.slope * dy;
}

// `parts` warps to a channel for its sums, then `crew` warps.
DEVICE void normalized(const ResidentArgs& args, const Step& step, const Memory& memory) {
    const uint32_t pixels = step.height * step.width;
    const Memory partials = memory + args.partials_at;
    for (uint32_t item = threadIdx.x / WARP; item < step.inputs * step.parts; item += blockDim.x / WARP) {
        const uint32_t channel = item / step.parts, part = item % step.parts;
        const Affine norm = affine(memory, step.norm, channel);
        const Column column = column_behind(step, memory, channel);
        Pair sum = {}, products = {}; // of the derivative, and with the distance from the mean
        for (uint32_t pixel = part * WARP + threadIdx.x % WARP; pixel < pixels; pixel += step.parts * WARP) {
            const float value = memory[in(step, step.x, channel, pixel)];
            const float d = by_normalized(step, memory, norm, column, channel, pixel, value);
            if (step.keeps) {
                memory[in(step, step.y, channel, pixel)] = d;
            }
            add(sum, d);
            add_product(products, d, value - norm.mean);
        }
        put(partials + 4 * item, sum, products);
    }
    barrier();
    for (uint32_t channel = threadIdx.x; channel < step.inputs; channel += blockDim.x) {
        Pair sum, products;
        gather(step, partials, channel, sum, products);
        const Memory record = memory + (step.norm + channel * RECORD);
        const Memory gradients = memory + (args.gradients_at + step.weight);
        const Pair residual = {record[RESIDUAL], 0.0f}, precision = {record[PRECISION], record[PRECISION_LOW]};
        products = products + -(residual * sum);
        gradients[channel] = products.high * record[SCALE];
        gradients[step.inputs + channel] = sum.high;
        // factor * (d - sum / pixels - (distance - residual) * precision * products / pixels)
        const Pair factor = Pair{record[FACTOR], 0.0f} / Pair{float(pixels), 0.0f};
        const Pair coefficient = -(factor * (precision * products));
        const Pair level = -(factor * sum + coefficient * residual);
        record[COEFFICIENT] = coefficient.high;
        record[COEFFICIENT_LOW] = coefficient.low;
        record[LEVEL] = level.high;
    }
    barrier();
    const Share share = share_of(step);
    for (uint32_t channel = share.channel; channel < step.inputs; channel += share.channels) {
        const Affine norm = affine(memory, step.norm, channel);
        const Memory record = memory + (step.norm + channel * RECORD);
        const Column column = column_behind(step, memory, channel);
        const float coefficient = record[COEFFICIENT], coefficient_low = record[COEFFICIENT_LOW], level = record[LEVEL];
        for (uint32_t pixel = share.pixel; pixel < pixels; pixel += share.pixels) {
            const float value = memory[in(step, step.x, channel, pixel)], distance = value - norm.mean;
            const uint32_t at = in(step, step.y, channel, pixel);
            const float d =
                step.keeps ? float(memory[at]) : by_normalized(step, memory, norm, column, channel, pixel, value);
            const float around = multiply_add(distance, coefficient, multiply_add(distance, coefficient_low, level));
            memory[at] = multiply_add(d, norm.factor, around);
        }
    }
    if (step.margin) {
        fill_margin(step, memory, false);
    }
}

// As dip_upsample_forward (dip_upsample.cu): a thread to the 2 x 2 elements of y between the middles of four
// of x; beyond the edge, x has what is at it. `height` and `width` are those of x, and 1 more.
DEVICE void upsample(const ResidentArgs& args, const Step& step, const Memory& memory) {
    const uint32_t last_row = step.height - 2, last_column = step.width - 2;
    const float near = args.bilinear ? 0.75f : 1.0f, far = 1.0f - near;
    const Share share = share_of(step);
    for (uint32_t channel = share.channel; channel < step.inputs; channel += share.channels) {
        for (uint32_t quad = share.pixel; quad < step.height * step.width; quad += share.pixels) {
            const uint32_t row = quotient(quad, step.per_row), column = quad - row * step.width;
            const uint32_t left = max(column, 1u) - 1, right = min(column, last_column);
            const Memory x = memory + (step.x.at + channel * step.x.plane);
            const Memory upper = x + (max(row, 1u) - 1) * step.x.pitch, lower = x + min(row, last_row) * step.x.pitch;
            const float a = upper[left], b = upper[right], c = lower[left], d = lower[right];
            const float upper_left = multiply_add(near, a, far * b), upper_right = multiply_add(near, b, far * a);
            const float lower_left = multiply_add(near, c, far * d), lower_right = multiply_add(near, d, far * c);
            const Memory y = memory + int(step.y.at + channel * step.y.plane + (2 * int(row) - 1) * int(step.y.pitch) +
                                          2 * int(column) - 1);
            if (row > 0 && column > 0) {
                y[0] = multiply_add(near, upper_left, far * lower_left);
            }
            if (row > 0 && column <= last_column) {
                y[1] = multiply_add(near, upper_right, far * lower_right);
            }
            if (row <= last_row && column > 0) {
                y[step.y.pitch] = multiply_add(near, lower_left, far * upper_left);
            }
            if (row <= last_row && column <= last_column) {
                y[step.y.pitch + 1] = multiply_add(near, lower_right, far * upper_right);
            }
        }
    }
}

// The weights that a coordinate of the source has in the upsampled ones from 2 at - 1 to 2 at + 2.
struct Reach {
    float before, first, second, behind;
};

DEVICE Reach reach(uint32_t at, uint32_t n, bool bilinear) {
    if (!bilinear) {
        return {0.0f, 1.0f, 1.0f, 0.0f};
    }
    const bool start = at == 0, end = at + 1 == n;
    return {start ? 0.0f : 0.25f, start ? 1.0f : 0.75f, end ? 1.0f : 0.75f, end ? 0.0f : 0.25f};
}

// A thread to an element of y.
DEVICE void upsampled(const ResidentArgs& args, const Step& step, const Memory& memory) {
    for (uint32_t i = threadIdx.x; i < step.inputs * step.height * step.width; i += blockDim.x) {
        const Place place = place_of(step, i);
        const Reach down = reach(place.row, step.height, args.bilinear);
        const Reach right = reach(place.column, step.width, args.bilinear);
        const float downs[4] = {down.before, down.first, down.second, down.behind};
        const uint32_t left = max(2 * place.column, 1u) - 1, column = 2 * place.column;
        const uint32_t beyond = min(2 * place.column + 2, 2 * step.width - 1);
        float sum = 0.0f;
        UNROLL
        for (int k = 0; k < 4; ++k) {
            const uint32_t row = min(max(2 * place.row + k, 1u) - 1, 2 * step.height - 1);
            const Memory d = memory + (step.d.at + place.channel * step.d.plane + row * step.d.pitch);
            float across = right.before * d[left];
            across = multiply_add(right.first, d[column], across);
            across = multiply_add(right.second, d[column + 1], across);
            across = multiply_add(right.behind, d[beyond], across);
            sum = multiply_add(downs[k], across, sum);
        }
        memory[in(step.y, place)] = sum;
    }
}
