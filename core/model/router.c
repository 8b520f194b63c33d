#include "core/model/router.h"

#include <assert.h>
#include <math.h>

/* NaN ranks last, so that a broken token still goes to some expert. */
static float rank_of(float logit) {
    return isnan(logit) ? -INFINITY : logit;
}

/* The best expert that comes after expert `previous` (-1: none yet) in the order: higher logit, then lower index. */
static int32_t next_best(const float *logits, int32_t num_experts, int32_t previous) {
    int32_t best = -1;
    for (int32_t e = 0; e < num_experts; e++) {
        float rank = rank_of(logits[e]);
        if (previous >= 0) {
            float bound = rank_of(logits[previous]);
            if (rank > bound || (rank == bound && e <= previous))
                continue;
        }
        if (best < 0 || rank > rank_of(logits[best]))
            best = e;
    }
    return best;
}

void router_top_k(const float *router_logits, int64_t n_tokens, int32_t num_experts, int32_t top_k,
                  float *top_k_weights, int32_t *top_k_index) {
    assert(top_k >= 1 && top_k <= num_experts);
    for (int64_t t = 0; t < n_tokens; t++) {
        const float *logits = router_logits + t * num_experts;
        int32_t expert = -1;
        for (int32_t k = 0; k < top_k; k++) {
            expert = next_best(logits, num_experts, expert);
            top_k_index[t * top_k + k] = expert;
            top_k_weights[t * top_k + k] = 1.0f / (1.0f + expf(-logits[expert]));
        }
    }
}
