// What the parts of the resident step (resident.cu) share: its steps and arguments, where a step's elements
// are and whose, and how what is kept is seen.
#pragma once

#include "dip_step.cuh"

// What a step does: Op in src/backend/cuda/dip/resident/plan/step.rs.
enum : uint32_t {
    JITTER_INPUT,   // y = x with noise
    STAGE,          // y = x, normalized and activated, in its margin; and the weight behind it packed
    CONVOLVE,       // y = weight * x + bias, 3x3
    CONVOLVE_PIXEL, // the same, 1x1, of the normalized and activated x
    STATISTICS,     // the record of x
    UPSAMPLE,       // y = x, twice as large
    LOSS,           // x: the output, then the loss's derivative by it
    WEIGHTS,        // the derivative by the weight of CONVOLVE; d is the one by its y
    WEIGHTS_PIXEL,  // those by the weight and bias of CONVOLVE_PIXEL
    SPREAD,         // y = the derivative by CONVOLVE's x, where its y has d
    SPREAD_TWO,     // the same at stride 2
    MIRROR,         // adds to it what came through a reflection
    SPREAD_PIXEL,   // adds to y the derivative by CONVOLVE_PIXEL's normalized and activated x
    NORMALIZED,     // y = the derivative by x, where d is the one by the normalized and activated x
    UPSAMPLED,      // y = the derivative by UPSAMPLE's x, where its y has d
    ADAM,           // moves parameters, or the input
};

// A feature map in the block's memory: where the first channel's first pixel is, and the distances of
// rows and of channels.
struct Map {
    uint32_t at, pitch, plane;
};

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
    uint32_t weight; // of the convolution or normalization; its bias follows
    uint32_t via;    // of NORMALIZED: the weight of the 1x1 convolution that stands between it and d, or NOWHERE
    uint32_t norm;   // x's records, or NOWHERE where x is read as it is
    float slope;
    uint32_t margin; // whether y has one
    uint32_t packed; // a 3x3 convolution's weight, PACKED numbers for each pair of channels, or NOWHERE
    uint32_t keeps;  // of NORMALIZED: whether y may be written while x is still read
};

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
    uint32_t trained;    // parameters, and the input where it is optimized
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
    AdamRates rates;
    uint32_t step_count;
    Step steps[MAX_STEPS];
};

using Memory = Shared<float>;

// What is known of a normalized channel, RECORD numbers each. The backward pass replaces the last three
// by the line that its derivative has beside its part that is proportional to the one by the output.
constexpr uint32_t RECORD = 8;
constexpr uint32_t MEAN = 0, FACTOR = 1, BIAS = 2, SCALE = 3;
constexpr uint32_t RESIDUAL = 4, PRECISION = 5, PRECISION_LOW = 6;
constexpr uint32_t COEFFICIENT = 4, COEFFICIENT_LOW = 5, LEVEL = 6;

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
DEVICE float normalize(const Affine& affine, float x) {
    return multiply_add(x - affine.mean, affine.factor, affine.bias);
}

DEVICE float activate(float x, float slope) { return x > 0.0f ? x : slope * x; }

// Element `at` of a channel of x as the layer behind it sees it.
DEVICE float seen(const Memory& memory, const Step& step, const Affine& norm, uint32_t at) {
    const float value = memory[at];
    return step.norm == NOWHERE ? value : activate(normalize(norm, value), step.slope);
}

DEVICE Affine norm_of(const Memory& memory, const Step& step, uint32_t channel) {
    return step.norm == NOWHERE ? Affine{0.0f, 1.0f, 0.0f} : affine(memory, step.norm, channel);
}
