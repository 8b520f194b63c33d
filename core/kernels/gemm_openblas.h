/* OpenBLAS behind the contract of gemm_fn. */
#ifndef CORE_KERNELS_GEMM_OPENBLAS_H
#define CORE_KERNELS_GEMM_OPENBLAS_H

#include "core/kernels/kernels.h"

/* As gemm_fn, except that a row's last bits may depend on the other rows.  Weights other than f32 are
 * widened, a panel at a time, into scratch.  Any thread: the library runs single-threaded from the first call on. */
void gemm_openblas_tile(const struct kernels *kernels, const struct matrix *w, int64_t n_begin, int64_t n_end,
                        const float *x, int64_t ldx, int64_t m, float *y, int64_t ldy, bool accumulate, void *scratch);

#endif
