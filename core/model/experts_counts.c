#include "core/model/experts_counts.h"

#include <stdlib.h>

#include "core/base/checked.h"

int experts_counts_init(struct experts_counts *counts, const struct model_config *config, struct l4_err *err) {
    size_t n_tokens, n_layers = (size_t)config->n_layers, n_backends = 0;
    *counts = (struct experts_counts){.n_experts = config->n_experts, .backend_names = experts_backend_names()};
    while (counts->backend_names[n_backends])
        n_backends++;
    counts->moe_layers = checked_array(n_layers, sizeof *counts->moe_layers);
    if (checked_mul_size(n_layers, (size_t)config->n_experts, &n_tokens))
        counts->n_tokens = calloc(n_tokens + 1, sizeof *counts->n_tokens); /* without experts none, but not NULL */
    counts->n_layers = calloc(n_backends, sizeof *counts->n_layers);
    if (!counts->moe_layers || !counts->n_tokens || !counts->n_layers) {
        experts_counts_fini(counts);
        return l4_err_set(err, L4_E_NOMEM, "no memory to count the tokens of experts");
    }
    for (int32_t i = 0; i < config->n_layers; i++)
        if (config->layers[i].is_moe)
            counts->moe_layers[counts->n_moe_layers++] = i;
    return 0;
}

void experts_counts_fini(struct experts_counts *counts) {
    free(counts->moe_layers);
    free(counts->n_tokens);
    free(counts->n_layers);
    *counts = (struct experts_counts){0};
}

static void count(atomic_uint_least64_t *counter) {
    atomic_fetch_add_explicit(counter, 1, memory_order_relaxed);
}

void experts_counts_add(struct experts_counts *counts, const struct experts_backend *backend, int layer,
                        const int32_t *top_k_index, int64_t n_pairs) {
    for (int i = 0; counts->backend_names[i]; i++)
        if (experts_backend_at(i) == backend)
            count(&counts->n_layers[i]);
    atomic_uint_least64_t *n_tokens = counts->n_tokens + (size_t)layer * (size_t)counts->n_experts;
    for (int64_t pair = 0; pair < n_pairs; pair++)
        if (top_k_index[pair] < counts->n_experts) /* that index itself: it lives elsewhere */
            count(&n_tokens[top_k_index[pair]]);
}

void experts_counts_stats(const struct experts_counts *counts, struct l4_experts_stats *stats) {
    *stats = (struct l4_experts_stats){
        .n_experts = counts->n_experts,
        .n_moe_layers = counts->n_moe_layers,
        .moe_layers = counts->moe_layers,
        .n_tokens = counts->n_tokens,
        .n_layers = counts->n_layers,
    };
}
