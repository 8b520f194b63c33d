/* The activations of one dispatch, quantised once for every task that multiplies them with packed weights. */
#ifndef CORE_KERNELS_GEMM_INPUTS_H
#define CORE_KERNELS_GEMM_INPUTS_H

#include "core/kernels/gemm.h"
#include "core/kernels/quantized_rows.h"

struct gemm_inputs {
    const struct quantized_rows **of_task; /* [n_tasks]; NULL: the task takes its x as it is */
};

/* gemm_inputs_prepare - neighbouring tasks with the same x share the result.  A few rows are done by the caller, many
 * by the pool.  Storage comes from exec->arena, which is reset.      Errors: L4_E_NOMEM. */
int gemm_inputs_prepare(struct gemm_inputs *inputs, const struct exec *exec, const struct gemm_task *tasks,
                        int n_tasks) L4_MUST_CHECK;

#endif
