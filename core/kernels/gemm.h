/* Parallel matrix products: a list of independent products in one dispatch of the pool. */
#ifndef CORE_KERNELS_GEMM_H
#define CORE_KERNELS_GEMM_H

#include "core/base/arena.h"
#include "core/base/pool.h"
#include "core/kernels/kernels.h"

/* Weights of a type without kernels are multiplied a panel at a time, widened to f32. */
enum {
    GEMM_PANEL_ROWS = 64,
    GEMM_PANEL_K = 1024, /* whole blocks of every type */
    GEMM_PANEL_BYTES = GEMM_PANEL_ROWS * GEMM_PANEL_K * 4,
    GEMM_SCRATCH_BYTES = KERNEL_SCRATCH_BYTES + GEMM_PANEL_BYTES
};

enum gemm_impl {
    GEMM_OWN,     /* batch-invariant */
    GEMM_OPENBLAS /* f32 sgemm on tiles, weights widened a panel at a time; agrees to rounding, not batch-invariant */
};

/* What every operator of the model needs to run. */
struct exec {
    struct pool *pool; /* scratch of at least GEMM_SCRATCH_BYTES */
    const struct kernels *kernels;
    enum gemm_impl gemm; /* for the model's dense matrices */
    struct arena *arena; /* gemm_run's own */
};

/* How rows of x come about that are not there before the dispatch begins.  All zero: they are. */
struct gemm_source {
    /* Writes rows begin .. end - 1 of x, each once, on the thread that reads them first; NULL: nothing to write. */
    void (*make)(void *ctx, int64_t begin, int64_t end);
    void *ctx;
    int64_t first; /* make's number of row 0 of x */
    /* Tasks of the same list, all before this one, that write what make, or without it the product, reads. */
    int after_begin, after_end;
};

/* y = x W^T (+ bias): x [m, k] rows ldx apart, y [m, n] rows ldy apart, bias [n] f32 or NULL. */
struct gemm_task {
    enum gemm_impl impl;
    struct matrix w; /* n = 0: no product, but the rows of x are made */
    const float *bias;
    const float *x;
    int64_t ldx;
    int64_t m; /* 0 is allowed and costs nothing */
    struct gemm_source from;
    float *y;
    int64_t ldy;
    bool
        spread; /* tiles come between those of the tasks behind: arithmetic beside reading.  First of a list or stage */
};

/* gemm_run - all tasks, cut into tiles, in one parallel dispatch.  Tasks must not overlap in y, nor read another's y
 * but by `from`.  Neighbouring tasks with the same x have the same `from`, and share its rows.
 *   Packed weights (GEMM_OWN): the activations are quantised, for BF16 rounded to bf16, once for all tasks that
 *   share them.
 *   Errors: L4_E_NOMEM (nothing was written).
 *   Results do not depend on the number of threads, nor (GEMM_OWN) on m.  Thread: the pool's caller. */
int gemm_run(const struct exec *exec, const struct gemm_task *tasks, int n_tasks) L4_MUST_CHECK;

const char *const *gemm_impl_names(void); /* "own", "openblas", NULL */

#endif
