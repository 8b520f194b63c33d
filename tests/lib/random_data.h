/* Repeatable random numbers and weights for tests. */
#ifndef TESTS_LIB_RANDOM_DATA_H
#define TESTS_LIB_RANDOM_DATA_H

#include <stddef.h>
#include <stdint.h>

#include "core/format/tensor.h"

struct rng {
    uint64_t state; /* any seed */
};

uint64_t rng_next(struct rng *rng);
/* 0 .. n-1, n >= 1 */
int64_t rng_below(struct rng *rng, int64_t n);
/* -1 .. 1 */
float rng_float(struct rng *rng);
void rng_fill(struct rng *rng, float *x, size_t n, float scale);

/* n weights of type F32, F16 or BF16 within +-scale (below 1); free() them.  Exits when out of memory. */
void *rng_weights(struct rng *rng, enum dtype type, size_t n, float scale);
/* The i-th of them, exactly. */
float weight_at(enum dtype type, const void *weights, size_t i);

#endif
