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
// normalized, activated, and set into a margin of its padding, so that its loops have no edges; staged
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
#include "dip_step.cuh"
#include "resident_conv.cuh"
#include "resident_norm.cuh"

ARGUMENTS(Map, at, pitch, plane)
ARGUMENTS(Step, op, inputs, outputs, height, width, per_row, per_plane, stride, rows, parts, crew, x, y, d, weight,
          via, norm, slope, margin, packed, keeps)
ARGUMENTS(ResidentArgs, slots, iterations, keys, values, gradients, first, second, target, picture, errors, rounds,
          floats, parameters, input, trained, elements, error_sums, gradients_at, input_gradient_at, moments_at,
          target_at, partials_at, bilinear, reflect, sigma, keep, norm_epsilon, rates, step_count, steps)

// A thread to four elements.
DEVICE void jitter_input(const ResidentArgs& args, const Step& step, const Memory& memory, uint32_t slot,
                         uint32_t iteration) {
    const Global<const uint32_t> keys = args.keys + 3 * slot;
    for (uint32_t block = threadIdx.x; 4 * block < args.input; block += blockDim.x) {
        float normals[4];
        jitter_normals(keys, iteration, block, normals);
        UNROLL
        for (uint32_t k = 0; k < 4; ++k) {
            const uint32_t i = 4 * block + k;
            if (i < args.input) {
                memory[step.y.at + i] = multiply_add(args.sigma, normals[k], memory[step.x.at + i]);
            }
        }
    }
}

// The picture leaves the chip with the last iteration, or for the average.
DEVICE void add_loss(const ResidentArgs& args, const Step& step, const Memory& memory, uint32_t slot, bool first,
                 bool last) {
    const Global<const float> outside = of_slot(args.target, slot);
    const Global<float> picture = of_slot(args.picture, slot);
    float square = 0.0f;
    for (uint32_t i = threadIdx.x; i < args.elements; i += blockDim.x) {
        const float target = args.target_at == NOWHERE ? outside[i] : memory[args.target_at + i];
        const Loss loss = loss_at(memory[step.x.at + i], target, args.elements);
        square = multiply_add(loss.error, loss.error, square);
        memory[step.x.at + i] = loss.derivative;
        if (args.keep != 0.0f || last) {
            average(picture, i, loss.pixel, args.keep, first);
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

// `inputs` numbers from `weight` on.
DEVICE void move_by_adam(const ResidentArgs& args, const Step& step, const Memory& memory, uint32_t slot, uint32_t iteration) {
    const Global<float> first_outside = of_slot(args.first, slot) + step.weight;
    const Global<float> second_outside = of_slot(args.second, slot) + step.weight;
    const bool outside = args.moments_at == NOWHERE;
    const Memory first = memory + (outside ? 0 : args.moments_at + step.weight);
    const Memory second = first + (outside ? 0 : args.trained);
    const Adam adam = adam_of(args.rates, iteration);
    for (uint32_t i = threadIdx.x; i < step.inputs; i += blockDim.x) {
        float m = outside ? float(first_outside[i]) : float(first[i]);
        float v = outside ? float(second_outside[i]) : float(second[i]);
        const float taken = adam_step(args.rates, adam, memory[step.d.at + i], m, v);
        if (outside) {
            first_outside[i] = m;
            second_outside[i] = v;
        } else {
            first[i] = m;
            second[i] = v;
        }
        memory[step.y.at + i] = memory[step.y.at + i] - taken;
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
            case LOSS: add_loss(args, args.steps[unknown(s)], memory, slot, iteration == 0, round + 1 == args.rounds); break;
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
            case NORMALIZED: normalized(args, args.steps[unknown(s)], memory); break;
            case UPSAMPLED: upsampled(args, args.steps[unknown(s)], memory); break;
            default: move_by_adam(args, args.steps[unknown(s)], memory, slot, iteration);
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
