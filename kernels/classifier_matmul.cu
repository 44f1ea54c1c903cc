// Matrix products of a classifier: linear layers, products of computed matrices, and their gradients.
#include "product.cuh"

// Where the two matrices of a product start in their operands' elements of one image.
struct Pair {
    uint32_t left, right;
};
ARGUMENTS(Pair, left, right)

// An operand in memory. One of the steps is 1; 16 times the other is a uint32_t.
struct Matrix {
    Buffer<const float> data;
    uint64_t image;     // between images
    uint32_t step;      // between rows of the left operand, columns of the right
    uint32_t term_step; // between the terms of a sum
};
ARGUMENTS(Matrix, data, image, step, term_step)

// Of each image `matrices` matrices of rows x columns, one after another: each the sum of products of
// `products` pairs.
struct MatMulArgs {
    Matrix left, right;
    Buffer<const Pair> pairs;
    Buffer<float> y;
    Ending ending; // bias by column
    uint32_t rows, columns, terms;
    uint32_t matrices, products;
};
ARGUMENTS(MatMulArgs, left, right, pairs, y, ending, rows, columns, terms, matrices, products)

// LENGTH rows (columns) of the left (right) operand, LINE apart in shared memory. Neighboring threads take
// what is neighbors in memory.
template <class T, uint32_t LENGTH, uint32_t LINE> struct Operand {
    static constexpr uint32_t HELD = SLICE * LENGTH / T::THREADS;
    Global<const float> next;  // the thread's first element of the next slice
    uint32_t inside;           // a bit for each of its elements: whether its row (column) is the matrix's
    uint32_t left;             // terms from that of its first element on
    uint32_t step, slice_step; // in memory, from one element or slice to the next
    uint32_t to;               // of its first element, in shared memory
    bool by_term;
    float held[HELD];
};

template <class T, uint32_t LENGTH, uint32_t LINE>
DEVICE Operand<T, LENGTH, LINE> operand(const Matrix& matrix, size_t start, uint32_t first, uint32_t length,
                                        uint32_t terms) {
    const bool by_term = matrix.term_step == 1;
    const uint32_t at = by_term ? threadIdx.x / SLICE : threadIdx.x % LENGTH;
    const uint32_t term = by_term ? threadIdx.x % SLICE : threadIdx.x / LENGTH;
    const uint32_t at_step = by_term ? T::THREADS / SLICE : 0, term_step = by_term ? 0 : T::THREADS / LENGTH;
    uint32_t inside = 0;
    UNROLL
    for (uint32_t h = 0; h < Operand<T, LENGTH, LINE>::HELD; ++h) {
        inside |= uint32_t(first + at + h * at_step < length) << h;
    }
    return {matrix.data + (start + size_t(first + at) * matrix.step + size_t(term) * matrix.term_step),
            inside,
            terms - min(terms, term),
            at_step * matrix.step + term_step * matrix.term_step,
            SLICE * matrix.term_step,
            term * LINE + at,
            by_term,
            {}};
}

template <class T, uint32_t LENGTH, uint32_t LINE> DEVICE void load(Operand<T, LENGTH, LINE>& operand) {
    const uint32_t term_step = operand.by_term ? 0 : T::THREADS / LENGTH;
    Global<const float> element = operand.next;
    UNROLL
    for (uint32_t h = 0; h < Operand<T, LENGTH, LINE>::HELD; ++h) {
        operand.held[h] = 0.0f;
        if ((operand.inside >> h & 1) && h * term_step < operand.left) {
            operand.held[h] = element[0];
        }
        element = element + operand.step;
    }
    operand.next = operand.next + operand.slice_step;
    operand.left -= min(operand.left, SLICE);
}

template <class T, uint32_t LENGTH, uint32_t LINE>
DEVICE void store(const Operand<T, LENGTH, LINE>& operand, Shared<float> to) {
    const uint32_t to_step = operand.by_term ? T::THREADS / SLICE : T::THREADS / LENGTH * LINE;
    UNROLL
    for (uint32_t h = 0; h < Operand<T, LENGTH, LINE>::HELD; ++h) {
        to[operand.to + h * to_step] = operand.held[h];
    }
}

template <class T> DEVICE void matmul(const MatMulArgs& args) {
    const uint32_t down = (args.rows + T::ROWS - 1) / T::ROWS, across = (args.columns + T::COLUMNS - 1) / T::COLUMNS;
    const uint32_t first_row = blockIdx.x % down * T::ROWS;
    const uint32_t first_column = blockIdx.x / down % across * T::COLUMNS;
    const uint32_t matrix = blockIdx.x / down / across;
    SharedMemory shared;
    const Shared<float> memory = shared.take<float>(T::MEMORY);
    float sums[T::HEIGHT][T::WIDTH] = {};
    for (uint32_t product = 0; product < args.products; ++product) {
        const Pair pair = args.pairs[size_t(matrix % args.matrices) * args.products + product];
        const size_t image = matrix / args.matrices;
        const size_t left_start = image * args.left.image + pair.left;
        const size_t right_start = image * args.right.image + pair.right;
        Operand<T, T::ROWS, T::LEFT> left =
            operand<T, T::ROWS, T::LEFT>(args.left, left_start, first_row, args.rows, args.terms);
        Operand<T, T::COLUMNS, T::RIGHT> right =
            operand<T, T::COLUMNS, T::RIGHT>(args.right, right_start, first_column, args.columns, args.terms);
        add_product<T>(left, right, (args.terms + SLICE - 1) / SLICE, memory, place<T>(), sums);
    }
    const uint32_t column = first_column + column_of<T>();
    const size_t start = (size_t(matrix) * args.rows + first_row) * args.columns + column;
    const uint32_t rows = column < args.columns ? args.rows - first_row : 0;
    put_sums<T>(Out{args.ending, args.y, start, args.columns, rows, column, 0}, memory, place<T>(), sums);
}

KERNEL(classifier_matmul_large, MatMulArgs, 128, 3) { matmul<Large>(args); }
KERNEL(classifier_matmul_flat, MatMulArgs, 128, 3) { matmul<Flat>(args); }
KERNEL(classifier_matmul_small, MatMulArgs, 64, 8) { matmul<Small>(args); }
