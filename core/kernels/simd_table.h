/* Puts the kernels of simd_*.h into a table. */
#ifndef CORE_KERNELS_SIMD_TABLE_H
#define CORE_KERNELS_SIMD_TABLE_H

#include "core/kernels/simd_axpy.h"
#include "core/kernels/simd_dot.h"
#include "core/kernels/simd_kv.h"
#include "core/kernels/simd_rows.h"
#include "core/kernels/variants.h"

#if defined(VEC_WIDTH)

#define X(name, type)                                                                                                  \
    static void gemm_##name##_out_in(const struct matrix *w, int64_t n_begin, int64_t n_end, const float *x,           \
                                     int64_t ldx, int64_t m, float *y, int64_t ldy, bool accumulate, void *scratch) {  \
        gemm_dot(type, w, n_begin, n_end, x, ldx, m, y, ldy, accumulate, scratch);                                     \
    }                                                                                                                  \
    static void gemm_##name##_in_out(const struct matrix *w, int64_t n_begin, int64_t n_end, const float *x,           \
                                     int64_t ldx, int64_t m, float *y, int64_t ldy, bool accumulate, void *scratch) {  \
        gemm_axpy(type, w, n_begin, n_end, x, ldx, m, y, ldy, accumulate, scratch);                                    \
    }
X(f32, DT_F32)
X(f16, DT_F16)
X(bf16, DT_BF16)
#undef X

static void fill_table(struct kernels *table) {
    table->gemm[DT_F32][MATRIX_OUT_IN] = gemm_f32_out_in;
    table->gemm[DT_F16][MATRIX_OUT_IN] = gemm_f16_out_in;
    table->gemm[DT_BF16][MATRIX_OUT_IN] = gemm_bf16_out_in;
    table->gemm[DT_F32][MATRIX_IN_OUT] = gemm_f32_in_out;
    table->gemm[DT_F16][MATRIX_IN_OUT] = gemm_f16_in_out;
    table->gemm[DT_BF16][MATRIX_IN_OUT] = gemm_bf16_in_out;
    table->kv_q8_keys = kv_q8_keys;
    table->kv_q8_values = kv_q8_values;
    table->widen[DT_F16] = widen_f16;
    table->widen[DT_BF16] = widen_bf16;
    table->rms_norm = rms_norm;
    table->swiglu = swiglu;
    table->add = add;
    table->scale = scale;
    table->max = max;
    table->exp_sum = exp_sum;
    table->rope = rope;
}

#endif
#endif
