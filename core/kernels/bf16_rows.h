/* Activations for packed BF16 weights: rows rounded to bf16, nearest, ties to even; what is too large becomes infinity,
 * NaN stays one.
 *
 * In memory (a struct quantized_rows with this in data): [m][bf16_rows_stride(k)] u16.  The rows are an odd number of
 * cache lines apart: those of a register tile never fall on the same few sets of a cache.  Behind an odd k stands one
 * 0; the rest is never read.  A row's values depend on the row alone. */
#ifndef CORE_KERNELS_BF16_ROWS_H
#define CORE_KERNELS_BF16_ROWS_H

#include "core/format/tensor.h"
#include "core/kernels/quantized_rows.h"

enum { BF16_ROWS_LINE = 32 /* elements a cache line */ };

static inline int64_t bf16_rows_stride(int64_t k) {
    return (((k + BF16_ROWS_LINE - 1) / BF16_ROWS_LINE) | 1) * BF16_ROWS_LINE;
}
static inline size_t bf16_rows_bytes(int64_t m, int64_t k) {
    return (size_t)(m * bf16_rows_stride(k)) * sizeof(uint16_t);
}

/* A plain loop that every instruction set's compilation makes vectors of. */
static inline void round_rows(const float *x, int64_t ldx, int64_t row_begin, int64_t row_end,
                              const struct quantized_rows *out) {
    const int64_t stride = bf16_rows_stride(out->k);
    for (int64_t row = row_begin; row < row_end; row++) {
        const float *from = x + row * ldx;
        uint16_t *to = (uint16_t *)out->data + row * stride;
        for (int64_t i = 0; i < out->k; i++)
            to[i] = f32_to_bf16(from[i]);
        if (out->k % 2)
            to[out->k] = 0;
    }
}

#endif
