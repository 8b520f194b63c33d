/* The kernel table: one function pointer an operation, filled with the reference C first and then overwritten by what
 * the processor has.
 *
 * Determinism, which everything above relies on: what a kernel computes for one row (of x, of a query) depends on that
 * row alone, bit for bit - not on how many rows are in the call, on the row's place among them, nor on which columns
 * are computed in the same call.  Each variant accumulates along K in one fixed order; the vector
 * variants share it, so that a product has the same bits under all of them. */
#ifndef CORE_KERNELS_KERNELS_H
#define CORE_KERNELS_KERNELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/format/tensor.h"
#include "llama4/error.h"

/* How a weight matrix lies in memory.  The first two are [rows][stride]. */
enum matrix_layout {
    MATRIX_OUT_IN, /* [n][k]: a row is one output's weights (nn.Linear) */
    MATRIX_IN_OUT, /* [k][n]: a row is one input's weights (Llama 4 experts) */
    MATRIX_PACKED, /* packed.h; types that packed_has_type; no stride */
    MATRIX_N_LAYOUTS,
    MATRIX_N_ROW_LAYOUTS = MATRIX_PACKED
};

/* A weight matrix with n outputs and k inputs; data borrowed. */
struct matrix {
    enum dtype type; /* any that dtype_is_weight; block types only MATRIX_OUT_IN */
    enum matrix_layout layout;
    int64_t n, k;
    int64_t stride; /* elements from one row to the next; of block types whole blocks */
    const void *data;
};

/* gemm: y[i][j] = sum over k of x[i][k] * w(j, k), for i in 0..m-1 and j in n_begin..n_end-1.
 *   x [m, w->k] f32, rows ldx apart      y [m, w->n] f32, rows ldy apart; only the columns n_begin..n_end-1 are touched
 *   accumulate: y[i][j] is added to the sum (where it enters is fixed by the variant and the layout)
 *   scratch [KERNEL_SCRATCH_BYTES], 64-byte aligned, private to the calling thread
 *   f16 and bf16 weights are widened exactly; products and sums are f32.  Any m >= 0, ragged n and k. */
typedef void gemm_fn(const struct matrix *w, int64_t n_begin, int64_t n_end, const float *x, int64_t ldx, int64_t m,
                     float *y, int64_t ldy, bool accumulate, void *scratch);
enum { KERNEL_SCRATCH_BYTES = 1 << 20 };

/* qgemm: as gemm for MATRIX_PACKED and rows row_begin..row_end-1 of x, y being that of row 0.  row_begin is a multiple
 * of QROWS_TILE, row_end too or all rows of x.  Every output is one sequence of operations, whatever else is computed.
 *   Block types, x from quantize_rows: sums of products of 32 integers (of 16 for Q6_K) are exact; the rest is f32.
 *   BF16, x from round_rows: one f32 sum, begun with 0 or (accumulate) y; pair by pair along K the product of the
 *   second elements is added, then that of the first, each addition rounded to nearest.  Products of two bf16 are exact
 *   in f32, so all variants give the same bits, but that one with bf16 dot products takes what is below 2^-126 for 0.
 */
struct quantized_rows;
typedef void qgemm_fn(const struct matrix *w, int64_t n_begin, int64_t n_end, const struct quantized_rows *x,
                      int64_t row_begin, int64_t row_end, float *y, int64_t ldy, bool accumulate);

/* One head's keys or values of a few positions, in 8 bits: [k][n] integers, and a scale (f16) for each KV_Q8_BLOCK
 * elements of a position's vector.  At most KV_Q8_ELEMENTS elements a vector, KV_Q8_POSITIONS positions. */
enum { KV_Q8_BLOCK = 32, KV_Q8_ELEMENTS = 4096, KV_Q8_POSITIONS = 64 };
struct kv_q8 {
    int64_t n, k;
    int64_t stride; /* of quants: elements from one row to the next */
    const int8_t *quants;
    int64_t scales_stride; /* from one block of a vector to its next */
    const uint16_t *scales;
};

/* kv_q8: y[i][j] (+)= sum over l of x[i][l] * w(l, j), i < m, j < n, as gemm does for MATRIX_IN_OUT with the same
 * numbers in f32, bit for bit (an integer times its scale is exact):
 *   keys    w(l, j) = quants[l][j] * scales[l / KV_Q8_BLOCK][j]: a row is one element of all keys
 *   values  w(l, j) = quants[l][j] * scales[j / KV_Q8_BLOCK][l]: a row is one value
 * scratch: as for gemm. */
typedef void kv_q8_fn(const struct kv_q8 *w, const float *x, int64_t ldx, int64_t m, float *y, int64_t ldy,
                      bool accumulate, void *scratch);

struct kernels {
    const char *name; /* "ref", "avx2", "avx512", "neon" */

    gemm_fn *gemm[DT_N_WEIGHT_TYPES][MATRIX_N_ROW_LAYOUTS];

    void (*quantize_rows)(const float *x, int64_t ldx, int64_t row_begin, int64_t row_end,
                          const struct quantized_rows *out);
    void (*round_rows)(const float *x, int64_t ldx, int64_t row_begin, int64_t row_end,
                       const struct quantized_rows *out);
    qgemm_fn *qgemm[DT_COUNT]; /* types that packed_has_type */

    kv_q8_fn *kv_q8_keys, *kv_q8_values;

    /* dst[i] = (float)src[i], exact */
    void (*widen[DT_N_WEIGHT_TYPES])(float *dst, const void *src, int64_t n);
    /* y[i] = x[i] * rsqrt(mean(x^2) + eps) * weight[i]; weight NULL = 1.  y may be x. */
    void (*rms_norm)(float *y, const float *x, const float *weight, int64_t n, float eps);
    /* out[i] = silu(gate[i]) * up[i], silu(v) = v / (1 + exp(-v)).  out may be gate. */
    void (*swiglu)(float *out, const float *gate, const float *up, int64_t n);
    /* y[i] += x[i] */
    void (*add)(float *y, const float *x, int64_t n);
    /* y[i] = x[i] * a.  y may be x. */
    void (*scale)(float *y, const float *x, float a, int64_t n);
    /* largest element, n >= 1; NAN anywhere gives NAN or any element */
    float (*max)(const float *x, int64_t n);
    /* y[i] = exp(x[i] - bias); returns their sum.  y may be x, or NULL for the sum alone. */
    float (*exp_sum)(float *y, const float *x, int64_t n, float bias);
    /* rotate neighbouring pairs (2j, 2j+1) by the angle whose cosine and sine are given: [n/2] each */
    void (*rope)(float *x, const float *cos, const float *sin, int64_t n);
};

/* kernels_widen - dst[i] = element i of src as f32, exact, for any weight type; block types: n a whole number of
 * blocks. */
void kernels_widen(const struct kernels *kernels, enum dtype type, float *dst, const void *src, int64_t n);
/* kernels_have_type - are there kernels for matrices of this type?  Others are widened before they are multiplied. */
static inline bool kernels_have_type(enum dtype type) {
    return (int)type < DT_N_WEIGHT_TYPES;
}
/* matrix_at - where element (row, column) lies; of block types the column begins a block. */
static inline const void *matrix_at(const struct matrix *w, int64_t row, int64_t column) {
    return (const char *)w->data + dtype_bytes(w->type, row * w->stride + column);
}

/* kernels_get - the best table for this processor, or the one that the environment variable L4_CPU names.
 *   Errors: L4_E_INVALID (L4_CPU names no variant of this processor; the message lists those it has). */
int kernels_get(const struct kernels **out, struct l4_err *err) L4_MUST_CHECK;
/* kernels_by_name - "ref", "avx2", ...; NULL if this build or this processor has no such variant. */
const struct kernels *kernels_by_name(const char *name);
/* The names of all variants that this processor can run, best first, NULL-terminated. */
const char *const *kernels_names(void);

#endif
