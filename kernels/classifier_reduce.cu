// What joins the elements of a row: reductions, normalization, softmax; and their gradients. A team of
// threads shares a row.
#include "axes.cuh"
#include "team.cuh"

// Reduction of src/classifier/graph.rs, in its order.
enum Reduction : uint32_t { MEAN, SUM, MAX, L2 };

struct ReduceArgs {
    Buffer<const float> x;
    Buffer<float> y;
    Axes kept;   // of y, in x
    Axes joined; // of a row, in x
    uint32_t rows, length;
    uint32_t kind;
    uint32_t team;
};
ARGUMENTS(ReduceArgs, x, y, kept, joined, rows, length, kind, team)

KERNEL(classifier_reduce, ReduceArgs, 1024) {
    SharedMemory memory;
    const Shared<float> partial = memory.take<float>(2 * blockDim.x / WARP);
    const Team team = team_of(args.team);
    if (team.number >= args.rows) {
        return;
    }
    const Global<const float> x = args.x + place(args.kept, team.number);
    const Global<float> y = args.y;
    float joined = args.kind == MAX ? -INFINITY : 0.0f;
    for (uint32_t i = team.lane; i < args.length; i += team.size) {
        const float value = x[place(args.joined, i)];
        joined = args.kind == MAX  ? fmaxf(joined, value)
                 : args.kind == L2 ? multiply_add(value, value, joined)
                                   : joined + value;
    }
    joined = args.kind == MAX ? team_max(team, joined, partial) : team_sum(team, joined, partial);
    if (team.lane == 0) {
        y[team.number] = args.kind == MEAN ? joined / float(args.length) : args.kind == L2 ? sqrtf(joined) : joined;
    }
}

struct ReduceSharesArgs {
    Buffer<const float> x, y;
    Buffer<const float> gradient; // by y
    Buffer<float> shares;
    Axes kept, joined;
    uint32_t rows, length;
    uint32_t team;
};
ARGUMENTS(ReduceSharesArgs, x, y, gradient, shares, kept, joined, rows, length, team)

// What each of a row's maxima gets of its gradient: equal ones share it.
KERNEL(classifier_reduce_shares, ReduceSharesArgs, 1024) {
    SharedMemory memory;
    const Shared<float> partial = memory.take<float>(2 * blockDim.x / WARP);
    const Team team = team_of(args.team);
    if (team.number >= args.rows) {
        return;
    }
    const Global<const float> x = args.x + place(args.kept, team.number);
    const float largest = args.y[team.number];
    float maxima = 0.0f;
    for (uint32_t i = team.lane; i < args.length; i += team.size) {
        maxima += x[place(args.joined, i)] == largest ? 1.0f : 0.0f;
    }
    maxima = team_sum(team, maxima, partial);
    if (team.lane == 0) {
        const Global<float> shares = args.shares;
        shares[team.number] = args.gradient[team.number] / maxima;
    }
}

struct ReduceBackwardArgs {
    Buffer<const float> x, y;     // of a maximum and a norm
    Buffer<const float> gradient; // by y; of a maximum its shares
    Buffer<float> to;             // the gradient by x
    Axes axes;                    // of x, in y
    uint32_t elements;
    uint32_t kind;
    float length; // of a row
    uint32_t accumulate;
};
ARGUMENTS(ReduceBackwardArgs, x, y, gradient, to, axes, elements, kind, length, accumulate)

// A thread to an element of x.
KERNEL(classifier_reduce_backward, ReduceBackwardArgs, 256) {
    const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= args.elements) {
        return;
    }
    const uint32_t row = place(args.axes, i);
    float by = args.gradient[row];
    if (args.kind == MEAN) {
        by = by / args.length;
    } else if (args.kind == MAX) {
        by = args.x[i] == args.y[row] ? by : 0.0f;
    } else if (args.kind == L2) {
        const float norm = args.y[row];
        by = norm > 0.0f ? by * (args.x[i] / norm) : 0.0f;
    }
    const Global<float> to = args.to;
    to[i] = args.accumulate ? to[i] + by : by;
}

// Rows in a tensor [outer, length, inner]: row outer * inner + i starts at [outer, 0, i].
struct Rows {
    uint32_t count, length;
    Divisor inner;
    uint32_t team;
};

DEVICE uint32_t start(const Rows& rows, uint32_t row) {
    const uint32_t outer = divide(row, rows.inner);
    return outer * rows.length * rows.inner.number + (row - outer * rows.inner.number);
}

struct NormalizeArgs {
    Buffer<const float> x;
    Buffer<float> y;
    Rows rows;
    float epsilon;
};
ARGUMENTS(NormalizeArgs, x, y, rows, epsilon)

// A row's mean and the reciprocal of its deviation.
struct Standard {
    float mean, scale;
};

// Two passes: the difference of the mean square and the squared mean would cancel.
DEVICE Standard statistics(const Rows& rows, const Team& team, Global<const float> x, float epsilon,
                           Shared<float> partial) {
    const uint32_t step = rows.inner.number;
    float sum = 0.0f;
    for (uint32_t i = team.lane; i < rows.length; i += team.size) {
        sum += x[i * step];
    }
    const float mean = team_sum(team, sum, partial) / float(rows.length);
    float squares = 0.0f;
    for (uint32_t i = team.lane; i < rows.length; i += team.size) {
        const float distance = x[i * step] - mean;
        squares = multiply_add(distance, distance, squares);
    }
    const float variance = team_sum(team, squares, partial) / float(rows.length);
    return {mean, 1.0f / sqrtf(variance + epsilon)};
}

KERNEL(classifier_normalize, NormalizeArgs, 1024) {
    SharedMemory memory;
    const Shared<float> partial = memory.take<float>(2 * blockDim.x / WARP);
    const Team team = team_of(args.rows.team);
    if (team.number >= args.rows.count) {
        return;
    }
    const uint32_t first = start(args.rows, team.number), step = args.rows.inner.number;
    const Global<const float> x = args.x + first;
    const Global<float> y = args.y + first;
    const Standard standard = statistics(args.rows, team, x, args.epsilon, partial);
    for (uint32_t i = team.lane; i < args.rows.length; i += team.size) {
        y[i * step] = (x[i * step] - standard.mean) * standard.scale;
    }
}

struct NormalizeBackwardArgs {
    Buffer<const float> x;
    Buffer<const float> gradient; // by y
    Buffer<float> to;             // the gradient by x
    Rows rows;
    float epsilon;
    uint32_t accumulate;
};
ARGUMENTS(NormalizeBackwardArgs, x, gradient, to, rows, epsilon, accumulate)

// (g - mean(g) - y * mean(g * y)) * scale
KERNEL(classifier_normalize_backward, NormalizeBackwardArgs, 1024) {
    SharedMemory memory;
    const Shared<float> partial = memory.take<float>(2 * blockDim.x / WARP);
    const Team team = team_of(args.rows.team);
    if (team.number >= args.rows.count) {
        return;
    }
    const uint32_t first = start(args.rows, team.number), step = args.rows.inner.number;
    const Global<const float> x = args.x + first, gradient = args.gradient + first;
    const Global<float> to = args.to + first;
    const Standard standard = statistics(args.rows, team, x, args.epsilon, partial);
    float sums[2] = {0.0f, 0.0f}; // of the gradient, and of its product with y
    for (uint32_t i = team.lane; i < args.rows.length; i += team.size) {
        const float y = (x[i * step] - standard.mean) * standard.scale;
        const float g = gradient[i * step];
        sums[0] += g;
        sums[1] = multiply_add(g, y, sums[1]);
    }
    team_sum(team, sums, partial);
    const float level = sums[0] / float(args.rows.length), coefficient = sums[1] / float(args.rows.length);
    for (uint32_t i = team.lane; i < args.rows.length; i += team.size) {
        const float y = (x[i * step] - standard.mean) * standard.scale;
        const float by = multiply_add(-y, coefficient, gradient[i * step] - level) * standard.scale;
        to[i * step] = args.accumulate ? to[i * step] + by : by;
    }
}

struct SoftmaxArgs {
    Buffer<const float> x;
    Buffer<float> y;
    Rows rows;
    uint32_t logarithm;
};
ARGUMENTS(SoftmaxArgs, x, y, rows, logarithm)

KERNEL(classifier_softmax, SoftmaxArgs, 1024) {
    SharedMemory memory;
    const Shared<float> partial = memory.take<float>(2 * blockDim.x / WARP);
    const Team team = team_of(args.rows.team);
    if (team.number >= args.rows.count) {
        return;
    }
    const uint32_t first = start(args.rows, team.number), step = args.rows.inner.number;
    const Global<const float> x = args.x + first;
    const Global<float> y = args.y + first;
    float largest = -INFINITY;
    for (uint32_t i = team.lane; i < args.rows.length; i += team.size) {
        largest = fmaxf(largest, x[i * step]);
    }
    largest = team_max(team, largest, partial);
    float sum = 0.0f;
    for (uint32_t i = team.lane; i < args.rows.length; i += team.size) {
        sum += expf(x[i * step] - largest);
    }
    sum = team_sum(team, sum, partial);
    const float shift = args.logarithm ? logf(sum) : 0.0f, scale = 1.0f / sum;
    for (uint32_t i = team.lane; i < args.rows.length; i += team.size) {
        const float below = x[i * step] - largest;
        y[i * step] = args.logarithm ? below - shift : expf(below) * scale;
    }
}

struct SoftmaxBackwardArgs {
    Buffer<const float> y;
    Buffer<const float> gradient; // by y
    Buffer<float> to;             // the gradient by x
    Rows rows;
    uint32_t logarithm;
    uint32_t accumulate;
};
ARGUMENTS(SoftmaxBackwardArgs, y, gradient, to, rows, logarithm, accumulate)

// y * (g - sum(y * g)), and of the logarithm g - exp(y) * sum(g).
KERNEL(classifier_softmax_backward, SoftmaxBackwardArgs, 1024) {
    SharedMemory memory;
    const Shared<float> partial = memory.take<float>(2 * blockDim.x / WARP);
    const Team team = team_of(args.rows.team);
    if (team.number >= args.rows.count) {
        return;
    }
    const uint32_t first = start(args.rows, team.number), step = args.rows.inner.number;
    const Global<const float> y = args.y + first, gradient = args.gradient + first;
    const Global<float> to = args.to + first;
    float sum = 0.0f;
    for (uint32_t i = team.lane; i < args.rows.length; i += team.size) {
        const float g = gradient[i * step];
        sum = args.logarithm ? sum + g : multiply_add(y[i * step], g, sum);
    }
    sum = team_sum(team, sum, partial);
    for (uint32_t i = team.lane; i < args.rows.length; i += team.size) {
        const float value = y[i * step], g = gradient[i * step];
        const float by = args.logarithm ? multiply_add(-expf(value), sum, g) : value * (g - sum);
        to[i * step] = args.accumulate ? to[i * step] + by : by;
    }
}
