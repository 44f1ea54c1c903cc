// Convolutions of DIP networks and their derivatives on tensor cores: kernels of 1x1 at stride 1 and of
// 3x3 at strides 1 and 2. Numbers in memory stay float32; factors are rounded to bfloat16 on their way
// into shared memory, and products added up in float32.
//
// Each is a product of matrices whose one factor is gathered as it is needed, never laid out in memory.
// Pictures lie in shared memory as patches: pixel by pixel, sixteen channels of each together, with the
// pixels around that taps reach. So a tap is only another pixel to start at, and rows of matrices, which
// are eight channels of a pixel, lie at multiples of 16 bytes whatever the tap, stride or reflection.
#include "dip.cuh"

// Weights as the product takes them: slot s has its own at data + s * stride.
struct Packed {
    Buffer<BFloat16x8> data;
    uint64_t stride; // in elements
};
ARGUMENTS(Packed, data, stride)

DEVICE Global<BFloat16x8> of_slot(const Packed& packed, uint32_t slot) {
    return packed.data + size_t(slot) * packed.stride;
}

// Channels of a step of the product.
constexpr uint32_t SLICE = 16;

// Where a pixel's upper or lower eight channels of a slice lie, counted in eights: halves change places
// every four pixels, so that the rows of a matrix are in different banks.
DEVICE uint32_t piece(uint32_t pixel, uint32_t half) { return pixel * 2 + (half ^ (pixel >> 2 & 1)); }

DEVICE BFloat16x8 round(const float (&values)[8]) {
    BFloat16x8 rounded;
    UNROLL
    for (int i = 0; i < 4; ++i) {
        rounded.words[i] = to_bfloat16(values[2 * i], values[2 * i + 1]);
    }
    return rounded;
}

struct PackArgs {
    Buffer<const uint32_t> slots;
    Maps weight;   // outputs x inputs x taps
    Packed packed; // ceil(channels / 16) x taps x rows x 16: a slice and a tap after another
    uint32_t outputs, inputs;
    uint32_t taps;
    uint32_t backward; // whether rows are inputs and channels outputs, else the other way about
};
ARGUMENTS(PackArgs, slots, weight, packed, outputs, inputs, taps, backward)

// Eight channels a thread; zeros where there are no more.
KERNEL(dip_conv_tensor_pack, PackArgs, 256) {
    const uint32_t rows = args.backward ? args.inputs : args.outputs;
    const uint32_t channels = args.backward ? args.outputs : args.inputs;
    const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
    const uint32_t row = i / 2 % rows, tap = i / 2 / rows % args.taps;
    const uint32_t slice = i / 2 / rows / args.taps, first = slice * SLICE + i % 2 * 8;
    if (slice * SLICE >= channels) {
        return;
    }
    const uint32_t slot = args.slots[blockIdx.y];
    const Global<const float> weight = of_slot(args.weight, slot);
    float values[8];
    UNROLL
    for (uint32_t k = 0; k < 8; ++k) {
        const uint32_t output = args.backward ? first + k : row, input = args.backward ? row : first + k;
        values[k] = first + k < channels ? weight[(output * args.inputs + input) * args.taps + tap] : 0.0f;
    }
    const Global<BFloat16x8> packed = of_slot(args.packed, slot);
    packed[i] = round(values);
}

// A picture that patches are taken from.
struct Picture {
    Global<const float> data;
    uint32_t channels, height, width;
    bool reflect; // else zeros are around it
};

// Eight channels of the pixel at (y, x), which may lie beyond the edges.
DEVICE void fetch(float (&values)[8], const Picture& picture, uint32_t first, int y, int x) {
    const int row = source(y, picture.height, picture.reflect), column = source(x, picture.width, picture.reflect);
    // A tile that reaches over the edge asks for pixels that no reflection gives, and does not use them.
    const bool there = row >= 0 && column >= 0;
    const Global<const float> pixel = picture.data + (there ? row * int(picture.width) + column : 0);
    UNROLL
    for (uint32_t k = 0; k < 8; ++k) {
        values[k] = 0.0f;
        if (there && first + k < picture.channels) {
            values[k] = pixel[(first + k) * picture.height * picture.width];
        }
    }
}

struct ConvTensorArgs {
    Buffer<const uint32_t> slots;
    Maps from; // channels x from_height x from_width
    Maps to;   // rows x to_height x to_width
    Maps bias; // of every row; forward alone has one
    Packed packed;
    uint32_t channels, rows;
    uint32_t from_height, from_width;
    uint32_t to_height, to_width;
    uint32_t reflect;    // whether the padding of x is a reflection
    uint32_t accumulate; // whether the derivative by x is added to what is there
    uint32_t pairs;      // whether rows of pixels of `to` start at multiples of 8 bytes
};
ARGUMENTS(ConvTensorArgs, slots, from, to, bias, packed, channels, rows, from_height, from_width, to_height, to_width,
          reflect, accumulate, pairs)

// A block computes ROWS channels of TILE x TILE pixels of `to`; each of its warps 32 channels of 8 rows of
// pixels.
constexpr uint32_t ROWS = 128;
constexpr int TILE = 16, WARP_ROWS = 8;
constexpr uint32_t PRODUCT_THREADS = 256;

// What a tile reads of `from`: x forward, the derivative by y backward.
template <int KERNEL, int BY, bool BACK> struct Geometry {
    static constexpr int KERNEL_SIZE = KERNEL, STRIDE = BY, HALF = KERNEL_SIZE / 2;
    static constexpr bool BACKWARD = BACK;
    // From a tile's start, divided or multiplied by the stride, to its patch's.
    static constexpr int ORIGIN = BACKWARD && STRIDE == 2 ? 0 : -HALF;
    // Pixels on an axis that a tile reads, from one warp's rows to the next warp's, and that a warp's read.
    static constexpr int PATCH =
        BACKWARD ? TILE / STRIDE + (KERNEL_SIZE - 1) / STRIDE : STRIDE * (TILE - 1) + KERNEL_SIZE;
    static constexpr int WARP_STEP = BACKWARD ? WARP_ROWS / STRIDE : STRIDE * WARP_ROWS;
    static constexpr int WARP_PATCH = PATCH - WARP_STEP;
    // A patch, and a pixel of zeros.
    static constexpr uint32_t ZEROS = 2 * PATCH * PATCH, PIECES = ZEROS + 2;
    // Columns of taps whose weights are on their way or in use.
    static constexpr uint32_t STAGES = !BACKWARD && STRIDE == 2 ? 2 : 3;
    // Pieces of the next patch that a thread moves beside the work of a column of taps.
    static constexpr int MOVED = (ZEROS + PRODUCT_THREADS * KERNEL_SIZE - 1) / (PRODUCT_THREADS * KERNEL_SIZE);
};

// Where what starts at a coordinate of `to` starts in `from`.
template <typename G> DEVICE int start(int at) { return (G::BACKWARD ? at / G::STRIDE : at * G::STRIDE) + G::ORIGIN; }

// Of a warp's rows of pixels, the one that takes row `row` of its part of the patch times a tap's weights; -1
// if none does.
template <typename G> DEVICE int target(int row, int tap) {
    if (G::BACKWARD) {
        const int at = G::STRIDE * (row + G::ORIGIN) + tap - G::HALF;
        return 0 <= at && at < WARP_ROWS ? at : -1;
    }
    const int at = row - tap;
    return 0 <= at && at % G::STRIDE == 0 && at / G::STRIDE < WARP_ROWS ? at / G::STRIDE : -1;
}

// Where a column of a patch of `width` lies: those that a tap reads are neighbors.
DEVICE uint32_t place(uint32_t column, uint32_t width, uint32_t stride) {
    return stride == 1 ? column : column / 2 + column % 2 * ((width + 1) / 2);
}

// Where one of a patch's pieces lies, counted channels half by half.
template <typename G> DEVICE uint32_t piece_of_patch(uint32_t i) {
    const uint32_t pixel = i % (G::PATCH * G::PATCH), half = i / (G::PATCH * G::PATCH);
    const uint32_t column = place(pixel % G::PATCH, G::PATCH, G::BACKWARD ? 1 : G::STRIDE);
    return pixel / G::PATCH * G::PATCH * 2 + piece(column, half);
}

template <typename G>
DEVICE void fetch_piece(float (&values)[8], const Picture& picture, uint32_t slice, uint32_t i, int top, int left) {
    const uint32_t pixel = i % (G::PATCH * G::PATCH), half = i / (G::PATCH * G::PATCH);
    fetch(values, picture, slice * SLICE + half * 8, top + int(pixel / G::PATCH), left + int(pixel % G::PATCH));
}

// Adds to a warp's sums what a column of taps gives. `weights` and `pixels` are where the lane's rows of
// matrices start, `step` leads to the next row of the patch, or nowhere. Where the padding is a reflection,
// rows `top` and `bottom` of the patch are read a second time by the row that is its own mirror image's
// neighbor: row 0 of the picture by padding row -1, whose derivative is row 1's, and so at the other end.
template <typename G>
DEVICE void add_taps(float (&sums)[WARP_ROWS][2][2][4], Shared<const BFloat16x8> weights,
                     Shared<const BFloat16x8> pixels, uint32_t step, int top, int bottom) {
    constexpr int K = G::KERNEL_SIZE;
    uint32_t weight[K][2][4];
    UNROLL
    for (int tap = 0; tap < K; ++tap) {
        UNROLL
        for (int m = 0; m < 2; ++m) {
            load_matrices(weight[tap][m], weights + (tap * ROWS + m * 16) * 2);
        }
    }
    UNROLL
    for (int row = 0; row < G::WARP_PATCH; ++row) {
        uint32_t pixel[4];
        load_matrices(pixel, pixels + row * step);
        UNROLL
        for (int tap = 0; tap < K; ++tap) {
            const int at = target<G>(row, tap);
            if (at < 0) {
                continue;
            }
            UNROLL
            for (int part = 0; part < 4; ++part) {
                const int m = part / 2, n = part % 2;
                multiply_matrices(sums[at][m][n], weight[tap][m], pixel[2 * n], pixel[2 * n + 1]);
            }
            if (G::BACKWARD && K == 3 && tap != 1 && row == (tap == 2 ? top : bottom)) {
                UNROLL
                for (int part = 0; part < 4; ++part) {
                    const int m = part / 2, n = part % 2;
                    multiply_matrices(sums[at][m][n], weight[K - 1 - tap][m], pixel[2 * n], pixel[2 * n + 1]);
                }
            }
        }
    }
}

// Where a lane of a backward pass finds the column of the patch that a tap's column takes to column `column`
// of `to`; -1 if there is none.
template <typename G> DEVICE int reader(int column, int tap, int left) {
    const int shifted = column + G::HALF - tap;
    return shifted % G::STRIDE == 0 ? shifted / G::STRIDE - left : -1;
}

// `to` = weights * patches, summed over slices of channels and taps. While a column of taps is multiplied,
// the next columns' weights and a part of the next patch are on their way.
template <typename G> DEVICE void product(const ConvTensorArgs& args) {
    constexpr int K = G::KERNEL_SIZE;
    SharedMemory memory;
    const Shared<BFloat16x8> patches = memory.take<BFloat16x8>(2 * G::PIECES);
    const Shared<BFloat16x8> stages = memory.take<BFloat16x8>(G::STAGES * K * ROWS * 2);
    const uint32_t slot = args.slots[blockIdx.y];
    const Global<const BFloat16x8> packed = of_slot(args.packed, slot);
    const Picture from = {of_slot(args.from, slot), args.channels, args.from_height, args.from_width,
                        !G::BACKWARD && args.reflect};

    const uint32_t across = (args.to_width + TILE - 1) / TILE, down = (args.to_height + TILE - 1) / TILE;
    const int to_left = blockIdx.x % across * TILE, to_top = blockIdx.x / across % down * TILE;
    const uint32_t first_row = blockIdx.x / across / down * ROWS;
    const int left = start<G>(to_left), top = start<G>(to_top);

    // Warps of the same rows of weights lie side by side, for where there are few rows.
    const uint32_t thread = threadIdx.x, lane = thread % WARP;
    const uint32_t warp_row = thread / WARP / 2 * 32, warp_down = thread / WARP % 2;
    const bool at_work = first_row + warp_row < args.rows;
    // This lane's row of the four matrices of weights, and its column of those of pixels.
    const uint32_t weight_at = piece(warp_row + lane % 16, lane / 16);
    const int column = lane / 16 * 8 + lane % 8;
    const uint32_t half = lane / 8 % 2;
    const int warp_top = top + int(warp_down) * G::WARP_STEP;
    const uint32_t warp_patch = warp_down * G::WARP_STEP * G::PATCH * 2;
    // Of the warp's rows of the patch: see add_taps.
    const bool mirrored = G::BACKWARD && K == 3 && args.reflect;
    const bool reaches = (args.to_height - 1) % G::STRIDE == 0;
    const int mirrored_top = mirrored ? -warp_top : -1;
    const int mirrored_bottom = mirrored && reaches ? int(args.to_height - 1) / G::STRIDE - warp_top : -1;

    const uint32_t slices = (args.channels + SLICE - 1) / SLICE, steps = slices * K;
    AsyncCopies copies;
    const auto copy_weights = [&](uint32_t step) {
        if (step < steps) {
            const Shared<BFloat16x8> stage = stages + step % G::STAGES * (K * ROWS * 2);
            const uint32_t row = thread / 2;
            const bool there = first_row + row < args.rows;
            UNROLL
            for (int tap = 0; tap < K; ++tap) {
                const uint32_t taps = (step / K * K + tap) * K + step % K;
                const uint32_t piece_at = there ? (taps * args.rows + first_row + row) * 2 + thread % 2 : 0;
                copies.copy(stage + (tap * ROWS * 2 + piece(row, thread % 2)), packed + piece_at, there);
            }
        }
        copies.commit();
    };
    UNROLL
    for (uint32_t step = 0; step + 1 < G::STAGES; ++step) {
        copy_weights(step);
    }
    for (uint32_t i = thread; i < G::ZEROS; i += PRODUCT_THREADS) {
        float values[8];
        fetch_piece<G>(values, from, 0, i, top, left);
        patches[piece_of_patch<G>(i)] = round(values);
    }
    if (thread < 4) {
        patches[thread / 2 * G::PIECES + G::ZEROS + thread % 2] = BFloat16x8{};
    }

    float sums[WARP_ROWS][2][2][4] = {};
    for (uint32_t step = 0; step < steps; ++step) {
        const uint32_t slice = step / K;
        const int tap = step % K;
        // This step's weights and patch are there, and the last step's may be written over.
        copies.wait<G::STAGES - 2>();
        barrier();
        copy_weights(step + G::STAGES - 1);
        float moved[G::MOVED][8];
        UNROLL
        for (int i = 0; i < G::MOVED; ++i) {
            const uint32_t at = (tap * G::MOVED + i) * PRODUCT_THREADS + thread;
            if (at < G::ZEROS && slice + 1 < slices) {
                fetch_piece<G>(moved[i], from, slice + 1, at, top, left);
            }
        }
        if (at_work) {
            const Shared<const BFloat16x8> weights = stages + (step % G::STAGES * (K * ROWS * 2) + weight_at);
            const Shared<const BFloat16x8> patch = patches + slice % 2 * G::PIECES;
            if (!G::BACKWARD) {
                const uint32_t at = place(column * G::STRIDE + tap, G::PATCH, G::STRIDE);
                add_taps<G>(sums, weights, patch + (warp_patch + piece(at, half)), G::PATCH * 2, -1, -1);
            } else {
                // Then the columns that are read a second time: as rows are.
                const int last = args.to_width - 1;
                const int second = tap == 0 ? 1 : tap == 2 && last % G::STRIDE == 0 ? last - 1 : -1;
                const bool again = mirrored && second >= to_left && second < to_left + TILE;
                int at = reader<G>(to_left + column, tap, left);
                for (int pass = 0; pass <= int(again); ++pass) {
                    const uint32_t pixels = at < 0 ? G::ZEROS + half : warp_patch + piece(at, half);
                    add_taps<G>(sums, weights, patch + pixels, at < 0 ? 0 : G::PATCH * 2, mirrored_top,
                                mirrored_bottom);
                    at = to_left + column == second ? (tap == 0 ? 0 : last / G::STRIDE) - left : -1;
                }
            }
        }
        UNROLL
        for (int i = 0; i < G::MOVED; ++i) {
            const uint32_t at = (tap * G::MOVED + i) * PRODUCT_THREADS + thread;
            if (at < G::ZEROS && slice + 1 < slices) {
                patches[(slice + 1) % 2 * G::PIECES + piece_of_patch<G>(at)] = round(moved[i]);
            }
        }
    }

    const Global<float> to = of_slot(args.to, slot);
    UNROLL
    for (int part = 0; part < 4; ++part) {
        const uint32_t row = first_row + warp_row + part * 8 + lane / 4;
        if (row >= args.rows) {
            continue;
        }
        float bias = 0.0f;
        if (!G::BACKWARD) {
            const Global<const float> biases = of_slot(args.bias, slot);
            bias = biases[row];
        }
        UNROLL
        for (int k = 0; k < WARP_ROWS * 2; ++k) {
            const int line = k / 2, n = k % 2;
            const uint32_t y = to_top + warp_down * WARP_ROWS + line, x = to_left + n * 8 + lane % 4 * 2;
            if (y >= args.to_height || x >= args.to_width) {
                continue;
            }
            const uint32_t at = (row * args.to_height + y) * args.to_width + x;
            const bool second = x + 1 < args.to_width;
            // The bias last, so that its size, which normalization takes off again, rounds sums only once.
            float left_sum = sums[line][part / 2][n][part % 2 * 2] + bias;
            float right_sum = sums[line][part / 2][n][part % 2 * 2 + 1] + bias;
            if (G::BACKWARD && args.accumulate) {
                left_sum += to[at];
                right_sum += second ? to[at + 1] : 0.0f;
            }
            if (args.pairs) {
                store_pair(to + at, left_sum, right_sum);
            } else {
                to[at] = left_sum;
                if (second) {
                    to[at + 1] = right_sum;
                }
            }
        }
    }
}

// A tile of pixels and ROWS channels a block.
KERNEL(dip_conv1_tensor_forward, ConvTensorArgs, 256) { product<Geometry<1, 1, false>>(args); }
KERNEL(dip_conv3_tensor_forward, ConvTensorArgs, 256) { product<Geometry<3, 1, false>>(args); }
KERNEL(dip_conv3_tensor_forward_stride, ConvTensorArgs, 256) { product<Geometry<3, 2, false>>(args); }
KERNEL(dip_conv1_tensor_backward_data, ConvTensorArgs, 256) { product<Geometry<1, 1, true>>(args); }
KERNEL(dip_conv3_tensor_backward_data, ConvTensorArgs, 256) { product<Geometry<3, 1, true>>(args); }
KERNEL(dip_conv3_tensor_backward_data_stride, ConvTensorArgs, 256) { product<Geometry<3, 2, true>>(args); }

struct ConvTensorWeightsArgs {
    Buffer<const uint32_t> slots;
    Maps x;    // inputs x height x width
    Maps dy;   // outputs x out_height x out_width
    Maps sums; // parts x (taps x outputs x inputs, then outputs)
    uint32_t inputs, outputs;
    uint32_t height, width;
    uint32_t out_height, out_width;
    uint32_t reflect; // whether the padding is a reflection
    uint32_t parts;   // that the strips are divided into, which blocks sum up on their own
};
ARGUMENTS(ConvTensorWeightsArgs, slots, x, dy, sums, inputs, outputs, height, width, out_height, out_width, reflect,
          parts)

// The derivatives by weight and bias: a product over pixels. A block sums up, for ROWS outputs and some
// inputs, one part of the picture, strip by strip: STRIP rows of TILE pixels of dy. Its warps have each 32
// of the outputs and one column of taps; the taps of a column share the pixels of x that they read.
constexpr int STRIP = 4;

template <int KERNEL_SIZE, int STRIDE> DEVICE void weights(const ConvTensorWeightsArgs& args) {
    constexpr int K = KERNEL_SIZE;
    constexpr uint32_t THREADS = K * 128;
    // Sixteens of inputs.
    constexpr int INPUTS = K == 3 ? 2 : 8;
    constexpr uint32_t WIDTH = STRIDE * (TILE - 1) + K, HEIGHT = STRIDE * (STRIP - 1) + K;
    constexpr uint32_t DY_SLICE = 2 * STRIP * TILE, X_SLICE = 2 * HEIGHT * WIDTH;
    constexpr uint32_t DY_PIECES = ROWS / SLICE * DY_SLICE, PIECES = DY_PIECES + INPUTS * X_SLICE;
    // Pieces of the next strip that a thread moves beside the work of a row of this one.
    constexpr int MOVED = (PIECES + THREADS * STRIP - 1) / (THREADS * STRIP);

    SharedMemory memory;
    const Shared<BFloat16x8> patches = memory.take<BFloat16x8>(2 * PIECES);
    const uint32_t slot = args.slots[blockIdx.y];
    const Picture x = {of_slot(args.x, slot), args.inputs, args.height, args.width, bool(args.reflect)};
    const Picture dy = {of_slot(args.dy, slot), args.outputs, args.out_height, args.out_width, false};
    const uint32_t groups = (args.inputs + INPUTS * SLICE - 1) / (INPUTS * SLICE);
    const uint32_t first_input = blockIdx.x % groups * (INPUTS * SLICE);
    const uint32_t first_output = blockIdx.x / groups / args.parts * ROWS;
    const uint32_t part = blockIdx.x / groups % args.parts;
    const uint32_t across = (args.out_width + TILE - 1) / TILE, down = (args.out_height + STRIP - 1) / STRIP;
    const uint32_t begin = uint64_t(across) * down * part / args.parts;
    const uint32_t end = uint64_t(across) * down * (part + 1) / args.parts;

    const uint32_t thread = threadIdx.x, lane = thread % WARP;
    const int tap = thread / WARP % K;
    const uint32_t warp_row = thread / WARP / K * 32;
    const bool at_work = first_output + warp_row < args.outputs;
    // The derivative by the bias is that by the weight of an input of ones.
    const bool with_bias = tap == 0 && first_input == 0;
    constexpr uint32_t ONES = 0x3f803f80;

    // Eight channels of a pixel of a strip, and where they go.
    const auto fetch_piece = [&](float (&values)[8], uint32_t strip, uint32_t i) {
        const int top = strip / across * STRIP, left = strip % across * TILE;
        if (i < DY_PIECES) {
            const int pixel = i % (STRIP * TILE);
            fetch(values, dy, first_output + i / (STRIP * TILE) * 8, top + pixel / TILE, left + pixel % TILE);
        } else {
            const int at = (i - DY_PIECES) / (HEIGHT * WIDTH), pixel = (i - DY_PIECES) % (HEIGHT * WIDTH);
            fetch(values, x, first_input + at * 8, top * STRIDE - K / 2 + pixel / int(WIDTH),
                  left * STRIDE - K / 2 + pixel % int(WIDTH));
        }
    };
    const auto put_piece = [&](const float (&values)[8], uint32_t strip, uint32_t i) {
        const Shared<BFloat16x8> patch = patches + (strip - begin) % 2 * PIECES;
        if (i < DY_PIECES) {
            const uint32_t pixel = i % (STRIP * TILE), at = i / (STRIP * TILE);
            patch[at / 2 * DY_SLICE + piece(pixel, at % 2)] = round(values);
        } else {
            const uint32_t at = (i - DY_PIECES) / (HEIGHT * WIDTH), pixel = (i - DY_PIECES) % (HEIGHT * WIDTH);
            const uint32_t row = DY_PIECES + at / 2 * X_SLICE + pixel / WIDTH * WIDTH * 2;
            patch[row + piece(place(pixel % WIDTH, WIDTH, STRIDE), at % 2)] = round(values);
        }
    };
    for (uint32_t i = thread; i < PIECES; i += THREADS) {
        float values[8];
        fetch_piece(values, begin, i);
        put_piece(values, begin, i);
    }

    // This lane's rows of matrices: pixels of eight outputs, and of eight inputs that the tap reads for them.
    const uint32_t dy_at = piece(lane / 16 * 8 + lane % 8, lane / 8 % 2);
    const uint32_t x_at = piece(place((lane % 16) * STRIDE + tap, WIDTH, STRIDE), lane / 16);
    float sums[K][INPUTS * 2][2][4] = {}, bias[2][4] = {};
    for (uint32_t strip = begin; strip < end; ++strip) {
        // The strip is there, and the last one may be written over.
        barrier();
        const Shared<const BFloat16x8> patch = patches + (strip - begin) % 2 * PIECES;
        uint32_t pixels[K][INPUTS][4];
        ROLLED
        for (int row = 0; row < STRIP; ++row) {
            float moved[MOVED][8];
            UNROLL
            for (int i = 0; i < MOVED; ++i) {
                const uint32_t at = (row * MOVED + i) * THREADS + thread;
                if (at < PIECES && strip + 1 < end) {
                    fetch_piece(moved[i], strip + 1, at);
                }
            }
            if (at_work) {
                uint32_t gradients[2][4];
                UNROLL
                for (int m = 0; m < 2; ++m) {
                    load_transposed(gradients[m], patch + ((warp_row / SLICE + m) * DY_SLICE + row * TILE * 2 + dy_at));
                    if (with_bias) {
                        multiply_matrices(bias[m], gradients[m], ONES, ONES);
                    }
                }
                UNROLL
                for (int n = 0; n < INPUTS; ++n) {
                    if (first_input + n * SLICE >= args.inputs) {
                        continue;
                    }
                    UNROLL
                    for (int down_tap = 0; down_tap < K; ++down_tap) {
                        uint32_t(&pixel)[4] = pixels[down_tap][n];
                        if (down_tap + STRIDE < K && row > 0) {
                            // The row before read it too, for a tap further down.
                            UNROLL
                            for (int k = 0; k < 4; ++k) {
                                pixel[k] = pixels[(down_tap + STRIDE) % K][n][k];
                            }
                        } else {
                            const uint32_t line = row * STRIDE + down_tap;
                            load_transposed(pixel, patch + (DY_PIECES + n * X_SLICE + line * WIDTH * 2 + x_at));
                        }
                        UNROLL
                        for (int k = 0; k < 4; ++k) {
                            const int m = k / 2, eight = k % 2;
                            multiply_matrices(sums[down_tap][2 * n + eight][m], gradients[m], pixel[2 * eight],
                                              pixel[2 * eight + 1]);
                        }
                    }
                }
            }
            UNROLL
            for (int i = 0; i < MOVED; ++i) {
                const uint32_t at = (row * MOVED + i) * THREADS + thread;
                if (at < PIECES && strip + 1 < end) {
                    put_piece(moved[i], strip + 1, at);
                }
            }
        }
    }

    const uint32_t weight_count = K * K * args.outputs * args.inputs;
    const Global<float> out = of_slot(args.sums, slot) + size_t(part) * (weight_count + args.outputs);
    UNROLL
    for (int k = 0; k < 4; ++k) {
        const uint32_t output = first_output + warp_row + k * 8 + lane / 4;
        if (output >= args.outputs) {
            continue;
        }
        UNROLL
        for (int n = 0; n < INPUTS * 4; ++n) {
            const uint32_t input = first_input + n / 2 * 8 + lane % 4 * 2 + n % 2;
            if (input < args.inputs) {
                UNROLL
                for (int down_tap = 0; down_tap < K; ++down_tap) {
                    const uint32_t row = (down_tap * K + tap) * args.outputs + output;
                    out[row * args.inputs + input] = sums[down_tap][n / 2][k / 2][k % 2 * 2 + n % 2];
                }
            }
        }
        if (with_bias && lane % 4 == 0) {
            out[weight_count + output] = bias[k / 2][k % 2 * 2];
        }
    }
}

KERNEL(dip_conv1_tensor_backward_weights, ConvTensorWeightsArgs, 128) { weights<1, 1>(args); }
KERNEL(dip_conv3_tensor_backward_weights, ConvTensorWeightsArgs, 384) { weights<3, 1>(args); }
KERNEL(dip_conv3_tensor_backward_weights_stride, ConvTensorWeightsArgs, 384) { weights<3, 2>(args); }

struct AddPartsArgs {
    Buffer<const uint32_t> slots;
    Maps sums;   // parts x (taps x pairs, then outputs)
    Maps weight; // pairs x taps: takes the derivative
    Maps bias;   // outputs: the same
    uint32_t taps;
    uint32_t pairs; // of an output and an input
    uint32_t outputs;
    uint32_t parts;
};
ARGUMENTS(AddPartsArgs, slots, sums, weight, bias, taps, pairs, outputs, parts)

// The parts' sums, one after another.
KERNEL(dip_conv_tensor_add_parts, AddPartsArgs, 256) {
    const uint32_t weights = args.taps * args.pairs, count = weights + args.outputs;
    const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count) {
        return;
    }
    const uint32_t slot = args.slots[blockIdx.y];
    const Global<const float> sums = of_slot(args.sums, slot);
    float sum = 0.0f;
    for (uint32_t part = 0; part < args.parts; ++part) {
        sum += sums[size_t(part) * count + i];
    }
    if (i < weights) {
        const Global<float> weight = of_slot(args.weight, slot);
        weight[i % args.pairs * args.taps + i / args.pairs] = sum;
    } else {
        const Global<float> bias = of_slot(args.bias, slot);
        bias[i - weights] = sum;
    }
}
