/* What the experts backends share: the list of them, the rows that go through experts, and the products.  They differ
 * in which rows are multiplied together, and in how many dispatches. */
#ifndef CORE_MODEL_EXPERTS_COMMON_H
#define CORE_MODEL_EXPERTS_COMMON_H

#include "core/model/experts.h"

/* The registry: X(name), one row a backend, in the order in which they are listed.  experts_NAME is defined in
 * experts_NAME.c. */
#define EXPERTS_BACKENDS(X)                                                                                            \
    X(auto)                                                                                                            \
    X(batched_mm)                                                                                                      \
    X(grouped_mm)                                                                                                      \
    X(eager)

#define X(name) extern const struct experts_backend experts_##name;
EXPERTS_BACKENDS(X)
#undef X

/* One call's rows: one for each (token, slot) pair whose expert lives here.  Pair p is slot p % top_k of token
 * p / top_k. */
struct expert_rows {
    const struct experts *experts;
    const struct exec *exec;
    struct arena *arena;
    const float *hidden_states, *top_k_weights;
    float *out;
    int64_t n_tokens;

    int64_t n_rows;
    int32_t *pair_of_row; /* [n_rows]: the backend's order */
    int32_t *row_of_pair; /* [n_tokens * top_k]; -1 where the expert lives elsewhere */
    float *input;         /* [n_rows, hidden_size]: top_k_weight * hidden_state */
    float *gate_up; /* [n_rows, 2 * intermediate_size]: what the experts' gate and up give, later silu(gate) * up */
    float *output;  /* [n_rows, hidden_size] */
    float *shared_gate_up; /* [n_tokens, 2 * the shared expert's width] */
    float *shared_output;  /* [n_tokens, hidden_size] */
};

/* Storage for n_tokens * top_k rows, none taken yet.  Errors: L4_E_NOMEM. */
int expert_rows_init(struct expert_rows *rows, const struct experts *experts, const struct exec *exec,
                     struct arena *arena, const float *hidden_states, const float *top_k_weights, int64_t n_tokens,
                     float *out) L4_MUST_CHECK;

/* Whether the expert of that index lives here; an index beyond num_experts is a bug. */
bool expert_is_here(const struct experts *experts, int32_t index);

/* The pair takes row `row`. */
void expert_rows_set(struct expert_rows *rows, int64_t row, int64_t pair);

/* Rows begin .. end - 1, which go through one expert. */
struct expert_group {
    int32_t expert;
    int64_t begin, end;
};

/* expert_rows_run - output = expert(input) of every group's rows, in one dispatch.  With `sum`, in the same dispatch,
 * out += the shared expert's output + the sum of each token's rows, in the order of k.  Errors: L4_E_NOMEM. */
int expert_rows_run(struct expert_rows *rows, enum gemm_impl impl, const struct expert_group *groups, int n_groups,
                    bool sum) L4_MUST_CHECK;

#endif
