/* eager: the plain reference.  Loop over the experts that were hit, gather their tokens, one OpenBLAS product each. */
#include "core/model/experts_common.h"

static int eager_forward(const struct experts *experts, const struct exec *exec, struct arena *arena,
                         const float *hidden_states, const int32_t *top_k_index, const float *top_k_weights,
                         int64_t n_tokens, float *out) {
    struct expert_rows rows;
    if (expert_rows_init(&rows, experts, exec, arena, hidden_states, top_k_weights, n_tokens, out))
        return L4_E_NOMEM;
    for (int32_t e = 0; e < experts->num_experts; e++) {
        struct expert_group group = {.expert = e, .begin = rows.n_rows};
        for (int64_t pair = 0; pair < n_tokens * experts->top_k; pair++)
            if (expert_is_here(experts, top_k_index[pair]) && top_k_index[pair] == e)
                expert_rows_set(&rows, rows.n_rows++, pair);
        group.end = rows.n_rows;
        if (group.begin < group.end && expert_rows_run(&rows, GEMM_OPENBLAS, &group, 1, false))
            return L4_E_NOMEM;
    }
    return expert_rows_run(&rows, GEMM_OPENBLAS, NULL, 0, true); /* the shared expert, and the sum */
}

const struct experts_backend experts_eager = {
    .name = "eager",
    .help = "loops over the experts that were hit, one OpenBLAS product each: the plain reference",
    .batch_invariant = false,
    .forward = eager_forward,
};
