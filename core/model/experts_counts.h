/* What the routers have done since the start: for l4_engine_stats.
 * Thread: the engine's counts, any thread reads meanwhile. */
#ifndef CORE_MODEL_EXPERTS_COUNTS_H
#define CORE_MODEL_EXPERTS_COUNTS_H

#include "core/format/config.h"
#include "core/model/experts.h"
#include "llama4/engine.h"

struct experts_counts {
    int32_t n_experts, n_moe_layers;
    int32_t *moe_layers;              /* [n_moe_layers], their numbers in the model */
    atomic_uint_least64_t *n_tokens;  /* [n_layers][n_experts] */
    atomic_uint_least64_t *n_layers;  /* [all backends], as they are registered */
    const char *const *backend_names; /* likewise, and NULL */
};

/* All zero.  Errors: L4_E_NOMEM; nothing to free then. */
int experts_counts_init(struct experts_counts *counts, const struct model_config *config,
                        struct l4_err *err) L4_MUST_CHECK;
void experts_counts_fini(struct experts_counts *counts);

/* experts_counts_add - one layer of a step, computed by that backend (of `auto` the one that it picked). */
void experts_counts_add(struct experts_counts *counts, const struct experts_backend *backend, int layer,
                        const int32_t *top_k_index, int64_t n_pairs);
/* experts_counts_stats - borrows from *counts. */
void experts_counts_stats(const struct experts_counts *counts, struct l4_experts_stats *stats);

#endif
