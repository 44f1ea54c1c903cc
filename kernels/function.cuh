// Elementwise functions and their derivatives: Function of src/classifier/function.rs, in its order.
#pragma once

#include "device.cuh"

enum FunctionKind : uint32_t {
    IDENTITY,
    RELU,
    LEAKY_RELU,   // alpha
    CLIP,         // to [alpha, beta]
    SIGMOID,
    HARD_SIGMOID, // alpha, beta
    HARD_SWISH,
    SILU,
    GELU,
    GELU_TANH,
    TANH,
    ELU,          // alpha
    SELU,         // alpha, beta: gamma
    SOFTPLUS,
    MISH,
    ERF,
    EXP,
    LOG,
    SQRT,
    RECIPROCAL,
    NEG,
    ABS,
};

struct Function {
    uint32_t kind;
    float alpha, beta;
};

DEVICE float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

DEVICE float softplus(float x) { return fmaxf(x, 0.0f) + log1pf(expf(-fabsf(x))); }

// The normal distribution function; erfc, for 1 + erf would cancel below 0.
DEVICE float normal_cdf(float x) { return 0.5f * erfcf(-0.70710678f * x); }

// What GELU_TANH takes the tanh of: sqrt(2 / pi) * (x + 0.044715 * x^3).
DEVICE float gelu_tanh_inner(float x) { return 0.79788456f * x * multiply_add(0.044715f * x, x, 1.0f); }

// The function at x.
DEVICE float value(const Function& function, float x) {
    const float alpha = function.alpha, beta = function.beta;
    switch (function.kind) {
    case RELU: return fmaxf(x, 0.0f);
    case LEAKY_RELU: return x < 0.0f ? alpha * x : x;
    case CLIP: return fminf(fmaxf(x, alpha), beta);
    case SIGMOID: return sigmoid(x);
    case HARD_SIGMOID: return fminf(fmaxf(multiply_add(alpha, x, beta), 0.0f), 1.0f);
    case HARD_SWISH: return x * fminf(fmaxf(x / 6.0f + 0.5f, 0.0f), 1.0f);
    case SILU: return x * sigmoid(x);
    case GELU: return x * normal_cdf(x);
    case GELU_TANH: return 0.5f * x * (1.0f + tanhf(gelu_tanh_inner(x)));
    case TANH: return tanhf(x);
    case ELU: return x < 0.0f ? alpha * expm1f(x) : x;
    case SELU: return beta * (x < 0.0f ? alpha * expm1f(x) : x);
    case SOFTPLUS: return softplus(x);
    case MISH: return x * tanhf(softplus(x));
    case ERF: return erff(x);
    case EXP: return expf(x);
    case LOG: return logf(x);
    case SQRT: return sqrtf(x);
    case RECIPROCAL: return 1.0f / x;
    case NEG: return -x;
    case ABS: return fabsf(x);
    default: return x;
    }
}

// The derivative at x.
DEVICE float derivative(const Function& function, float x) {
    const float alpha = function.alpha, beta = function.beta;
    switch (function.kind) {
    case RELU: return x > 0.0f ? 1.0f : 0.0f;
    case LEAKY_RELU: return x <= 0.0f ? alpha : 1.0f;
    case CLIP: return x > alpha && x < beta ? 1.0f : 0.0f;
    case SIGMOID: return sigmoid(x) * sigmoid(-x);
    case HARD_SIGMOID: {
        const float y = multiply_add(alpha, x, beta);
        return y > 0.0f && y < 1.0f ? alpha : 0.0f;
    }
    case HARD_SWISH: return x <= -3.0f ? 0.0f : x >= 3.0f ? 1.0f : x / 3.0f + 0.5f;
    case SILU: return sigmoid(x) * multiply_add(x, sigmoid(-x), 1.0f);
    case GELU: return multiply_add(x, 0.39894228f * expf(-0.5f * x * x), normal_cdf(x));
    case GELU_TANH: {
        const float t = tanhf(gelu_tanh_inner(x));
        const float slope = 0.79788456f * multiply_add(3.0f * 0.044715f * x, x, 1.0f);
        return multiply_add(0.5f * x * (1.0f - t * t), slope, 0.5f * (1.0f + t));
    }
    case TANH: {
        const float t = tanhf(x);
        return 1.0f - t * t;
    }
    case ELU: return x <= 0.0f ? alpha * expf(x) : 1.0f;
    case SELU: return beta * (x <= 0.0f ? alpha * expf(x) : 1.0f);
    case SOFTPLUS: return sigmoid(x);
    case MISH: {
        const float t = tanhf(softplus(x));
        return multiply_add(x * (1.0f - t * t), sigmoid(x), t);
    }
    case ERF: return 1.1283792f * expf(-x * x);
    case EXP: return expf(x);
    case LOG: return 1.0f / x;
    case SQRT: return 0.5f / sqrtf(x);
    case RECIPROCAL: return -1.0f / (x * x);
    case NEG: return -1.0f;
    case ABS: return x > 0.0f ? 1.0f : x < 0.0f ? -1.0f : 0.0f;
    default: return 1.0f;
    }
}

// The derivative where the function's value is y, for functions that Rust's derivative_from_value admits.
DEVICE float derivative_from_value(const Function& function, float y) {
    const float alpha = function.alpha, beta = function.beta;
    switch (function.kind) {
    case RELU: return y > 0.0f ? 1.0f : 0.0f;
    case LEAKY_RELU: return y <= 0.0f ? alpha : 1.0f;
    case CLIP: return y > alpha && y < beta ? 1.0f : 0.0f;
    case SIGMOID: return y * (1.0f - y);
    case TANH: return 1.0f - y * y;
    case ELU: return y <= 0.0f ? y + alpha : 1.0f;
    default: return y; // EXP
    }
}
