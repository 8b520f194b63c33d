/* Activations for the integer kernels: rows of int8 with one f32 scale for every 128 elements.
 *
 * In memory: tiles of QROWS_TILE rows (the last may have fewer), a tile cut along k into parts of 128 elements, a part
 * of a tile with R rows being, without gaps,
 *   q       [4][R][32] i8   round(x / scale), in -127..127
 *   scale   [R] f32         max |x| / 127; NaN if one of the elements is no finite number, q being 0 then
 *   sum     [4][R] f32      of each 32 elements of q
 *   bias32  [4][R] i32      -128 * the same: where a sum of products with value + 128 starts
 *   bias16  [8][R] i32      -128 * the sum of each 16
 * k is a whole number of 32; what the last part lacks of 128 is never read.  A row's values depend on the row alone. */
#ifndef CORE_KERNELS_QUANTIZED_ROWS_H
#define CORE_KERNELS_QUANTIZED_ROWS_H

#include <stddef.h>
#include <stdint.h>

enum {
    QROWS_TILE = 32,
    QROWS_PART = 128,
    QROWS_BLOCK = 32,
    QROWS_BLOCKS = QROWS_PART / QROWS_BLOCK,
    QROWS_ROW_BYTES = QROWS_PART + 4 * (1 + 4 * QROWS_BLOCKS) /* of a row in a part */
};

struct quantized_rows {
    void *data; /* quantized_rows_bytes(m, k), 64-byte aligned */
    int64_t m, k;
};

static inline int64_t qrows_parts(int64_t k) {
    return (k + QROWS_PART - 1) / QROWS_PART;
}
static inline size_t quantized_rows_bytes(int64_t m, int64_t k) {
    return (size_t)(m * qrows_parts(k)) * QROWS_ROW_BYTES;
}

/* One part of one tile. */
struct qrows_part {
    int64_t rows;
    int8_t *q;
    float *scale, *sum;
    int32_t *bias32, *bias16;
};
static inline struct qrows_part qrows_part(const struct quantized_rows *x, int64_t first_row, int64_t part) {
    const int64_t left = x->m - first_row, rows = left < QROWS_TILE ? left : QROWS_TILE;
    char *at = (char *)x->data + quantized_rows_bytes(first_row, x->k) + rows * part * QROWS_ROW_BYTES;
    struct qrows_part p = {.rows = rows, .q = (int8_t *)at};
    p.scale = (float *)(at + rows * QROWS_PART);
    p.sum = p.scale + rows;
    p.bias32 = (int32_t *)(p.sum + rows * QROWS_BLOCKS);
    p.bias16 = p.bias32 + rows * QROWS_BLOCKS;
    return p;
}

#endif
