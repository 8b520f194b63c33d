/* auto: batched_mm where hardly two pairs meet at an expert, else grouped_mm.  Both give the same bits: only speed is
 * at stake. */
#include "core/model/experts_common.h"

/* grouped_mm reads an expert's weights once for all of its rows.  Where there is hardly anything to share, batched_mm
 * saves the sorting: level at large sizes, 5 to 15% at those that fit into caches. */
enum { MANY_EXPERTS_PER_PAIR = 8 };

static const struct experts_backend *auto_choose(const struct experts *experts, int64_t n_tokens) {
    bool few = n_tokens == 1 || n_tokens * experts->top_k * MANY_EXPERTS_PER_PAIR <= experts->num_experts;
    return few ? &experts_batched_mm : &experts_grouped_mm;
}

static int auto_forward(const struct experts *experts, const struct exec *exec, struct arena *arena,
                        const float *hidden_states, const int32_t *top_k_index, const float *top_k_weights,
                        int64_t n_tokens, float *out) {
    const struct experts_backend *backend = auto_choose(experts, n_tokens);
    return backend->forward(experts, exec, arena, hidden_states, top_k_index, top_k_weights, n_tokens, out);
}

const struct experts_backend experts_auto = {
    .name = "auto",
    .help = "batched_mm or grouped_mm by the number of tokens per expert; their results are the same bit for bit",
    .batch_invariant = true,
    .choose = auto_choose,
    .forward = auto_forward,
};
