#include "core/model/experts_common.h"

#include <assert.h>
#include <string.h>

int expert_rows_init(struct expert_rows *rows, const struct experts *experts, const struct exec *exec,
                     struct arena *arena, const float *hidden_states, const float *top_k_weights, int64_t n_tokens,
                     float *out) {
    const size_t n = (size_t)n_tokens * (size_t)experts->top_k, tokens = (size_t)n_tokens;
    const size_t hidden = (size_t)experts->hidden_size, intermediate = (size_t)experts->intermediate_size;
    *rows = (struct expert_rows){
        .experts = experts,
        .exec = exec,
        .arena = arena,
        .hidden_states = hidden_states,
        .top_k_weights = top_k_weights,
        .out = out,
        .n_tokens = n_tokens,
        .pair_of_row = arena_alloc(arena, n, sizeof(int32_t)),
        .row_of_pair = arena_alloc(arena, n, sizeof(int32_t)),
        .input = arena_alloc(arena, n, hidden * sizeof(float)),
        .gate_up = arena_alloc(arena, n, 2 * intermediate * sizeof(float)),
        .output = arena_alloc(arena, n, hidden * sizeof(float)),
        .shared_gate_up = arena_alloc(arena, tokens, 2 * (size_t)experts->shared_gate.n * sizeof(float)),
        .shared_output = arena_alloc(arena, tokens, (size_t)experts->shared_down.n * sizeof(float)),
    };
    if (!rows->pair_of_row || !rows->row_of_pair || !rows->input || !rows->gate_up || !rows->output ||
        !rows->shared_gate_up || !rows->shared_output)
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

/* ---- what is done to rows between the products, each row by the thread that needs it first --------------------- */

/* input = top_k_weight * hidden_state of the row's pair */
static void gather_rows(void *ctx, int64_t begin, int64_t end) {
    const struct expert_rows *rows = ctx;
    const int64_t hidden = rows->experts->hidden_size;
    for (int64_t r = begin; r < end; r++) {
        const int32_t pair = rows->pair_of_row[r];
        rows->exec->kernels->scale(rows->input + r * hidden, rows->hidden_states + pair / rows->experts->top_k * hidden,
                                   rows->top_k_weights[pair], hidden);
    }
}

/* the gate half of gate_up = silu(gate) * up */
static void activate(const struct kernels *kernels, float *gate_up, int64_t width, int64_t begin, int64_t end) {
    for (float *gate = gate_up + begin * 2 * width; gate < gate_up + end * 2 * width; gate += 2 * width)
        kernels->swiglu(gate, gate, gate + width, width);
}
static void activate_rows(void *ctx, int64_t begin, int64_t end) {
    const struct expert_rows *rows = ctx;
    activate(rows->exec->kernels, rows->gate_up, rows->experts->intermediate_size, begin, end);
}
static void activate_shared_rows(void *ctx, int64_t begin, int64_t end) {
    const struct expert_rows *rows = ctx;
    activate(rows->exec->kernels, rows->shared_gate_up, rows->experts->shared_gate.n, begin, end);
}

/* The sum is made in the buffer of its first term: the routed outputs by themselves, before the shared one. */
static void sum_rows(void *ctx, int64_t begin, int64_t end) {
    const struct expert_rows *rows = ctx;
    const struct kernels *kernels = rows->exec->kernels;
    const int64_t hidden = rows->experts->hidden_size, top_k = rows->experts->top_k;
    for (int64_t t = begin; t < end; t++) {
        float *routed = NULL, *shared = rows->experts->shared_down.n ? rows->shared_output + t * hidden : NULL;
        for (int64_t pair = t * top_k; pair < (t + 1) * top_k; pair++) {
            if (rows->row_of_pair[pair] < 0)
                continue;
            float *output = rows->output + rows->row_of_pair[pair] * hidden;
            if (routed)
                kernels->add(routed, output, hidden);
            else
                routed = output;
        }
        if (shared && routed)
            kernels->add(shared, routed, hidden);
        if (shared || routed)
            kernels->add(rows->out + t * hidden, shared ? shared : routed, hidden);
    }
}

/* ---- the products ---------------------------------------------------------------------------------------------- */

struct list {
    struct gemm_task *tasks;
    int n;
};

/* gate_up = x gate beside x up; up without weights: gate holds both. */
static void add_gate_up(struct list *list, struct gemm_task task, const struct matrix *gate, const struct matrix *up,
                        float *gate_up, int64_t width) {
    task.w = *gate;
    task.y = gate_up;
    task.ldy = 2 * width;
    list->tasks[list->n++] = task;
    if (!up)
        return;
    task.w = *up;
    task.y = gate_up + width;
    list->tasks[list->n++] = task;
}

static void add_group_gate_up(struct list *list, struct expert_rows *rows, enum gemm_impl impl,
                              const struct expert_group *group) {
    const struct experts *experts = rows->experts;
    const int64_t hidden = experts->hidden_size, width = experts->intermediate_size;
    const struct gemm_task task = {.impl = impl,
                                   .x = rows->input + group->begin * hidden,
                                   .ldx = hidden,
                                   .m = group->end - group->begin,
                                   .from = {.make = gather_rows, .ctx = rows, .first = group->begin}};
    const bool fused = experts->gate_up != NULL;
    add_gate_up(list, task, fused ? &experts->gate_up[group->expert] : &experts->gate[group->expert],
                fused ? NULL : &experts->up[group->expert], rows->gate_up + group->begin * 2 * width, width);
}

/* after: the group's first gate_up task */
static void add_group_down(struct list *list, struct expert_rows *rows, enum gemm_impl impl,
                           const struct expert_group *group, int after) {
    const struct experts *experts = rows->experts;
    const int64_t hidden = experts->hidden_size, width = experts->intermediate_size;
    list->tasks[list->n++] =
        (struct gemm_task){.impl = impl,
                           .w = experts->down[group->expert],
                           .x = rows->gate_up + group->begin * 2 * width,
                           .ldx = 2 * width,
                           .m = group->end - group->begin,
                           .from = {activate_rows, rows, group->begin, after, after + (experts->gate_up ? 1 : 2)},
                           .y = rows->output + group->begin * hidden,
                           .ldy = hidden};
}

int expert_rows_run(struct expert_rows *rows, enum gemm_impl impl, const struct expert_group *groups, int n_groups,
                    bool sum) {
    const struct experts *experts = rows->experts;
    const int64_t hidden = experts->hidden_size, shared_width = experts->shared_gate.n;
    const bool shared = sum && experts->shared_down.n > 0;
    const int per_group = experts->gate_up ? 1 : 2;
    struct list list = {.tasks = arena_alloc(rows->arena, 3 * (size_t)n_groups + 4, sizeof *list.tasks)};
    if (!list.tasks)
        return L4_E_NOMEM;

    struct gemm_task shared_task = {
        .impl = rows->exec->gemm, .x = rows->hidden_states, .ldx = hidden, .m = rows->n_tokens, .spread = true};
    if (shared)
        add_gate_up(&list, shared_task, &experts->shared_gate, &experts->shared_up, rows->shared_gate_up, shared_width);
    const int first_group = list.n;
    for (int g = 0; g < n_groups; g++)
        add_group_gate_up(&list, rows, impl, &groups[g]);

    const int first_down = list.n;
    if (shared) {
        shared_task.w = experts->shared_down;
        shared_task.x = rows->shared_gate_up;
        shared_task.ldx = 2 * shared_width;
        shared_task.from = (struct gemm_source){activate_shared_rows, rows, 0, 0, first_group};
        shared_task.y = rows->shared_output;
        shared_task.ldy = hidden;
        list.tasks[list.n++] = shared_task;
    }
    for (int g = 0; g < n_groups; g++)
        add_group_down(&list, rows, impl, &groups[g], first_group + g * per_group);

    if (sum) {
        const struct gemm_source all = {sum_rows, rows, 0, first_down, list.n};
        list.tasks[list.n++] = (struct gemm_task){.m = rows->n_tokens, .from = all};
    }
    return gemm_run(rows->exec, list.tasks, list.n);
}
