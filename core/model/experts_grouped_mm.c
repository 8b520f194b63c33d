/* grouped_mm: sort the (token, slot) pairs by expert, then one grouped product: each expert multiplies its rows at
 * once, and the tiles of all experts share one parallel dispatch. */
#include <string.h>

#include "core/model/experts_common.h"

/* Stable counting sort of the pairs by expert: expert e gets rows first_row[e] .. first_row[e + 1] - 1. */
static void sort_by_expert(struct expert_rows *rows, const int32_t *top_k_index, int64_t *first_row,
                           int64_t *next_row) {
    const struct experts *experts = rows->experts;
    const int64_t n_pairs = rows->n_tokens * experts->top_k;
    const int32_t n = experts->num_experts;
    memset(first_row, 0, (size_t)(n + 1) * sizeof *first_row);
    for (int64_t pair = 0; pair < n_pairs; pair++)
        if (expert_is_here(experts, top_k_index[pair]))
            first_row[top_k_index[pair] + 1]++;
    for (int32_t e = 0; e < n; e++) {
        first_row[e + 1] += first_row[e];
        next_row[e] = first_row[e];
    }
    for (int64_t pair = 0; pair < n_pairs; pair++)
        if (expert_is_here(experts, top_k_index[pair]))
            expert_rows_set(rows, next_row[top_k_index[pair]]++, pair);
    rows->n_rows = first_row[n];
}

static int grouped_mm_forward(const struct experts *experts, const struct exec *exec, struct arena *arena,
                              const float *hidden_states, const int32_t *top_k_index, const float *top_k_weights,
                              int64_t n_tokens, float *out) {
    const int32_t n = experts->num_experts;
    struct expert_rows rows;
    int64_t *first_row = arena_alloc(arena, (size_t)n + 1, sizeof *first_row);
    int64_t *next_row = arena_alloc(arena, (size_t)n, sizeof *next_row);
    struct expert_group *groups = arena_alloc(arena, (size_t)n, sizeof *groups);
    if (!first_row || !next_row || !groups ||
        expert_rows_init(&rows, experts, exec, arena, hidden_states, top_k_weights, n_tokens, out))
        return L4_E_NOMEM;
    sort_by_expert(&rows, top_k_index, first_row, next_row);

    int n_groups = 0;
    for (int32_t e = 0; e < n; e++)
        if (first_row[e] < first_row[e + 1])
            groups[n_groups++] = (struct expert_group){e, first_row[e], first_row[e + 1]};
    return expert_rows_run(&rows, GEMM_OWN, groups, n_groups, true);
}

const struct experts_backend experts_grouped_mm = {
    .name = "grouped_mm",
    .help = "pairs sorted by expert, one grouped product over all of them: for many tokens",
    .batch_invariant = true,
    .forward = grouped_mm_forward,
};
