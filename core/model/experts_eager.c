/* eager: the plain reference.  Loop over the experts that were hit, gather their tokens, one OpenBLAS product each. */
#include "core/model/experts_common.h"

static int eager_forward(const struct experts *experts, const struct exec *exec, struct arena *arena,
                         const float *hidden_states, const int32_t *top_k_index, const float *top_k_weights,
                         int64_t n_tokens, float *out) {
    struct expert_rows rows;
    if (expert_rows_alloc(&rows, experts, arena, n_tokens))
        return L4_E_NOMEM;
    for (int32_t e = 0; e < experts->num_experts; e++) {
        int64_t begin = rows.n_rows;
        for (int64_t pair = 0; pair < n_tokens * experts->top_k; pair++)
            if (expert_is_here(experts, top_k_index[pair]) && top_k_index[pair] == e)
                expert_rows_set(&rows, rows.n_rows++, pair);
        int64_t end = rows.n_rows;
        if (begin == end)
            continue;
        expert_rows_gather(&rows, experts, exec, hidden_states, top_k_weights, begin, end);
        struct gemm_task gate_up[EXPERT_GATE_UP_TASKS];
        int n_tasks = expert_gate_up_tasks(&rows, experts, e, begin, end, gate_up);
        if (gemm_run(exec, GEMM_OPENBLAS, gate_up, n_tasks))
            return L4_E_NOMEM;
        expert_rows_activate(&rows, experts, exec, begin, end);
        struct gemm_task down = expert_down_task(&rows, experts, e, begin, end);
        if (gemm_run(exec, GEMM_OPENBLAS, &down, 1))
            return L4_E_NOMEM;
    }
    expert_rows_combine(&rows, experts, exec, n_tokens, out);
    return 0;
}

const struct experts_backend experts_eager = {
    .name = "eager",
    .help = "loops over the experts that were hit, one OpenBLAS product each: the plain reference",
    .batch_invariant = false,
    .forward = eager_forward,
};
