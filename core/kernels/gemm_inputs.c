#include "core/kernels/gemm_inputs.h"

#include <assert.h>

#include "core/kernels/bf16_rows.h"

enum {
    SERIAL_ELEMENTS = 1 << 14,  /* up to here another dispatch costs more than it saves */
    ELEMENTS_PER_ITEM = 1 << 13 /* a microsecond or two */
};

struct input {
    const struct gemm_task *task; /* the first that has it */
    struct quantized_rows rows;
    int64_t rows_before; /* of all inputs before */
};

struct job {
    const struct kernels *kernels;
    struct input *inputs;
    int n_inputs;
    int64_t n_rows, rows_per_item;
};

static bool is_bf16(const struct gemm_task *task) {
    return task->w.type == DT_BF16;
}

static bool is_quantized(const struct gemm_task *task) {
    return task->w.layout == MATRIX_PACKED && task->m > 0 && task->w.n > 0;
}

static bool same_input(const struct gemm_task *a, const struct gemm_task *b) {
    return a->x == b->x && a->ldx == b->ldx && a->m == b->m && a->w.k == b->w.k && is_bf16(a) == is_bf16(b);
}

/* Rows begin..end-1 of all inputs one after the other. */
static void quantize(const struct job *job, int64_t begin, int64_t end) {
    int low = 0, high = job->n_inputs - 1; /* the last input with rows_before <= begin */
    while (low < high) {
        const int middle = (low + high + 1) / 2;
        if (job->inputs[middle].rows_before <= begin)
            low = middle;
        else
            high = middle - 1;
    }
    for (const struct input *input = &job->inputs[low]; begin < end; input++) {
        const int64_t first = begin - input->rows_before, m = input->rows.m;
        const int64_t last = end - input->rows_before < m ? end - input->rows_before : m;
        (is_bf16(input->task) ? job->kernels->round_rows : job->kernels->quantize_rows)(
            input->task->x, input->task->ldx, first, last, &input->rows);
        begin += last - first;
    }
}

static void work(void *ctx, int item, int thread) {
    const struct job *job = ctx;
    const int64_t begin = item * job->rows_per_item, end = begin + job->rows_per_item;
    (void)thread;
    quantize(job, begin, end < job->n_rows ? end : job->n_rows);
}

int gemm_inputs_prepare(struct gemm_inputs *inputs, const struct exec *exec, const struct gemm_task *tasks,
                        int n_tasks) {
    int n_quantized = 0;
    for (int t = 0; t < n_tasks; t++)
        n_quantized += is_quantized(&tasks[t]);
    inputs->of_task = NULL;
    if (n_quantized == 0)
        return L4_OK;
    assert(exec->arena);
    arena_reset(exec->arena);
    struct job job = {.kernels = exec->kernels};
    inputs->of_task = arena_alloc(exec->arena, (size_t)n_tasks, sizeof *inputs->of_task);
    job.inputs = arena_alloc(exec->arena, (size_t)n_quantized, sizeof *job.inputs);
    if (!inputs->of_task || !job.inputs)
        return L4_E_NOMEM;
    int64_t elements = 0;
    struct input *input = NULL;
    for (int t = 0; t < n_tasks; t++) {
        const struct gemm_task *task = &tasks[t];
        inputs->of_task[t] = NULL;
        if (!is_quantized(task))
            continue;
        if (!input || !same_input(input->task, task)) {
            input = &job.inputs[job.n_inputs++];
            *input = (struct input){task, {NULL, task->m, task->w.k}, job.n_rows};
            input->rows.data = arena_alloc(
                exec->arena, (is_bf16(task) ? bf16_rows_bytes : quantized_rows_bytes)(task->m, task->w.k), 1);
            if (!input->rows.data)
                return L4_E_NOMEM;
            job.n_rows += task->m;
            elements += task->m * task->w.k;
        }
        inputs->of_task[t] = &input->rows;
    }
    if (elements <= SERIAL_ELEMENTS || pool_n_threads(exec->pool) == 1) {
        quantize(&job, 0, job.n_rows);
        return L4_OK;
    }
    job.rows_per_item = 1 + ELEMENTS_PER_ITEM * job.n_rows / elements;
    pool_for(exec->pool, (int)((job.n_rows + job.rows_per_item - 1) / job.rows_per_item), work, &job);
    return L4_OK;
}
