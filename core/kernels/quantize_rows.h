/* Rounds rows of activations to int8; plain loops that every instruction set's compilation makes vectors of. */
#ifndef CORE_KERNELS_QUANTIZE_ROWS_H
#define CORE_KERNELS_QUANTIZE_ROWS_H

#include <math.h>
#include <string.h>

#include "core/kernels/quantized_rows.h"

/* n <= QROWS_PART elements of row r of a part */
static inline __attribute__((always_inline)) void quantize_part(const float *x, int64_t n,
                                                                const struct qrows_part *part, int64_t r) {
    uint32_t bits[QROWS_PART], largest = 0; /* of |x|: in the order of the values, infinity and NaN on top */
    int32_t q[QROWS_PART];
    memcpy(bits, x, (size_t)n * sizeof *x);
    for (int64_t i = 0; i < n; i++) {
        const uint32_t magnitude = bits[i] & 0x7fffffff;
        largest = magnitude > largest ? magnitude : largest;
    }
    float scale, inverse = 0; /* and so q = 0: of numbers too small for the inverse and for anyone to see */
    memcpy(&scale, &largest, sizeof scale);
    if (largest >= 0x7f800000) {
        scale = NAN;
    } else if (scale < 0x1p-100f) {
        scale = 0;
    } else {
        inverse = 127 / scale;
        scale /= 127;
    }
    for (int64_t i = 0; i < n; i++) { /* 1.5 * 2^23 leaves the rounded number in the low bits */
        const float shifted = x[i] * inverse + 0x1.8p23f;
        int32_t rounded;
        memcpy(&rounded, &shifted, sizeof rounded);
        q[i] = inverse != 0 ? rounded - 0x4b400000 : 0;
    }
    part->scale[r] = scale;
    for (int64_t b = 0; b * QROWS_BLOCK < n; b++) {
        int32_t halves[2] = {0, 0};
        int8_t *out = part->q + (b * part->rows + r) * QROWS_BLOCK;
        for (int half = 0; half < 2; half++)
            for (int i = 0; i < 16; i++)
                halves[half] += q[b * QROWS_BLOCK + half * 16 + i];
        for (int i = 0; i < QROWS_BLOCK; i++)
            out[i] = (int8_t)q[b * QROWS_BLOCK + i];
        part->bias16[2 * b * part->rows + r] = -128 * halves[0];
        part->bias16[(2 * b + 1) * part->rows + r] = -128 * halves[1];
        part->bias32[b * part->rows + r] = -128 * (halves[0] + halves[1]);
        part->sum[b * part->rows + r] = (float)(halves[0] + halves[1]);
    }
}

static void quantize_rows(const float *x, int64_t ldx, int64_t row_begin, int64_t row_end,
                          const struct quantized_rows *out) {
    for (int64_t row = row_begin; row < row_end; row++) {
        const int64_t in_tile = row % QROWS_TILE;
        for (int64_t k = 0; k < out->k; k += QROWS_PART) {
            const struct qrows_part part = qrows_part(out, row - in_tile, k / QROWS_PART);
            const int64_t n = out->k - k;
            if (n >= QROWS_PART)
                quantize_part(x + row * ldx + k, QROWS_PART, &part, in_tile); /* the loops' lengths are known */
            else
                quantize_part(x + row * ldx + k, n, &part, in_tile);
        }
    }
}

#endif
