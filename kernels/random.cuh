// Counter-based random numbers, as src/random.rs has them: Philox 4x32-10 (Salmon et al. 2011).
#pragma once

#include "device.cuh"

// What numbers are for: Purpose's number.
constexpr uint32_t JITTER = 2;
constexpr uint32_t VOTE_NOISE = 6;

struct Words {
    uint32_t a, b, c, d;
};

DEVICE Words philox(Words counter, uint32_t key0, uint32_t key1) {
    UNROLL
    for (int round = 0; round < 10; ++round) {
        const uint64_t a = uint64_t(counter.a) * 0xd2511f53;
        const uint64_t b = uint64_t(counter.c) * 0xcd9e8d57;
        counter = {uint32_t(b >> 32) ^ counter.b ^ key0, uint32_t(b), uint32_t(a >> 32) ^ counter.d ^ key1, uint32_t(a)};
        key0 += 0x9e3779b9;
        key1 += 0xbb67ae85;
    }
    return counter;
}

// [0, 1) from the upper 24 bits.
DEVICE float uniform(uint32_t word) { return float(word >> 8) * (1.0f / 16777216.0f); }

// Two standard normals from two words.
DEVICE void box_muller(uint32_t u, uint32_t v, float& first, float& second) {
    // In (0, 1], so that the logarithm is finite.
    const float radius = sqrtf(-2.0f * logf(1.0f - uniform(u)));
    first = radius * cos_turns(uniform(v));
    second = radius * sin_turns(uniform(v));
}
