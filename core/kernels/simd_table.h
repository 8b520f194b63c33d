/* Puts the kernels of simd_*.h into a table. */
#ifndef CORE_KERNELS_SIMD_TABLE_H
#define CORE_KERNELS_SIMD_TABLE_H

#include "core/kernels/simd_gemm.h"
#include "core/kernels/simd_rows.h"
#include "core/kernels/variants.h"

#if defined(VEC_WIDTH)

static void fill_table(struct kernels *table) {
    table->gemm[DT_F32][MATRIX_OUT_IN] = gemm_f32_out_in;
    table->gemm[DT_F16][MATRIX_OUT_IN] = gemm_f16_out_in;
    table->gemm[DT_BF16][MATRIX_OUT_IN] = gemm_bf16_out_in;
    table->gemm[DT_F32][MATRIX_IN_OUT] = gemm_f32_in_out;
    table->gemm[DT_F16][MATRIX_IN_OUT] = gemm_f16_in_out;
    table->gemm[DT_BF16][MATRIX_IN_OUT] = gemm_bf16_in_out;
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
