/* What the experts backends share: the list of them, and the steps that each of them takes.  They differ in the order
 * of the rows and in how the two matrix products are run. */
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

/* One row for each (token, slot) pair whose expert lives here.  Pair p is slot p % top_k of token p / top_k. */
struct expert_rows {
    int64_t n_rows;
    int32_t *pair_of_row; /* [n_rows]: the backend's order */
    int32_t *row_of_pair; /* [n_tokens * top_k]; -1 where the expert lives elsewhere */
    float *input;         /* [n_rows, hidden_size] */
    float *gate_up;       /* [n_rows, 2 * intermediate_size] */
    float *output;        /* [n_rows, hidden_size] */
};

/* Storage for n_tokens * top_k rows, none taken yet.  Errors: L4_E_NOMEM. */
int expert_rows_alloc(struct expert_rows *rows, const struct experts *experts, struct arena *arena,
                      int64_t n_tokens) L4_MUST_CHECK;

/* Whether the expert of that index lives here; an index beyond num_experts is a bug. */
bool expert_is_here(const struct experts *experts, int32_t index);

/* The pair takes row `row`. */
void expert_rows_set(struct expert_rows *rows, int64_t row, int64_t pair);

/* The steps, on rows begin .. end - 1; the two products all with expert e.
 *   input = top_k_weight * hidden_state of the row's pair */
void expert_rows_gather(const struct expert_rows *rows, const struct experts *experts, const struct exec *exec,
                        const float *hidden_states, const float *top_k_weights, int64_t begin, int64_t end);
/*   gate_up = input @ gate_up[e], or input @ gate[e] beside input @ up[e]: one or two tasks, which are returned */
enum { EXPERT_GATE_UP_TASKS = 2 };
int expert_gate_up_tasks(const struct expert_rows *rows, const struct experts *experts, int32_t e, int64_t begin,
                         int64_t end, struct gemm_task tasks[EXPERT_GATE_UP_TASKS]);
/*   the gate half of gate_up = silu(gate) * up */
void expert_rows_activate(const struct expert_rows *rows, const struct experts *experts, const struct exec *exec,
                          int64_t begin, int64_t end);
/*   output = the gate half of gate_up @ down[e] */
struct gemm_task expert_down_task(const struct expert_rows *rows, const struct experts *experts, int32_t e,
                                  int64_t begin, int64_t end);

/* out[t] = sum over k, in the order of k, of the outputs of token t's pairs. */
void expert_rows_combine(const struct expert_rows *rows, const struct experts *experts, const struct exec *exec,
                         int64_t n_tokens, float *out);

#endif
