#include "tests/lib/random_data.h"

#include <stdlib.h>
#include <string.h>

uint64_t rng_next(struct rng *rng) { /* splitmix64 */
    uint64_t z = rng->state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

int64_t rng_below(struct rng *rng, int64_t n) {
    return (int64_t)(rng_next(rng) % (uint64_t)n);
}

float rng_float(struct rng *rng) {
    return (float)((int64_t)(rng_next(rng) >> 40) - (1 << 23)) / (float)(1 << 23);
}

void rng_fill(struct rng *rng, float *x, size_t n, float scale) {
    for (size_t i = 0; i < n; i++)
        x[i] = scale * rng_float(rng);
}

/* Truncates; values below 2^-14 become zero. */
static uint16_t f16_below_one(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    int exponent = (int)(bits >> 23 & 0xff) - 127 + 15;
    uint32_t sign = bits >> 16 & 0x8000;
    return exponent <= 0 ? (uint16_t)sign : (uint16_t)(sign | (uint32_t)exponent << 10 | (bits >> 13 & 0x3ff));
}

void *rng_weights(struct rng *rng, enum dtype type, size_t n, float scale) {
    void *weights = malloc(n * dtype_size(type) + 1);
    if (!weights)
        abort();
    for (size_t i = 0; i < n; i++) {
        float value = scale * rng_float(rng);
        uint32_t bits;
        memcpy(&bits, &value, sizeof bits);
        if (type == DT_F32)
            ((float *)weights)[i] = value;
        else
            ((uint16_t *)weights)[i] = type == DT_BF16 ? (uint16_t)(bits >> 16) : f16_below_one(value);
    }
    return weights;
}

float weight_at(enum dtype type, const void *weights, size_t i) {
    if (type == DT_F32)
        return ((const float *)weights)[i];
    uint16_t bits = ((const uint16_t *)weights)[i];
    return type == DT_BF16 ? bf16_to_f32(bits) : f16_to_f32(bits);
}
