// Numbers of twice float's digits, as unevaluated sums of two floats: what sums over a channel need,
// without double precision, of which consumer chips have little (Dekker 1971; Knuth, TAOCP 4.2.2).
#pragma once

#include "device.cuh"

struct Pair {
    float high, low;
};

// a + b, exactly.
DEVICE Pair exact_sum(float a, float b) {
    const float sum = a + b, of_b = sum - a;
    return {sum, (a - (sum - of_b)) + (b - of_b)};
}

// a * b, exactly.
DEVICE Pair exact_product(float a, float b) {
    const float product = a * b;
    return {product, multiply_add(a, b, -product)};
}

DEVICE Pair operator+(const Pair& a, const Pair& b) {
    const Pair sum = exact_sum(a.high, b.high);
    return exact_sum(sum.high, sum.low + (a.low + b.low));
}

DEVICE Pair operator-(const Pair& a) { return {-a.high, -a.low}; }

DEVICE Pair operator*(const Pair& a, const Pair& b) {
    const Pair product = exact_product(a.high, b.high);
    const float rest = multiply_add(a.high, b.low, multiply_add(a.low, b.high, product.low));
    return exact_sum(product.high, rest);
}

DEVICE Pair operator/(const Pair& a, const Pair& b) {
    const float quotient = a.high / b.high;
    const float short_of = multiply_add(-quotient, b.high, a.high) + multiply_add(-quotient, b.low, a.low);
    return exact_sum(quotient, short_of / b.high);
}

// Sums of many numbers and of their products.
DEVICE void add(Pair& sum, float value) {
    const Pair next = exact_sum(sum.high, value);
    sum = {next.high, sum.low + next.low};
}
DEVICE void add_product(Pair& sum, float a, float b) {
    const Pair product = exact_product(a, b), next = exact_sum(sum.high, product.high);
    sum = {next.high, sum.low + (next.low + product.low)};
}
