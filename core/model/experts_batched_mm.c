/* batched_mm: every (token, slot) pair is a matrix-vector product of its own with the weights where they lie; all of
 * them in one parallel dispatch. */
#include "core/model/experts_common.h"

static int batched_mm_forward(const struct experts *experts, const struct exec *exec, struct arena *arena,
                              const float *hidden_states, const int32_t *top_k_index, const float *top_k_weights,
                              int64_t n_tokens, float *out) {
    const int64_t n_pairs = n_tokens * experts->top_k;
    struct expert_rows rows;
    struct expert_group *groups = arena_alloc(arena, (size_t)n_pairs, sizeof *groups);
    if (!groups || expert_rows_init(&rows, experts, exec, arena, hidden_states, top_k_weights, n_tokens, out))
        return L4_E_NOMEM;
    for (int64_t pair = 0; pair < n_pairs; pair++) {
        if (!expert_is_here(experts, top_k_index[pair]))
            continue;
        groups[rows.n_rows] = (struct expert_group){top_k_index[pair], rows.n_rows, rows.n_rows + 1};
        expert_rows_set(&rows, rows.n_rows++, pair);
    }
    return expert_rows_run(&rows, GEMM_OWN, groups, (int)rows.n_rows, true);
}

const struct experts_backend experts_batched_mm = {
    .name = "batched_mm",
    .help = "each (token, slot) pair a matrix-vector product: for few tokens",
    .batch_invariant = true,
    .forward = batched_mm_forward,
};
