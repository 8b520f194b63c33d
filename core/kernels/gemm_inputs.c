#include "core/kernels/gemm_inputs.h"

#include "core/kernels/bf16_rows.h"

enum { UNITS_PER_THREAD = 4, UNIT_ROWS_MAX = 8 }; /* rows that one thread makes at a time */

static bool is_packed(const struct gemm_task *task) {
    return task->impl == GEMM_OWN && task->w.layout == MATRIX_PACKED && task->w.n > 0;
}

const struct quantized_rows *gemm_input_packed(const struct gemm_input *input, const struct gemm_task *task) {
    if (!is_packed(task))
        return NULL;
    return task->w.type == DT_BF16 ? &input->rounded : &input->quantized;
}

static bool same_input(const struct gemm_task *a, const struct gemm_task *b) {
    return a->x == b->x && a->ldx == b->ldx && a->m == b->m && a->w.k == b->w.k;
}

/* Neighbours that share an input: tasks[0..n-1]. */
static int count_sharing(const struct gemm_task *tasks, int n_tasks) {
    int n = 1;
    while (n < n_tasks && same_input(tasks, &tasks[n]))
        n++;
    return n;
}

static int input_init(struct gemm_input *input, const struct exec *exec, const struct gemm_task *tasks, int n_sharing) {
    const int64_t m = tasks->m, k = tasks->w.k;
    const int64_t rows_wanted = m / ((int64_t)pool_n_threads(exec->pool) * UNITS_PER_THREAD);
    bool quantized = false, rounded = false;
    *input = (struct gemm_input){.task = tasks, .kernels = exec->kernels};
    for (int t = 0; t < n_sharing; t++) {
        quantized |= is_packed(&tasks[t]) && tasks[t].w.type != DT_BF16;
        rounded |= is_packed(&tasks[t]) && tasks[t].w.type == DT_BF16;
    }
    if (m <= 0 || !(quantized || rounded || tasks->from.make))
        return L4_OK;
    input->unit_rows = rows_wanted < 1 ? 1 : rows_wanted < UNIT_ROWS_MAX ? rows_wanted : UNIT_ROWS_MAX;
    const size_t n_units = (size_t)((m + input->unit_rows - 1) / input->unit_rows);
    input->quantized = input->rounded = (struct quantized_rows){NULL, m, k};
    input->states = arena_alloc(exec->arena, n_units, sizeof *input->states);
    if (quantized)
        input->quantized.data = arena_alloc(exec->arena, quantized_rows_bytes(m, k), 1);
    if (rounded)
        input->rounded.data = arena_alloc(exec->arena, bf16_rows_bytes(m, k), 1);
    if (!input->states || (quantized && !input->quantized.data) || (rounded && !input->rounded.data))
        return L4_E_NOMEM;
    for (size_t i = 0; i < n_units; i++)
        atomic_init(&input->states[i], 0);
    return L4_OK;
}

int gemm_inputs_find(const struct gemm_input **of_task, const struct exec *exec, const struct gemm_task *tasks,
                     int n_tasks) {
    struct gemm_input *inputs = arena_alloc(exec->arena, (size_t)n_tasks, sizeof *inputs);
    if (!inputs)
        return L4_E_NOMEM;
    for (int t = 0, n; t < n_tasks; t += n, inputs++) {
        n = count_sharing(&tasks[t], n_tasks - t);
        if (input_init(inputs, exec, &tasks[t], n))
            return L4_E_NOMEM;
        for (int i = 0; i < n; i++)
            of_task[t + i] = inputs;
    }
    return L4_OK;
}

static void make_unit(void *ctx, int64_t unit) {
    const struct gemm_input *input = ctx;
    const struct gemm_task *task = input->task;
    const int64_t begin = unit * input->unit_rows;
    const int64_t end = begin + input->unit_rows < task->m ? begin + input->unit_rows : task->m;
    if (task->from.make)
        task->from.make(task->from.ctx, task->from.first + begin, task->from.first + end);
    if (input->quantized.data)
        input->kernels->quantize_rows(task->x, task->ldx, begin, end, &input->quantized);
    if (input->rounded.data)
        input->kernels->round_rows(task->x, task->ldx, begin, end, &input->rounded);
}

void gemm_input_rows(const struct gemm_input *input, int64_t begin, int64_t end) {
    if (input->states && begin < end)
        pool_once(input->states, begin / input->unit_rows, (end - 1) / input->unit_rows + 1, make_unit,
                  (void *)(uintptr_t)input);
}
