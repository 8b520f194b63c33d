/* Work on the rows of a batch that is not a matrix product: norms, gathers, sums. */
#ifndef CORE_MODEL_ROWS_H
#define CORE_MODEL_ROWS_H

#include <stdint.h>

#include "core/kernels/gemm.h"

/* rows_for - work(ctx, begin, end) over pieces that make up rows 0..n_rows-1, in one dispatch of the pool; on the
 *   calling thread where that would cost more than it shares out.
 *   row_cost: about how many floats a row reads or writes; an exp counts as ten. */
void rows_for(const struct exec *exec, int64_t n_rows, int64_t row_cost,
              void (*work)(void *ctx, int64_t begin, int64_t end), void *ctx);

#endif
