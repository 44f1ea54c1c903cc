// The resident step: one launch runs many whole iterations of all DIP instances in use, a block to an
// instance. Parameters, gradients and activations stay in the block's shared memory; global memory is
// read at the start and written at the end, and in between for what the plan left outside: Adam's moments,
// the target, or the picture where outputs are averaged.
//
// An iteration is a program: a list of steps, which the host plans with the places of all maps
// (src/backend/cuda/dip/resident/plan.rs), passed by value so that it lies in constant memory. All threads
// walk it together, with a barrier after every step.
//
// Of the forward pass only the convolutions' outputs are kept. What a 3x3 convolution reads is staged:
// normalised, activated, and set into a margin of its padding, so that its loops have no edges; staged
// again for the derivative by the weights. 1x1 convolutions, and what passes derivatives back through
// them, work pixel by pixel on what is kept.
//
// Sums over a channel are Pairs, for the reason that dip_norm.cu gives.
//
// An iteration of `tiles` takes 751,512 multiply-adds, of which 550,848 are the convolutions', and reads or
// writes 17,500 times a warp's width of shared memory (counted on the emulator; a broadcast of four numbers
// is one read). Exchanges between lanes come to some 3,500 more, and all instructions to an estimated 100,000
// of a warp: 21,000 cycles of shared memory and 25,000 of issue on a multiprocessor of compute capability 9.0,
// which at 132 of them and 1.755 GHz has 46,000 for each of 5 million iterations a second.
#include "dip.cuh"
#include "pair.cuh"
#include "random.cuh"

// What a step does: Op in plan.rs.
enum : uint32_t {
    JITTER_INPUT,   // y = x with noise
    STAGE,          // y = x, normalised and activated, in its margin; and the weight behind it packed
    CONVOLVE,       // y = weight * x + bias, 3x3
    CONVOLVE_PIXEL, // the same, 1x1, of the normalised and activated x
    STATISTICS,     // the record of x
    UPSAMPLE,       // y = x, twice as large
    LOSS,           // x: the output, then the loss's derivative by it
    WEIGHTS,        // the derivative by the weight of CONVOLVE; d is the one by its y
    WEIGHTS_PIXEL,  // those by the weight and bias of CONVOLVE_PIXEL
    SPREAD,         // y = the derivative by CONVOLVE's x, where its y has d
    SPREAD_TWO,     // the same at stride 2
    MIRROR,         // adds to it what came through a reflection
    SPREAD_PIXEL,   // adds to y the derivative by CONVOLVE_PIXEL's normalised and activated x
    NORMALISED,     // y = the derivative by x, where d is the one by the normalised and activated x
    UPSAMPLED,      // y = the derivative by UPSAMPLE's x, where its y has d
    ADAM,           // moves parameters, or the input
};

// A feature map in the block's memory: where the first channel's first pixel is, and the distances of
// rows and of channels.
struct Map {
    uint32_t at, pitch, plane;
};
ARGUMENTS(Map, at, pitch, plane)

constexpr uint32_t NOWHERE = 0xffffffff;

struct Step {
    uint32_t op;
    uint32_t inputs, outputs; // channels
    uint32_t height, width;   // of what the threads share among them
    uint32_t per_row, per_plane; // reciprocals of `width`, and of the pixels or what counts in their place
    uint32_t stride;
    uint32_t rows;  // or pixels that a thread computes at once; of WEIGHTS, in a lane's piece
    uint32_t parts; // warps to a channel's sums
    uint32_t crew;  // warps to a channel's elements
    Map x, y, d;
    uint32_t weight; // of the convolution or normalisation; its bias follows
    uint32_t via;    // of NORMALISED: the weight of the 1x1 convolution that stands between it and d, or NOWHERE
    uint32_t norm;   // x's records, or NOWHERE where x is read as it is
    float slope;
    uint32_t margin; // whether y has one
    uint32_t packed; // a 3x3 convolution's weight, PACKED numbers for each pair of channels, or NOWHERE
    uint32_t keeps;  // of NORMALISED: whether y may be written while x is still read
};
ARGUMENTS(Step, op, inputs, outputs, height, width, per_row, per_plane, stride, rows, parts, crew, x, y, d, weight,
          via, norm, slope, margin, packed, keeps)

constexpr uint32_t MAX_STEPS = 192;

struct ResidentArgs {
    Buffer<const uint32_t> slots;
    Buffer<uint32_t> iterations;
    Buffer<const uint32_t> keys; // three words a slot: Philox's key, and the tile
    Maps values, gradients, first, second, target, picture, errors;
    uint32_t rounds;     // iterations to run
    uint32_t floats;     // of the block's memory; it begins with the values: parameters, then the input
    uint32_t parameters; // of an instance
    uint32_t input;      // numbers of the input
    uint32_t trained;    // parameters, and the input where it is optimised
    uint32_t elements;   // of a picture
    uint32_t error_sums;
    // In the block's memory; of what lies outside, NOWHERE.
    uint32_t gradients_at, input_gradient_at, moments_at, target_at;
    uint32_t partials_at; // four numbers for each channel and part
    uint32_t bilinear;
    uint32_t reflect;
    float sigma;
    float keep; // how much of the outputs' average so far stays; 0 for no average
    float norm_epsilon;
    float learning_rate, epsilon;
    float beta2, log_beta1, log_beta2;
    float one_less_beta1, one_less_beta2;
    uint32_t step_count;
    Step steps[MAX_STEPS];
};
ARGUMENTS(ResidentArgs, slots, iterations, keys, values, gradients, first, second, target, picture, errors, rounds,
          floats, parameters, input, trained, elements, error_sums, gradients_at, input_gradient_at, moments_at,
          target_at, partials_at, bilinear, reflect, sigma, keep, norm_epsilon, learning_rate, epsilon, beta2,
          log_beta1, log_beta2, one_less_beta1, one_less_beta2, step_count, steps)

using Memory = Shared<float>;

// What is known of a normalised channel, RECORD numbers each. The backward pass replaces the last three
// by the line that its derivative has beside its part that is proportional to the one by the output.
constexpr uint32_t RECORD = 8;
constexpr uint32_t MEAN = 0, FACTOR = 1, BIAS = 2, SCALE = 3;
constexpr uint32_t REST = 4, PRECISION = 5, PRECISION_REST = 6;
constexpr uint32_t SLANT = 4, SLANT_REST = 5, LEVEL = 6;

// n / d by d's reciprocal, 2^31 / d rounded down, plus 1; n * d < 2^31.
DEVICE uint32_t quotient(uint32_t n, uint32_t reciprocal) { return uint32_t((uint64_t(n) * reciprocal) >> 31); }

// One of a step's elements.
struct Place {
    uint32_t channel, row, column;
};

DEVICE Place place_of(const Step& step, uint32_t element) {
    const uint32_t channel = quotient(element, step.per_plane);
    const uint32_t pixel = element - channel * (step.height * step.width);
    const uint32_t row = quotient(pixel, step.per_row);
    return {channel, row, pixel - row * step.width};
}

DEVICE uint32_t in(const Map& map, const Place& place) {
    return map.at + place.channel * map.plane + place.row * map.pitch + place.column;
}

// A pixel of a channel.
DEVICE uint32_t in(const Step& step, const Map& map, uint32_t channel, uint32_t pixel) {
    const uint32_t row = quotient(pixel, step.per_row);
    return map.at + channel * map.plane + row * map.pitch + (pixel - row * step.width);
}

// Which of a step's elements are a thread's: warps go to channels, `crew` to each, and lanes to pixels.
struct Share {
    uint32_t channel, channels, pixel, pixels; // the first one, and the distance to the next
};

DEVICE Share share_of(const Step& step) {
    const uint32_t warp = threadIdx.x / WARP, warps = blockDim.x / WARP;
    const uint32_t channel = warp / step.crew, within = warp - channel * step.crew;
    return {channel, warps / step.crew, within * WARP + threadIdx.x % WARP, step.crew * WARP};
}

struct Affine {
    float mean, factor, bias;
};

DEVICE Affine affine(const Memory& memory, uint32_t norm, uint32_t channel) {
    const Float4 record = read4(memory + (norm + channel * RECORD));
    return {record.lane[MEAN], record.lane[FACTOR], record.lane[BIAS]};
}

// Subtracting first keeps a channel without variance at exactly the bias, on LeakyReLU's side of it.
DEVICE float normalise(const Affine& affine, float x) {
    return multiply_add(x - affine.mean, affine.factor, affine.bias);
}

DEVICE float activate(float x, float slope) { return x > 0.0f ? x : slope * x; }

// Element `at` of a channel of x as the layer behind it sees it.
DEVICE float seen(const Memory& memory, const Step& step, const Affine& norm, uint32_t at) {
    const float value = memory[at];
    return step.norm == NOWHERE ? value : activate(normalise(norm, value), step.slope);
}

DEVICE Affine norm_of(const Memory& memory, const Step& step, uint32_t channel) {
    return step.norm == NOWHERE ? Affine{0.0f, 1.0f, 0.0f} : affine(memory, step.norm, channel);
}

// As dip_jitter (dip_step.cu): a thread to four elements.
DEVICE void jitter_input(const ResidentArgs& args, const Step& step, const Memory& memory, uint32_t slot,
                         uint32_t iteration) {
    const Global<const uint32_t> keys = args.keys + 3 * slot;
    for (uint32_t block = threadIdx.x; 4 * block < args.input; block += blockDim.x) {
        Words words{block, JITTER << 28 | (iteration & 0x0fffffff), keys[2], 0};
        words = philox(words, keys[0], keys[1]);
        float normals[4];
        box_muller(words.a, words.b, normals[0], normals[1]);
        box_muller(words.c, words.d, normals[2], normals[3]);
        UNROLL
        for (uint32_t k = 0; k < 4; ++k) {
            const uint32_t i = 4 * block + k;
            if (i < args.input) {
                memory[step.y.at + i] = multiply_add(args.sigma, normals[k], memory[step.x.at + i]);
            }
        }
    }
}

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
                // Last, so that its size, which normalisation takes off again, rounds the sum only once.
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
        record[REST] = mean.low;
        record[PRECISION] = precision.high;
        record[PRECISION_REST] = precision.low;
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

// As dip_loss (dip_step.cu). The picture leaves the chip with the last iteration, or for the average.
DEVICE void loss(const ResidentArgs& args, const Step& step, const Memory& memory, uint32_t slot, bool first,
                 bool last) {
    const Global<const float> outside = of_slot(args.target, slot);
    const Global<float> picture = of_slot(args.picture, slot);
    const bool averages = args.keep != 0.0f;
    float square = 0.0f;
    for (uint32_t i = threadIdx.x; i < args.elements; i += blockDim.x) {
        const float x = memory[step.x.at + i];
        const float g = 1.0f / (1.0f + expf(-x));
        const float target = args.target_at == NOWHERE ? outside[i] : memory[args.target_at + i];
        const float error = g - target;
        square = multiply_add(error, error, square);
        memory[step.x.at + i] = 2.0f / float(args.elements) * error * g * (1.0f - g);
        if (averages || last) {
            picture[i] = !averages || first ? g : multiply_add(args.keep, picture[i], (1.0f - args.keep) * g);
        }
    }
    if (last) {
        const float sum = block_sum(square, memory + args.partials_at);
        const Global<float> errors = of_slot(args.errors, slot);
        for (uint32_t i = threadIdx.x; i < args.error_sums; i += blockDim.x) {
            errors[i] = i == 0 ? sum : 0.0f;
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
// with a window of x that moves down with them. The derivative by the bias, which normalisation takes off
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

// Of the 1x1 convolution that stands between a normalisation and d, if one does.
DEVICE Column column_behind(const Step& step, const Memory& memory, uint32_t channel) {
    return step.via == NOWHERE ? Column{} : column_of(step, memory, step.via, channel);
}

// The derivative by an element as it is once normalised: d, back through the 1x1 convolution that stands
// between, if one does, and through LeakyReLU.
DEVICE float by_normalised(const Step& step, const Memory& memory, const Affine& norm, const Column& column,
                           uint32_t channel, uint32_t pixel, float value) {
    const float dy = step.via == NOWHERE ? float(memory[in(step, step.d, channel, pixel)])
                                         : back_through(step, memory, column, in(step, step.d, 0, pixel));
    // At zero the slope's, as PyTorch's.
    return normalise(norm, value) > 0.0f ? dy : step.slope * dy;
}

// `parts` warps to a channel for its sums, then `crew` warps.
DEVICE void normalised(const ResidentArgs& args, const Step& step, const Memory& memory) {
    const uint32_t pixels = step.height * step.width;
    const Memory partials = memory + args.partials_at;
    for (uint32_t item = threadIdx.x / WARP; item < step.inputs * step.parts; item += blockDim.x / WARP) {
        const uint32_t channel = item / step.parts, part = item % step.parts;
        const Affine norm = affine(memory, step.norm, channel);
        const Column column = column_behind(step, memory, channel);
        Pair sum = {}, products = {}; // of the derivative, and with the distance from the mean
        for (uint32_t pixel = part * WARP + threadIdx.x % WARP; pixel < pixels; pixel += step.parts * WARP) {
            const float value = memory[in(step, step.x, channel, pixel)];
            const float d = by_normalised(step, memory, norm, column, channel, pixel, value);
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
        const Pair rest = {record[REST], 0.0f}, precision = {record[PRECISION], record[PRECISION_REST]};
        products = products + -(rest * sum);
        gradients[channel] = products.high * record[SCALE];
        gradients[step.inputs + channel] = sum.high;
        // factor * (d - sum / pixels - (distance - rest) * precision * products / pixels)
        const Pair factor = Pair{record[FACTOR], 0.0f} / Pair{float(pixels), 0.0f};
        const Pair slant = -(factor * (precision * products));
        const Pair level = -(factor * sum + slant * rest);
        record[SLANT] = slant.high;
        record[SLANT_REST] = slant.low;
        record[LEVEL] = level.high;
    }
    barrier();
    const Share share = share_of(step);
    for (uint32_t channel = share.channel; channel < step.inputs; channel += share.channels) {
        const Affine norm = affine(memory, step.norm, channel);
        const Memory record = memory + (step.norm + channel * RECORD);
        const Column column = column_behind(step, memory, channel);
        const float slant = record[SLANT], slant_rest = record[SLANT_REST], level = record[LEVEL];
        for (uint32_t pixel = share.pixel; pixel < pixels; pixel += share.pixels) {
            const float value = memory[in(step, step.x, channel, pixel)], distance = value - norm.mean;
            const uint32_t at = in(step, step.y, channel, pixel);
            const float d =
                step.keeps ? float(memory[at]) : by_normalised(step, memory, norm, column, channel, pixel, value);
            const float around = multiply_add(distance, slant, multiply_add(distance, slant_rest, level));
            memory[at] = multiply_add(d, norm.factor, around);
        }
    }
    if (step.margin) {
        fill_margin(step, memory, false);
    }
}

// As dip_adam (dip_step.cu): `inputs` numbers from `weight` on.
DEVICE void adam(const ResidentArgs& args, const Step& step, const Memory& memory, uint32_t slot, uint32_t iteration) {
    const Global<float> first_outside = of_slot(args.first, slot) + step.weight;
    const Global<float> second_outside = of_slot(args.second, slot) + step.weight;
    const bool outside = args.moments_at == NOWHERE;
    const Memory first = memory + (outside ? 0 : args.moments_at + step.weight);
    const Memory second = first + (outside ? 0 : args.trained);
    // 1 - beta^t, which must not cancel while t is small.
    const float t = float(iteration + 1);
    const float correction1 = -expm1f(t * args.log_beta1);
    const float correction2 = -expm1f(t * args.log_beta2);
    const float rate = args.learning_rate / correction1;
    for (uint32_t i = threadIdx.x; i < step.inputs; i += blockDim.x) {
        const float g = memory[step.d.at + i];
        const float m0 = outside ? float(first_outside[i]) : float(first[i]);
        const float v0 = outside ? float(second_outside[i]) : float(second[i]);
        const float m = multiply_add(args.one_less_beta1, g - m0, m0);
        const float v = multiply_add(args.beta2, v0, args.one_less_beta2 * g * g);
        if (outside) {
            first_outside[i] = m;
            second_outside[i] = v;
        } else {
            first[i] = m;
            second[i] = v;
        }
        const float denominator = sqrtf(v / correction2) + args.epsilon;
        memory[step.y.at + i] = memory[step.y.at + i] - rate * m / denominator;
    }
}

DEVICE void load(const Memory& to, Global<const float> from, uint32_t count) {
    for (uint32_t i = threadIdx.x; i < count; i += blockDim.x) {
        to[i] = from[i];
    }
}

DEVICE void store(Global<float> to, const Memory& from, uint32_t count) {
    for (uint32_t i = threadIdx.x; i < count; i += blockDim.x) {
        to[i] = from[i];
    }
}

// `rounds` iterations of an instance. The registers leave room for three blocks of 256 threads.
KERNEL(resident_step, ResidentArgs, 768) {
    SharedMemory pieces;
    const Memory memory = pieces.take<float>(args.floats);
    const uint32_t slot = args.slots[blockIdx.x];
    const Global<uint32_t> iterations = args.iterations;
    const uint32_t start = iterations[slot];
    const bool moments_inside = args.moments_at != NOWHERE;
    load(memory, of_slot(args.values, slot), args.parameters + args.input);
    for (uint32_t i = threadIdx.x; i < args.parameters; i += blockDim.x) {
        memory[args.gradients_at + i] = 0.0f;
    }
    if (moments_inside) {
        load(memory + args.moments_at, of_slot(args.first, slot), args.trained);
        load(memory + (args.moments_at + args.trained), of_slot(args.second, slot), args.trained);
    }
    if (args.target_at != NOWHERE) {
        load(memory + args.target_at, of_slot(args.target, slot), args.elements);
    }
    barrier();
    for (uint32_t round = 0; round < args.rounds; ++round) {
        const uint32_t iteration = start + round;
        for (uint32_t s = 0; s < args.step_count; ++s) {
            // Each case looks its step up anew: what is read before the branch would take registers from all.
            switch (args.steps[s].op) {
            case JITTER_INPUT: jitter_input(args, args.steps[unknown(s)], memory, slot, iteration); break;
            case STAGE: stage(args, args.steps[unknown(s)], memory); break;
            case CONVOLVE: convolve_tiled<false>(args.steps[unknown(s)], memory); break;
            case CONVOLVE_PIXEL:
                if (args.steps[s].rows == 4) {
                    convolve_pixel<4>(args.steps[unknown(s)], memory);
                } else {
                    convolve_pixel<1>(args.steps[unknown(s)], memory);
                }
                break;
            case STATISTICS: statistics(args, args.steps[unknown(s)], memory); break;
            case UPSAMPLE: upsample(args, args.steps[unknown(s)], memory); break;
            case LOSS: loss(args, args.steps[unknown(s)], memory, slot, iteration == 0, round + 1 == args.rounds); break;
            case WEIGHTS:
                if (args.steps[s].stride == 1) {
                    weights_tiled<1>(args, args.steps[unknown(s)], memory);
                } else {
                    weights_tiled<2>(args, args.steps[unknown(s)], memory);
                }
                break;
            case WEIGHTS_PIXEL: weights_pixel(args, args.steps[unknown(s)], memory); break;
            case SPREAD: convolve_tiled<true>(args.steps[unknown(s)], memory); break;
            case SPREAD_TWO:
                if (args.steps[s].inputs == 1) {
                    spread_two<1>(args.steps[unknown(s)], memory);
                } else {
                    spread_two<4>(args.steps[unknown(s)], memory);
                }
                break;
            case MIRROR: mirror(args.steps[unknown(s)], memory); break;
            case SPREAD_PIXEL: spread_pixel(args.steps[unknown(s)], memory); break;
            case NORMALISED: normalised(args, args.steps[unknown(s)], memory); break;
            case UPSAMPLED: upsampled(args, args.steps[unknown(s)], memory); break;
            default: adam(args, args.steps[unknown(s)], memory, slot, iteration);
            }
            barrier();
        }
    }
    store(of_slot(args.values, slot), memory, args.parameters + args.input);
    const Global<float> gradients = of_slot(args.gradients, slot);
    store(gradients, memory + args.gradients_at, args.parameters);
    if (args.trained > args.parameters) {
        store(gradients + args.parameters, memory + args.input_gradient_at, args.input);
    }
    if (moments_inside) {
        store(of_slot(args.first, slot), memory + args.moments_at, args.trained);
        store(of_slot(args.second, slot), memory + (args.moments_at + args.trained), args.trained);
    }
    if (threadIdx.x == 0) {
        iterations[slot] = start + args.rounds;
    }
}
