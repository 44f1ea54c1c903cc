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
// is one read). Exchanges between lanes come to some 3,000 more, and all instructions to an estimated 100,000
// of a warp: 21,000 cycles of shared memory and 25,000 of issue on a multiprocessor of compute capability 9.0,
// which at 132 of them and 1.755 GHz has 46,000 for each of 5 million iterations a second.
#include "random.cuh"
#include "resident_conv.cuh"
#include "resident_norm.cuh"

ARGUMENTS(Map, at, pitch, plane)
ARGUMENTS(Step, op, inputs, outputs, height, width, per_row, per_plane, stride, rows, parts, crew, x, y, d, weight,
          via, norm, slope, margin, packed, keeps)
ARGUMENTS(ResidentArgs, slots, iterations, keys, values, gradients, first, second, target, picture, errors, rounds,
          floats, parameters, input, trained, elements, error_sums, gradients_at, input_gradient_at, moments_at,
          target_at, partials_at, bilinear, reflect, sigma, keep, norm_epsilon, learning_rate, epsilon, beta2,
          log_beta1, log_beta2, one_less_beta1, one_less_beta2, step_count, steps)

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
