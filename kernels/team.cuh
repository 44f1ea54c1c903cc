// Threads that work on a row together: one, a warp, or the whole block.
#pragma once

#include "device.cuh"

struct Team {
    uint32_t size;
    uint32_t number; // of all teams of the launch
    uint32_t lane;   // this thread's place in it
};

// This thread's team, of teams of `size`: 1, WARP or blockDim.x.
DEVICE Team team_of(uint32_t size) {
    if (size == 1) {
        return {1, blockIdx.x * blockDim.x + threadIdx.x, 0};
    }
    if (size == WARP) {
        return {WARP, blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP, threadIdx.x % WARP};
    }
    return {size, blockIdx.x, threadIdx.x};
}

// Each value's sum over the team, as block_sum.
template <int COUNT> DEVICE void team_sum(const Team& team, float (&values)[COUNT], Shared<float> partial) {
    if (team.size == WARP) {
        warp_sum(values);
    } else if (team.size > WARP) {
        block_sum(values, partial);
    }
}

DEVICE float team_sum(const Team& team, float value, Shared<float> partial) {
    float values[1] = {value};
    team_sum(team, values, partial);
    return values[0];
}

// The largest value of the team; `partial` as for the sum.
DEVICE float team_max(const Team& team, float value, Shared<float> partial) {
    if (team.size == 1) {
        return value;
    }
    UNROLL
    for (unsigned mask = WARP / 2; mask > 0; mask /= 2) {
        value = fmaxf(value, shuffle_xor(value, mask));
    }
    if (team.size > WARP) {
        if (threadIdx.x % WARP == 0) {
            partial[threadIdx.x / WARP] = value;
        }
        barrier();
        for (unsigned warp = 0; warp < blockDim.x / WARP; ++warp) {
            value = fmaxf(value, partial[warp]);
        }
        barrier();
    }
    return value;
}
