/* Random matrices of the types that can be packed for test_packed.c and its benchmark. */
#ifndef TESTS_KERNELS_PACKED_WEIGHTS_H
#define TESTS_KERNELS_PACKED_WEIGHTS_H

#include <string.h>

#include "core/format/dequant.h"
#include "core/kernels/bf16_rows.h"
#include "core/kernels/packed.h"
#include "tests/kernels/check.h"

static const enum dtype PACKED[] = {DT_Q4_0, DT_Q8_0, DT_Q4_K, DT_Q5_K, DT_Q6_K, DT_IQ4_XS, DT_MXFP4, DT_BF16};
enum { N_PACKED_TYPES = sizeof PACKED / sizeof *PACKED };

struct weights {
    struct matrix packed;
    void *data;
    float *f32; /* [n][k], by dequantize_row */
};

/* Where the blocks of a type have their f16, -1 if nowhere. */
static inline void f16_offsets(enum dtype type, int offsets[2]) {
    offsets[0] = type == DT_MXFP4 || type == DT_BF16 ? -1 : type == DT_Q6_K ? 208 : 0;
    offsets[1] = type == DT_Q4_K || type == DT_Q5_K ? 2 : -1;
}

/* Any bytes are values and small scales; d is random between 2^-7 and 2, either sign - or 1.  BF16: that random, or
 * integers up to 7. */
static inline void random_blocks(enum dtype type, uint8_t *blocks, int64_t n_blocks, bool unit) {
    const size_t bytes = dtype_block_bytes(type);
    int offsets[2];
    f16_offsets(type, offsets);
    for (int64_t b = 0; b < n_blocks; b++, blocks += bytes) {
        for (size_t i = 0; i < bytes; i++)
            blocks[i] = (uint8_t)rng();
        for (int o = 0; o < 2; o++) {
            const uint16_t bits =
                unit ? 0x3c00 : (uint16_t)((rng() & 0x8000) | (8 + rng() % 8) << 10 | (rng() & 0x3ff));
            if (offsets[o] >= 0)
                memcpy(blocks + offsets[o], &bits, sizeof bits);
        }
        if (type == DT_MXFP4)
            blocks[0] = (uint8_t)(unit ? 128 : rng() % 50 ? 115 + rng() % 16 : rng() % 4);
        if (type == DT_BF16) {
            const uint16_t bits = unit ? f32_to_bf16((float)rng_in(-7, 7))
                                       : (uint16_t)((rng() & 0x8000) | (120 + rng() % 8) << 7 | (rng() & 0x7f));
            memcpy(blocks, &bits, sizeof bits);
        }
    }
}

static inline struct weights make_weights(enum dtype type, int64_t n, int64_t k, bool unit) {
    struct weights weights = {.packed = {.type = type, .layout = MATRIX_PACKED, .n = n, .k = k}};
    const int64_t row_blocks = k / dtype_block_elements(type), shift = rng_in(0, 3);
    const size_t row_bytes = dtype_bytes(type, k) + (size_t)(type == DT_BF16 ? 2 * shift : shift),
                 panel_bytes = packed_panel_bytes(type, k);
    size_t bytes;
    if (!packed_bytes(type, n, k, &bytes))
        exit(2);
    uint8_t *rows = allocate(n, row_bytes);
    weights.data = allocate((int64_t)bytes, 1);
    weights.f32 = allocate(n * k, sizeof *weights.f32);
    weights.packed.data = weights.data;
    for (int64_t j = 0; j < n; j++) {
        random_blocks(type, rows + (size_t)j * row_bytes, row_blocks, unit);
        dequantize_row(type, rows + (size_t)j * row_bytes, weights.f32 + j * k, k);
    }
    for (int64_t j = 0; j < n; j += PANEL_COLUMNS)
        pack_panel(type, rows + (size_t)j * row_bytes, row_bytes, (int)(n - j < PANEL_COLUMNS ? n - j : PANEL_COLUMNS),
                   k, (char *)weights.data + (size_t)(j / PANEL_COLUMNS) * panel_bytes);
    free(rows);
    return weights;
}

static inline struct weights random_weights(enum dtype type, int64_t n, int64_t k) {
    return make_weights(type, n, k, false);
}
static inline struct weights unit_weights(enum dtype type, int64_t n, int64_t k) {
    return make_weights(type, n, k, true);
}
static inline void free_weights(struct weights *weights) {
    free(weights->data), free(weights->f32);
}

#endif
