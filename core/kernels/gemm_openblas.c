/* OpenBLAS on tiles.  Weights other than f32 are expanded a panel at a time into the thread's scratch. */
#include "core/kernels/gemm_openblas.h"

#include <assert.h>

#if defined(L4_NO_OPENBLAS) /* the cross-built kernel tests; gemm_impl_names does not offer it then */
void gemm_openblas_tile(const struct kernels *kernels, const struct matrix *w, int64_t n_begin, int64_t n_end,
                        const float *x, int64_t ldx, int64_t m, float *y, int64_t ldy, bool accumulate, void *scratch) {
    (void)kernels, (void)w, (void)n_begin, (void)n_end, (void)x, (void)ldx, (void)m, (void)y, (void)ldy,
        (void)accumulate, (void)scratch;
    assert(!"offered");
}
#else

#include <cblas.h>
#include <pthread.h>
#include <string.h>

#include "core/kernels/packed.h"

enum { PART_K = 1024, PART_COLUMNS = KERNEL_SCRATCH_BYTES / (int)sizeof(float) / PART_K };

static int64_t min_i64(int64_t a, int64_t b) {
    return a < b ? a : b;
}

static void single_thread(void) {
    openblas_set_num_threads(1);
}

/* y += x W^T or y += x W, W the f32 panel at w */
static void multiply_add(enum matrix_layout layout, const float *w, int64_t stride, int64_t n, int64_t k,
                         const float *x, int64_t ldx, int64_t m, float *y, int64_t ldy) {
    const CBLAS_TRANSPOSE trans = layout == MATRIX_IN_OUT ? CblasNoTrans : CblasTrans;
    if (m == 1) { /* sgemm streams the weights of a single row much slower */
        const CBLAS_TRANSPOSE turned = layout == MATRIX_IN_OUT ? CblasTrans : CblasNoTrans;
        const int64_t rows = layout == MATRIX_IN_OUT ? k : n, columns = layout == MATRIX_IN_OUT ? n : k;
        cblas_sgemv(CblasRowMajor, turned, (blasint)rows, (blasint)columns, 1.0f, w, (blasint)stride, x, 1, 1.0f, y, 1);
        return;
    }
    cblas_sgemm(CblasRowMajor, CblasNoTrans, trans, (blasint)m, (blasint)n, (blasint)k, 1.0f, x, (blasint)ldx, w,
                (blasint)stride, 1.0f, y, (blasint)ldy);
}

void gemm_openblas_tile(const struct kernels *kernels, const struct matrix *w, int64_t n_begin, int64_t n_end,
                        const float *x, int64_t ldx, int64_t m, float *y, int64_t ldy, bool accumulate, void *scratch) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, single_thread);
    for (int64_t i = 0; i < m && !accumulate; i++)
        memset(y + i * ldy + n_begin, 0, (size_t)(n_end - n_begin) * sizeof(float));
    if (w->k == 0 || m == 0 || n_begin >= n_end)
        return;
    const bool by_output = w->layout != MATRIX_IN_OUT;
    if (w->type == DT_F32) {
        const float *first = (const float *)w->data + n_begin * (by_output ? w->stride : 1);
        multiply_add(w->layout, first, w->stride, n_end - n_begin, w->k, x, ldx, m, y + n_begin, ldy);
        return;
    }
    for (int64_t j = n_begin; j < n_end; j += PART_COLUMNS) {
        const int64_t n = min_i64(PART_COLUMNS, n_end - j);
        for (int64_t k0 = 0; k0 < w->k; k0 += PART_K) {
            const int64_t k = min_i64(PART_K, w->k - k0);
            const int64_t rows = by_output ? n : k, columns = by_output ? k : n;
            if (w->layout == MATRIX_PACKED)
                packed_widen(w, j, n, k0, k, scratch, columns);
            for (int64_t r = 0; r < rows && w->layout != MATRIX_PACKED; r++)
                kernels_widen(kernels, w->type, (float *)scratch + r * columns,
                              by_output ? matrix_at(w, j + r, k0) : matrix_at(w, k0 + r, j), columns);
            multiply_add(w->layout, scratch, columns, n, k, x + k0, ldx, m, y + j, ldy);
        }
    }
}
#endif
