// Operations that only move elements, and their gradients: what is written gathers what it is made of.
#include "axes.cuh"
#include "team.cuh"

// An axis without a list.
constexpr uint32_t NO_LIST = 0xffffffff;

// Element i of `to` is the sum of the elements of `from` that every combination of one term from each
// axis names. An axis of `axes` has one term for each coordinate, a multiple of its stride, or a list:
// `lists[first + c]` to `lists[first + c + 1]` say where in `lists` the terms of coordinate c are.
struct MoveArgs {
    Buffer<const float> from;
    Buffer<float> to;
    Buffer<const uint32_t> lists;
    Axes axes;
    uint32_t first[AXES];
    uint32_t start;    // a term of all elements
    uint32_t elements; // of `to`
    float fill;        // of elements that nothing is moved to
    uint32_t accumulate;
    uint32_t team; // a thread or a warp to an element
};
ARGUMENTS(MoveArgs, from, to, lists, axes, first, start, elements, fill, accumulate, team)

// One of the elements of `from` that an element is made of.
struct Source {
    uint32_t at;
    uint32_t count; // of them all
};

// The `turn`-th of them, if there are so many.
DEVICE Source find_source(const MoveArgs& args, Global<const uint32_t> lists, uint32_t element, uint32_t turn) {
    Source source = {args.start, 1};
    uint32_t index = element;
    for (uint32_t axis = args.axes.count - 1; axis > 0; --axis) {
        const uint32_t ahead = divide(index, args.axes.sizes[axis]);
        const uint32_t coordinate = index - ahead * args.axes.sizes[axis].number;
        index = ahead;
        if (args.first[axis] == NO_LIST) {
            source.at += coordinate * args.axes.strides[axis];
            continue;
        }
        const uint32_t begin = lists[args.first[axis] + coordinate];
        const uint32_t terms = lists[args.first[axis] + coordinate + 1] - begin;
        if (terms == 0) {
            return {0, 0};
        }
        const uint32_t rest = terms == 1 ? turn : turn / terms;
        source.at += lists[begin + turn - rest * terms];
        source.count *= terms;
        turn = rest;
    }
    // The images, whose axis has no list.
    source.at += index * args.axes.strides[0];
    return source;
}

KERNEL(classifier_move, MoveArgs, 256) {
    const Team team = team_of(args.team);
    if (team.number >= args.elements) {
        return;
    }
    const Global<const float> from = args.from;
    const Global<const uint32_t> lists = args.lists;
    const Global<float> to = args.to;
    float sum[1] = {0.0f};
    uint32_t turn = team.lane, count;
    do {
        const Source source = find_source(args, lists, team.number, turn);
        count = source.count;
        if (turn < count) {
            sum[0] += from[source.at];
        }
        turn += team.size;
    } while (turn < count);
    if (team.size == WARP) {
        warp_sum(sum);
    }
    if (team.lane == 0) {
        const float value = count == 0 ? args.fill : sum[0];
        to[team.number] = args.accumulate ? to[team.number] + value : value;
    }
}

struct CopyRowsArgs {
    Buffer<const float> from;
    Buffer<float> to;
    Divisor length;                 // of a row
    Divisor repeat;                 // rows after which `from` starts again
    uint32_t from_stride, to_stride; // between rows
    uint32_t elements;
    uint32_t accumulate;
};
ARGUMENTS(CopyRowsArgs, from, to, length, repeat, from_stride, to_stride, elements, accumulate)

// Rows from one tensor to another, or added to it. A thread to an element.
KERNEL(classifier_copy_rows, CopyRowsArgs, 256) {
    const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= args.elements) {
        return;
    }
    const uint32_t row = divide(i, args.length), column = i - row * args.length.number;
    const uint32_t from_row = row - divide(row, args.repeat) * args.repeat.number;
    const Global<const float> from = args.from;
    const Global<float> to = args.to;
    const float value = from[from_row * args.from_stride + column];
    const uint32_t at = row * args.to_stride + column;
    to[at] = args.accumulate ? to[at] + value : value;
}

// The side of a tile.
constexpr uint32_t TILE = 32;

// Elements whose neighbors lie side by side along one axis of `from` and along another one of `to`: the
// first is `down`, the second `across`. The others come in `outer`, with their strides in `from`; and
// in `to`.
struct TransposeArgs {
    Buffer<const float> from;
    Buffer<float> to;
    Axes outer_from, outer_to;
    Divisor tiles;                   // of each combination of the others
    Divisor tiles_across;            // beside each other, of them
    uint32_t down, across;           // elements
    uint32_t from_stride, to_stride; // of the axis that is not side by side there
    uint32_t start;                  // where the first element is in `from`
    uint32_t accumulate;
};
ARGUMENTS(TransposeArgs, from, to, outer_from, outer_to, tiles, tiles_across, down, across, from_stride, to_stride, start, accumulate)

// A block to a tile, by way of shared memory: both sides go along their neighbors.
KERNEL(classifier_transpose, TransposeArgs, 256) {
    SharedMemory memory;
    // Columns of a tile lie in different banks.
    const Shared<float> tile = memory.take<float>(TILE * (TILE + 1));
    const uint32_t outer = divide(blockIdx.x, args.tiles), which = blockIdx.x - outer * args.tiles.number;
    const uint32_t band = divide(which, args.tiles_across);
    const uint32_t down = band * TILE, across = (which - band * args.tiles_across.number) * TILE;
    const Global<const float> from = args.from + args.start + place(args.outer_from, outer);
    const Global<float> to = args.to + place(args.outer_to, outer);
    const uint32_t lane = threadIdx.x % TILE;
    for (uint32_t line = threadIdx.x / TILE; line < TILE; line += blockDim.x / TILE) {
        if (down + lane < args.down && across + line < args.across) {
            tile[line * (TILE + 1) + lane] = from[(across + line) * args.from_stride + down + lane];
        }
    }
    barrier();
    for (uint32_t line = threadIdx.x / TILE; line < TILE; line += blockDim.x / TILE) {
        if (down + line < args.down && across + lane < args.across) {
            const uint32_t at = (down + line) * args.to_stride + across + lane;
            const float value = tile[lane * (TILE + 1) + line];
            to[at] = args.accumulate ? to[at] + value : value;
        }
    }
}
