// Elementwise operations of the classifier, and their derivatives.
//
// Consecutive ones are a chain, and one launch: a thread computes its element of the chain's output
// from the head's element on, link by link. The head and the links' operands broadcast to the output's
// shape. Gradients follow the chain again with a derivative beside the value (forward mode: the chain is
// a function of one number), so that nothing between head and output is kept for them.
//
// Elements are counted over all images of the batch, and are fewer than 2^31.
#include "axes.cuh"
#include "function.cuh"
#include "team.cuh"

ARGUMENTS(Function, kind, alpha, beta)

constexpr unsigned LINKS = 8;

enum LinkKind : uint32_t {
    MAP,         // the function alone
    SCALE_SHIFT, // times the first operand, plus the second
    ADD,         // Binary of src/classifier/graph.rs, in its order, with the first operand
    SUB,
    MUL,
    DIV,
    POW,
    MIN,
    MAX,
};

struct ChainLink {
    uint32_t kind;
    uint32_t right;    // whether the chain's value is the binary's right side
    Function function; // of what the kind gives
    uint32_t known;    // whether the operands may be read
    Buffer<const float> first, second;
    Axes axes;
};
ARGUMENTS(ChainLink, kind, right, function, known, first, second, axes)

struct Chain {
    Buffer<const float> head;
    uint32_t known; // whether the head may be read
    uint32_t count;
    Axes axes;
    ChainLink links[LINKS];
};
ARGUMENTS(Chain, head, known, count, axes, links)

DEVICE float power(float a, float b) { return b == 2.0f ? a * a : powf(a, b); }

DEVICE float binary(uint32_t kind, float a, float b) {
    switch (kind) {
    case ADD: return a + b;
    case SUB: return a - b;
    case MUL: return a * b;
    case DIV: return a / b;
    case POW: return power(a, b);
    case MIN: return fminf(a, b);
    default: return fmaxf(a, b);
    }
}

// The derivative by the left or the right side. Equal sides of a minimum or maximum share its gradient;
// a power's by its exponent is 0 where the base is not positive.
DEVICE float binary_derivative(uint32_t kind, bool left, float a, float b) {
    switch (kind) {
    case ADD: return 1.0f;
    case SUB: return left ? 1.0f : -1.0f;
    case MUL: return left ? b : a;
    case DIV: return left ? 1.0f / b : -a / (b * b);
    case POW:
        if (left) {
            return b == 0.0f ? 0.0f : b == 2.0f ? 2.0f * a : b * powf(a, b - 1.0f);
        }
        return a > 0.0f ? power(a, b) * logf(a) : 0.0f;
    case MIN: return a == b ? 0.5f : (a < b) == left ? 1.0f : 0.0f;
    default: return a == b ? 0.5f : (a > b) == left ? 1.0f : 0.0f;
    }
}

DEVICE float read(const Buffer<const float>& data, uint32_t known, const Axes& axes, uint32_t i) {
    return known ? data[place(axes, i)] : 0.0f;
}

// The derivative of output element i by operand `by`: the head's is 0, the operand of link k is k + 1.
DEVICE float slope(const Chain& chain, uint32_t by, uint32_t i) {
    float x = read(chain.head, chain.known, chain.axes, i), slope = 1.0f;
    for (uint32_t k = 0; k < chain.count; ++k) {
        const ChainLink& link = chain.links[k];
        if (link.kind == SCALE_SHIFT) {
            const uint32_t at = place(link.axes, i);
            const float scale = link.first[at];
            slope *= scale;
            x = multiply_add(x, scale, link.second[at]);
        } else if (link.kind != MAP) {
            const float operand = read(link.first, link.known, link.axes, i);
            const float a = link.right ? operand : x, b = link.right ? x : operand;
            // The side that depends on the operand, or on what comes before it.
            const bool left = (link.right != 0) == (by == k + 1);
            slope *= binary_derivative(link.kind, left, a, b);
            x = binary(link.kind, a, b);
        }
        slope *= derivative(link.function, x);
        x = value(link.function, x);
        if (k + 1 < by) {
            slope = 1.0f; // no link so far depends on the operand
        }
    }
    return slope;
}

struct ChainArgs {
    Chain chain;
    Buffer<float> output;
    uint32_t elements;
};
ARGUMENTS(ChainArgs, chain, output, elements)

// A thread to an element.
KERNEL(classifier_chain, ChainArgs, 256) {
    const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= args.elements) {
        return;
    }
    const Chain& chain = args.chain;
    float x = chain.head[place(chain.axes, i)];
    for (uint32_t k = 0; k < chain.count; ++k) {
        const ChainLink& link = chain.links[k];
        if (link.kind == SCALE_SHIFT) {
            const uint32_t at = place(link.axes, i);
            x = multiply_add(x, link.first[at], link.second[at]);
        } else if (link.kind != MAP) {
            const float operand = link.first[place(link.axes, i)];
            x = link.right ? binary(link.kind, operand, x) : binary(link.kind, x, operand);
        }
        x = value(link.function, x);
    }
    const Global<float> output = args.output;
    output[i] = x;
}

struct ChainSlopeArgs {
    Chain chain;
    uint32_t by;
    Buffer<const float> gradient;
    Buffer<float> to;
    uint32_t accumulate, elements;
};
ARGUMENTS(ChainSlopeArgs, chain, by, gradient, to, accumulate, elements)

// The gradient by an operand that does not broadcast, a thread to an element.
KERNEL(classifier_chain_slope, ChainSlopeArgs, 256) {
    const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= args.elements) {
        return;
    }
    const Global<float> to = args.to;
    const float by = args.gradient[i] * slope(args.chain, args.by, i);
    to[i] = args.accumulate ? to[i] + by : by;
}

struct ChainSumArgs {
    Chain chain;
    uint32_t by;
    Buffer<const float> gradient;
    Buffer<float> to;
    uint32_t accumulate;
    uint32_t elements, terms; // of the operand, and of the output that each goes into
    Axes kept, summed;        // where the first of them is, and how far the others are from it
    uint32_t team;
};
ARGUMENTS(ChainSumArgs, chain, by, gradient, to, accumulate, elements, terms, kept, summed, team)

// The gradient by an operand that broadcasts, a team to an element.
KERNEL(classifier_chain_sum, ChainSumArgs, 1024) {
    SharedMemory memory;
    const Shared<float> partial = memory.take<float>(2 * blockDim.x / WARP);
    const Team team = team_of(args.team);
    if (team.number >= args.elements) {
        return;
    }
    const uint32_t first = place(args.kept, team.number);
    float sum = 0.0f;
    for (uint32_t term = team.lane; term < args.terms; term += team.size) {
        const uint32_t i = first + place(args.summed, term);
        sum = multiply_add(args.gradient[i], slope(args.chain, args.by, i), sum);
    }
    sum = team_sum(team, sum, partial);
    if (team.lane == 0) {
        const Global<float> to = args.to;
        to[team.number] = args.accumulate ? to[team.number] + sum : sum;
    }
}

struct ActivationSlopeArgs {
    Function function;
    uint32_t from_value; // whether `known` is the function's value, or its argument
    Buffer<const float> known;
    Buffer<float> gradient;
    uint32_t elements;
};
ARGUMENTS(ActivationSlopeArgs, function, from_value, known, gradient, elements)

// Turns the gradient by an activation's value into the one by its argument, a thread to an element.
KERNEL(classifier_activation_slope, ActivationSlopeArgs, 256) {
    const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= args.elements) {
        return;
    }
    const float known = args.known[i];
    const Global<float> gradient = args.gradient;
    gradient[i] = gradient[i] *
                  (args.from_value ? derivative_from_value(args.function, known) : derivative(args.function, known));
}
