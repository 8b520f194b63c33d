#include "core/model/experts_common.h"

#include <assert.h>
#include <string.h>

#include "core/model/rows.h"

int expert_rows_alloc(struct expert_rows *rows, const struct experts *experts, struct arena *arena, int64_t n_tokens) {
    size_t n = (size_t)n_tokens * (size_t)experts->top_k;
    size_t hidden = (size_t)experts->hidden_size, intermediate = (size_t)experts->intermediate_size;
    *rows = (struct expert_rows){
        .pair_of_row = arena_alloc(arena, n, sizeof(int32_t)),
        .row_of_pair = arena_alloc(arena, n, sizeof(int32_t)),
        .input = arena_alloc(arena, n, hidden * sizeof(float)),
        .gate_up = arena_alloc(arena, n, 2 * intermediate * sizeof(float)),
        .output = arena_alloc(arena, n, hidden * sizeof(float)),
    };
    if (!rows->pair_of_row || !rows->row_of_pair || !rows->input || !rows->gate_up || !rows->output)
        return L4_E_NOMEM;
    memset(rows->row_of_pair, -1, n * sizeof(int32_t));
    return 0;
}

bool expert_is_here(const struct experts *experts, int32_t index) {
    assert(index >= 0 && index <= experts->num_experts);
    return index < experts->num_experts;
}

void expert_rows_set(struct expert_rows *rows, int64_t row, int64_t pair) {
    rows->pair_of_row[row] = (int32_t)pair;
    rows->row_of_pair[pair] = (int32_t)row;
}

struct rows_call {
    const struct expert_rows *rows;
    const struct experts *experts;
    const struct kernels *kernels;
    const float *hidden_states, *top_k_weights;
    float *out;
    int64_t first;
};

static void gather_rows(void *ctx, int64_t begin, int64_t end) {
    const struct rows_call *c = ctx;
    int64_t hidden = c->experts->hidden_size;
    for (int64_t r = c->first + begin; r < c->first + end; r++) {
        int32_t pair = c->rows->pair_of_row[r];
        c->kernels->scale(c->rows->input + r * hidden, c->hidden_states + pair / c->experts->top_k * hidden,
                          c->top_k_weights[pair], hidden);
    }
}

void expert_rows_gather(const struct expert_rows *rows, const struct experts *experts, const struct exec *exec,
                        const float *hidden_states, const float *top_k_weights, int64_t begin, int64_t end) {
    struct rows_call call = {.rows = rows,
                             .experts = experts,
                             .kernels = exec->kernels,
                             .hidden_states = hidden_states,
                             .top_k_weights = top_k_weights,
                             .first = begin};
    rows_for(exec, end - begin, 2 * (int64_t)experts->hidden_size, gather_rows, &call);
}

int expert_gate_up_tasks(const struct expert_rows *rows, const struct experts *experts, int32_t e, int64_t begin,
                         int64_t end, struct gemm_task tasks[EXPERT_GATE_UP_TASKS]) {
    int64_t hidden = experts->hidden_size, intermediate = experts->intermediate_size;
    struct gemm_task task = {.x = rows->input + begin * hidden,
                             .ldx = hidden,
                             .m = end - begin,
                             .y = rows->gate_up + begin * 2 * intermediate,
                             .ldy = 2 * intermediate};
    tasks[0] = tasks[1] = task;
    tasks[0].w = experts->gate_up ? experts->gate_up[e] : experts->gate[e];
    if (experts->gate_up)
        return 1;
    tasks[1].w = experts->up[e];
    tasks[1].y += intermediate;
    return 2;
}

void expert_rows_activate(const struct expert_rows *rows, const struct experts *experts, const struct exec *exec,
                          int64_t begin, int64_t end) {
    int64_t intermediate = experts->intermediate_size;
    rows_swiglu(exec, rows->gate_up + begin * 2 * intermediate, end - begin, intermediate);
}

struct gemm_task expert_down_task(const struct expert_rows *rows, const struct experts *experts, int32_t e,
                                  int64_t begin, int64_t end) {
    int64_t hidden = experts->hidden_size, width = 2 * (int64_t)experts->intermediate_size;
    return (struct gemm_task){.w = experts->down[e],
                              .x = rows->gate_up + begin * width,
                              .ldx = width,
                              .m = end - begin,
                              .y = rows->output + begin * hidden,
                              .ldy = hidden};
}

static void combine_rows(void *ctx, int64_t begin, int64_t end) {
    const struct rows_call *c = ctx;
    int64_t hidden = c->experts->hidden_size, top_k = c->experts->top_k;
    for (int64_t t = begin; t < end; t++) {
        float *out = c->out + t * hidden;
        bool first = true;
        for (int64_t pair = t * top_k; pair < (t + 1) * top_k; pair++) {
            int32_t row = c->rows->row_of_pair[pair];
            if (row < 0)
                continue;
            const float *output = c->rows->output + row * hidden;
            if (first)
                memcpy(out, output, (size_t)hidden * sizeof(float));
            else
                c->kernels->add(out, output, hidden);
            first = false;
        }
        if (first)
            memset(out, 0, (size_t)hidden * sizeof(float));
    }
}

void expert_rows_combine(const struct expert_rows *rows, const struct experts *experts, const struct exec *exec,
                         int64_t n_tokens, float *out) {
    struct rows_call call = {.rows = rows, .experts = experts, .kernels = exec->kernels, .out = out};
    rows_for(exec, n_tokens, (1 + experts->top_k) * (int64_t)experts->hidden_size, combine_rows, &call);
}
