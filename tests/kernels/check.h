/* What the kernel tests share: counted checks, random numbers, storage. */
#ifndef TESTS_KERNELS_CHECK_H
#define TESTS_KERNELS_CHECK_H

#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "llama4/error.h"

static int n_passed, n_failed;

static const float CANARY = 12345.5f; /* stands where nothing may be written */

static inline L4_PRINTF(2, 3) void check(bool ok, const char *fmt, ...) {
    if (ok) {
        n_passed++;
        return;
    }
    n_failed++;
    va_list args;
    va_start(args, fmt);
    printf("FAIL: ");
    vprintf(fmt, args);
    printf("\n");
    va_end(args);
}

/* ---- random data ---- */
static uint64_t rng_state = 88172645463325252u;
static inline uint32_t rng(void) { /* xorshift64 */
    rng_state ^= rng_state << 13;
    rng_state ^= rng_state >> 7;
    rng_state ^= rng_state << 17;
    return (uint32_t)(rng_state >> 32);
}
static inline int64_t rng_in(int64_t low, int64_t high) {
    return low + (int64_t)(rng() % (uint64_t)(high - low + 1));
}
static inline float rng_value(void) {
    return (float)(int32_t)rng() * 0x1p-31f;
}

static inline void *allocate(int64_t n, size_t size) {
    void *p = aligned_alloc(64, ((size_t)(n > 0 ? n : 1) * size + 63) & ~(size_t)63);
    if (!p) {
        printf("out of memory\n");
        exit(2);
    }
    return p;
}

static inline float *random_floats(int64_t n) {
    float *p = allocate(n, sizeof *p);
    for (int64_t i = 0; i < n; i++)
        p[i] = rng_value();
    return p;
}

#endif
