/* The one interface of every MoE layer, and its interchangeable backends. */
#ifndef CORE_MODEL_EXPERTS_H
#define CORE_MODEL_EXPERTS_H

#include <stdint.h>

#include "core/base/arena.h"
#include "core/kernels/gemm.h"

/* The experts of one layer.  Routed ones: gate_up[e]: hidden -> 2 * intermediate, gate first, or, where that is NULL,
 * gate[e] and up[e]: hidden -> intermediate; down[e]: intermediate -> hidden.  A dense layer has none of them
 * (num_experts = top_k = 0): its feed-forward is a shared expert alone. */
struct experts {
    int32_t num_experts;
    int32_t hidden_size;
    int32_t intermediate_size;
    int32_t top_k;
    const struct matrix *gate_up, *gate, *up; /* [num_experts], borrowed */
    const struct matrix *down;                /* [num_experts], borrowed */
    /* The shared expert, which every token goes through with weight 1; n = 0 where there is none. */
    struct matrix shared_gate, shared_up, shared_down;
};

struct experts_backend;

/* experts_forward - out[t] += shared(hidden_states[t])
 *                           + sum over k of expert(top_k_index[t][k])(top_k_weights[t][k] * hidden_states[t])
 *   hidden_states [n_tokens, hidden_size] f32, borrowed      out [n_tokens, hidden_size] f32, caller's
 *   top_k_index   [n_tokens, top_k] i32, 0..num_experts; num_experts = lives elsewhere: adds nothing, costs nothing,
 *                 and its weight is not looked at
 *   top_k_weights [n_tokens, top_k] f32; multiplies the expert's INPUT
 *   expert(v) = (silu(v @ gate) * (v @ up)) @ down.  The sum over k is taken in the order of k.
 *   All products of the layer, and the sum, are one dispatch (`eager`: two or more for each expert).
 *   arena: working storage; the caller resets it between calls.
 *   Errors: L4_E_NOMEM (out untouched).  Thread: engine.  Source: Llama 4 reference MoE, Hugging Face modeling_llama4.
 */
int experts_forward(const struct experts_backend *backend, const struct experts *experts, const struct exec *exec,
                    struct arena *arena, const float *hidden_states, const int32_t *top_k_index,
                    const float *top_k_weights, int64_t n_tokens, float *out) L4_MUST_CHECK;

/* A backend: a file experts_NAME.c and a row in the registry (experts_common.h). */
struct experts_backend {
    const char *name;
    const char *help;     /* one line: when to choose it */
    bool batch_invariant; /* results do not depend on what else is in the batch, bit for bit */
    /* The backend that forward hands n_tokens tokens on to; NULL: it computes them itself. */
    const struct experts_backend *(*choose)(const struct experts *experts, int64_t n_tokens);
    int (*forward)(const struct experts *experts, const struct exec *exec, struct arena *arena,
                   const float *hidden_states, const int32_t *top_k_index, const float *top_k_weights, int64_t n_tokens,
                   float *out);
};

/* experts_backend_choose - the backend that n_tokens tokens are computed by: of `auto` the one that it picks. */
const struct experts_backend *experts_backend_choose(const struct experts_backend *backend,
                                                     const struct experts *experts, int64_t n_tokens);

/* experts_backend_find - by name.  Errors: L4_E_INVALID; the message lists the valid names. */
int experts_backend_find(const struct experts_backend **out, const char *name, struct l4_err *err) L4_MUST_CHECK;
/* All rows, in order; NULL past the last. */
const struct experts_backend *experts_backend_at(int i);
/* Their names, NULL-terminated. */
const char *const *experts_backend_names(void);

#endif
