// What an iteration of a DIP network has beside its layers, number by number: for the launches of
// dip_step.cu and for the resident step (resident.cu) alike.
#pragma once

#include "dip.cuh"
#include "random.cuh"

// The noise of an input's elements from 4 * block on: standard normals, as RandomKey::normals (src/random.rs)
// draws them. `keys` are the instance's three words: Philox's key, and the tile.
DEVICE void jitter_normals(Global<const uint32_t> keys, uint32_t iteration, uint32_t block, float (&normals)[4]) {
    Words words{block, JITTER << 28 | (iteration & 0x0fffffff), keys[2], 0};
    words = philox(words, keys[0], keys[1]);
    box_muller(words.a, words.b, normals[0], normals[1]);
    box_muller(words.c, words.d, normals[2], normals[3]);
}

// The loss at one of the network's outputs.
struct Loss {
    float pixel;      // sigmoid(x)
    float error;      // of the pixel
    float derivative; // of the mean squared error by x
};

DEVICE Loss loss_at(float x, float target, uint32_t elements) {
    const float g = 1.0f / (1.0f + expf(-x));
    const float error = g - target;
    return {g, error, 2.0f / float(elements) * error * g * (1.0f - g)};
}

// Writes a pixel to the picture, or the average of those so far, of which `keep` stays; 0 for no average.
DEVICE void average(Global<float> picture, uint32_t i, float pixel, float keep, bool first) {
    picture[i] = keep == 0.0f || first ? pixel : multiply_add(keep, picture[i], (1.0f - keep) * pixel);
}

struct AdamRates {
    float learning_rate, epsilon;
    float beta2, log_beta1, log_beta2;
    float one_less_beta1, one_less_beta2; // with all their digits
};

// An iteration of Adam; Kingma and Ba 2015, as PyTorch has it.
struct Adam {
    float rate, correction2;
};

DEVICE Adam adam_of(const AdamRates& rates, uint32_t iteration) {
    // 1 - beta^t, which must not cancel while t is small.
    const float t = float(iteration + 1);
    const float correction1 = -expm1f(t * rates.log_beta1);
    const float correction2 = -expm1f(t * rates.log_beta2);
    return {rates.learning_rate / correction1, correction2};
}

// What to take from a value of gradient g, whose moments m and v take the gradient in.
DEVICE float adam_step(const AdamRates& rates, const Adam& adam, float g, float& m, float& v) {
    m = multiply_add(rates.one_less_beta1, g - m, m);
    v = multiply_add(rates.beta2, v, rates.one_less_beta2 * g * g);
    const float denominator = sqrtf(v / adam.correction2) + rates.epsilon;
    return adam.rate * m / denominator;
}
