/* batched_mm: every (token, slot) pair is a matrix-vector product of its own with the weights where they lie; all of
 * them in one parallel dispatch. */
#include "core/model/experts_common.h"

static int batched_mm_forward(const struct experts *experts, const struct exec *exec, struct arena *arena,
                              const float *hidden_states, const int32_t *top_k_index, const float *top_k_weights,
                              int64_t n_tokens, float *out) {
    int64_t n_pairs = n_tokens * experts->top_k;
    struct expert_rows rows;
    struct gemm_task *tasks = arena_alloc(arena, (size_t)n_pairs * EXPERT_GATE_UP_TASKS, sizeof *tasks);
    if (!tasks || expert_rows_alloc(&rows, experts, arena, n_tokens))
        return L4_E_NOMEM;
    for (int64_t pair = 0; pair < n_pairs; pair++)
        if (expert_is_here(experts, top_k_index[pair]))
            expert_rows_set(&rows, rows.n_rows++, pair);
    expert_rows_gather(&rows, experts, exec, hidden_states, top_k_weights, 0, rows.n_rows);

    int n_tasks = 0;
    for (int64_t r = 0; r < rows.n_rows; r++)
        n_tasks += expert_gate_up_tasks(&rows, experts, top_k_index[rows.pair_of_row[r]], r, r + 1, tasks + n_tasks);
    if (gemm_run(exec, GEMM_OWN, tasks, n_tasks))
        return L4_E_NOMEM;

    expert_rows_activate(&rows, experts, exec, 0, rows.n_rows);

    for (int64_t r = 0; r < rows.n_rows; r++)
        tasks[r] = expert_down_task(&rows, experts, top_k_index[rows.pair_of_row[r]], r, r + 1);
    if (gemm_run(exec, GEMM_OWN, tasks, (int)rows.n_rows))
        return L4_E_NOMEM;

    expert_rows_combine(&rows, experts, exec, n_tokens, out);
    return 0;
}

const struct experts_backend experts_batched_mm = {
    .name = "batched_mm",
    .help = "each (token, slot) pair a matrix-vector product: for few tokens",
    .batch_invariant = true,
    .forward = batched_mm_forward,
};
