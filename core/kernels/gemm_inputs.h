/* The x of the tasks of one dispatch: made and quantised row by row, by the thread that reads a row first. */
#ifndef CORE_KERNELS_GEMM_INPUTS_H
#define CORE_KERNELS_GEMM_INPUTS_H

#include "core/kernels/gemm.h"
#include "core/kernels/quantized_rows.h"

/* What neighbouring tasks share. */
struct gemm_input {
    const struct gemm_task *task; /* the first that has it */
    const struct kernels *kernels;
    struct quantized_rows quantized, rounded; /* for packed integers, for packed bf16; data NULL: not wanted */
    atomic_uchar *states;                     /* pool_once, one a unit of rows; NULL: there is nothing to do */
    int64_t unit_rows;
};

/* The rows as the task's packed weights are multiplied with them; NULL: it takes its x as it is. */
const struct quantized_rows *gemm_input_packed(const struct gemm_input *input, const struct gemm_task *task);
/* gemm_inputs_find - of_task [n_tasks], caller's: the input of each task; storage from exec->arena.
 *   Errors: L4_E_NOMEM. */
int gemm_inputs_find(const struct gemm_input **of_task, const struct exec *exec, const struct gemm_task *tasks,
                     int n_tasks) L4_MUST_CHECK;
/* gemm_input_rows - returns when rows begin .. end - 1 are there.  What they are made from is there already. */
void gemm_input_rows(const struct gemm_input *input, int64_t begin, int64_t end);

#endif
