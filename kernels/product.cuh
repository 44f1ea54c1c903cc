// Matrix products in float32: a block computes a tile of the product, with slices of both operands in
// shared memory; a thread computes quads of 4 x 4 of it in registers.
//
// Every element is one chain of multiply-adds from zero, over the terms in their order, whatever the
// tile: what a tile or a slice has beyond the operands is zero.
#pragma once

#include "function.cuh"

// Terms of the sums that come through shared memory at once.
constexpr uint32_t SLICE = 16;

// A tile's size, and of how many of its rows and columns a thread has the sums.
template <uint32_t ROWS_, uint32_t COLUMNS_, uint32_t HEIGHT_, uint32_t WIDTH_> struct Tile {
    static constexpr uint32_t ROWS = ROWS_, COLUMNS = COLUMNS_, HEIGHT = HEIGHT_, WIDTH = WIDTH_;
    static constexpr uint32_t THREADS = ROWS / HEIGHT * (COLUMNS / WIDTH);
    // Elements between a slice's terms in shared memory. With four more than there are, those of equal row
    // are in different banks.
    static constexpr uint32_t LEFT = ROWS + 4, RIGHT = COLUMNS + 4;
    static constexpr uint32_t BUFFER = SLICE * (LEFT + RIGHT);
    // A thread's sums as quads, which lie so far apart in the tile.
    static constexpr uint32_t DOWN = HEIGHT / 4, ACROSS = WIDTH / 4;
    static constexpr uint32_t DOWN_STEP = ROWS / DOWN, ACROSS_STEP = COLUMNS / ACROSS;
    // Elements of shared memory: a slice that is in use, and the next one.
    static constexpr uint32_t MEMORY = 2 * BUFFER;
    static_assert(DOWN_STEP * COLUMNS <= MEMORY, "put_sums() puts a quad of all threads there");
};

// Of these the host chooses: the first does most with what it reads; the second is for few rows, the
// third for few elements.
using Large = Tile<64, 128, 8, 8>;
using Flat = Tile<32, 128, 4, 8>;
using Small = Tile<32, 32, 4, 4>;

// Where in the tile a thread's first quad starts. A warp has 4 x 8 of them next to one another.
struct Place {
    uint32_t row, column;
};

template <class T> DEVICE Place place() {
    constexpr uint32_t ACROSS = T::COLUMNS / T::WIDTH / 8;
    const uint32_t warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    return {(warp / ACROSS * 4 + lane / 8) * 4, (warp % ACROSS * 8 + lane % 8) * 4};
}

// A slice's part of the sums.
template <class T>
DEVICE void multiply(Shared<const float> left, Shared<const float> right, const Place& place,
                     float (&sums)[T::HEIGHT][T::WIDTH]) {
    UNROLL
    for (uint32_t k = 0; k < SLICE; ++k) {
        Float4 a[T::DOWN], b[T::ACROSS];
        UNROLL
        for (uint32_t q = 0; q < T::DOWN; ++q) {
            a[q] = read4(left + (k * T::LEFT + place.row + q * T::DOWN_STEP));
        }
        UNROLL
        for (uint32_t q = 0; q < T::ACROSS; ++q) {
            b[q] = read4(right + (k * T::RIGHT + place.column + q * T::ACROSS_STEP));
        }
        UNROLL
        for (uint32_t i = 0; i < T::HEIGHT; ++i) {
            UNROLL
            for (uint32_t j = 0; j < T::WIDTH; ++j) {
                sums[i][j] = multiply_add(a[i / 4].lane[i % 4], b[j / 4].lane[j % 4], sums[i][j]);
            }
        }
    }
}

// Adds the product of two operands to the sums. An operand's load(operand) takes a thread's elements of the
// next slice from device memory, and store(operand, to) puts them to shared memory: of term k, element i
// of the tile's rows (columns) to k * LEFT (RIGHT) + i. All threads take part, and `memory` is free again when
// they return.
template <class T, class Left, class Right>
DEVICE void add_product(Left& left, Right& right, uint32_t slices, Shared<float> memory, const Place& place,
                        float (&sums)[T::HEIGHT][T::WIDTH]) {
    constexpr uint32_t OF_RIGHT = SLICE * T::LEFT;
    if (slices == 0) {
        return;
    }
    load(left);
    load(right);
    store(left, memory);
    store(right, memory + OF_RIGHT);
    barrier();
    for (uint32_t slice = 0; slice < slices; ++slice) {
        // The next slice is on its way while this one is multiplied.
        const bool more = slice + 1 < slices;
        if (more) {
            load(left);
            load(right);
        }
        const Shared<float> now = memory + slice % 2 * T::BUFFER;
        multiply<T>(now, now + OF_RIGHT, place, sums);
        if (more) {
            const Shared<float> next = memory + (slice + 1) % 2 * T::BUFFER;
            store(left, next);
            store(right, next + OF_RIGHT);
        }
        barrier();
    }
}

// What follows a sum of products: + bias, + what is added, and the function of that.
struct Ending {
    Buffer<const float> bias;  // where has_bias
    Buffer<const float> added; // as the output, where has_added; may be the output itself
    uint32_t has_bias, has_added;
    Function function;
};

// What is added to an output element, if it is there.
DEVICE float bias_at(const Ending& ending, size_t at, bool there) {
    float bias = 0.0f;
    if (there && ending.has_bias) {
        bias = ending.bias[at];
    }
    return bias;
}

DEVICE float added_at(const Ending& ending, size_t at, bool there) {
    float added = 0.0f;
    if (there && ending.has_added) {
        added = ending.added[at];
    }
    return added;
}

// Whether the function is one of those that take next to nothing.
DEVICE bool is_simple(const Function& function) {
    return function.kind == IDENTITY || function.kind == RELU || function.kind == CLIP;
}

// The function at x. SIMPLE is is_simple(); the code for others is long.
template <bool SIMPLE> DEVICE float end(const Function& function, float x) {
    if (!SIMPLE) {
        return value(function, x);
    }
    if (function.kind == RELU) {
        x = fmaxf(x, 0.0f);
    }
    if (function.kind == CLIP) {
        x = fminf(fmaxf(x, function.alpha), function.beta);
    }
    return x;
}

// Where a thread's column of a tile goes.
struct Out {
    const Ending& ending;
    Buffer<float> y;
    size_t start;  // of row 0, in y
    uint32_t step; // to the next row
    uint32_t rows; // of the tile that are the output's; none of a column that is not
    uint32_t bias; // of row 0, in the bias
    uint32_t bias_step;
};

template <class T> DEVICE uint32_t column_of() { return threadIdx.x % T::COLUMNS; }

// Ends some of the sums, which are in shared memory from row `first` on, and puts them out.
template <class T, bool SIMPLE> DEVICE void put_part(const Out& out, uint32_t first, Shared<const float> sums) {
    // Rows that a thread has on their way at once, and from one of them to the next.
    constexpr uint32_t ROWS = SIMPLE ? 4 : 1, STEP = T::THREADS / T::COLUMNS;
    const Ending& ending = out.ending;
    const Global<float> y = out.y;
    const size_t hop = size_t(STEP) * out.step;
    const uint32_t start = threadIdx.x / T::COLUMNS;
    size_t at = out.start + size_t(first + start) * out.step;
    for (uint32_t row = start; row < T::DOWN_STEP; row += ROWS * STEP) {
        float values[ROWS], biases[ROWS], added[ROWS];
        UNROLL
        for (uint32_t k = 0; k < ROWS; ++k) {
            const uint32_t in_part = row + k * STEP, in_tile = first + in_part;
            values[k] = sums[in_part * T::COLUMNS + column_of<T>()];
            biases[k] = bias_at(ending, out.bias + in_tile * out.bias_step, in_tile < out.rows);
            added[k] = added_at(ending, at + k * hop, in_tile < out.rows);
        }
        UNROLL
        for (uint32_t k = 0; k < ROWS; ++k) {
            values[k] = end<SIMPLE>(ending.function, values[k] + biases[k] + added[k]);
        }
        UNROLL
        for (uint32_t k = 0; k < ROWS; ++k) {
            if (first + row + k * STEP < out.rows) {
                y[at + k * hop] = values[k];
            }
        }
        at += ROWS * hop;
    }
}

// Puts the sums out by way of shared memory, a thread those of a column: neighbors in a row go to neighboring
// threads, so that they are neighbors in memory too.
template <class T>
DEVICE void put_sums(const Out& out, Shared<float> memory, const Place& place,
                     const float (&sums)[T::HEIGHT][T::WIDTH]) {
    for (uint32_t part = 0; part < T::DOWN; ++part) {
        UNROLL
        for (uint32_t i = 0; i < T::HEIGHT; ++i) {
            if (i / 4 == part) {
                UNROLL
                for (uint32_t q = 0; q < T::ACROSS; ++q) {
                    const float* sum = &sums[i][q * 4];
                    const Float4 quad = {sum[0], sum[1], sum[2], sum[3]};
                    write4(memory + ((place.row + i % 4) * T::COLUMNS + place.column + q * T::ACROSS_STEP), quad);
                }
            }
        }
        barrier();
        if (is_simple(out.ending.function)) {
            put_part<T, true>(out, part * T::DOWN_STEP, memory);
        } else {
            put_part<T, false>(out, part * T::DOWN_STEP, memory);
        }
        barrier();
    }
}
