/* The Llama 4 text model: a batch of pieces of sequences in, logits out. */
#ifndef CORE_MODEL_LLAMA4_H
#define CORE_MODEL_LLAMA4_H

#include <stdint.h>

#include "core/cache/kv.h"
#include "core/format/checkpoint.h"
#include "core/kernels/gemm.h"
#include "core/model/experts.h"
#include "core/model/weights_pack.h"
#include "llama4/engine.h"

struct llama4;

/* One sequence's part of a step: n_tokens tokens at positions kv_seq_length(kv) .. + n_tokens - 1, pages reserved. */
struct llama4_segment {
    struct kv_seq *kv;
    const int32_t *tokens; /* [n_tokens], each within the vocabulary */
    int32_t n_tokens;      /* >= 1 */
    int32_t n_logits;      /* logits of the last n_logits tokens are computed, 0..n_tokens */
    double *hidden_sum;    /* [hidden_size]: the last hidden states of all of its tokens, behind the final norm, are
                              added to it, in order; NULL = nobody wants them */
};

/* Called with intermediate results, rows in batch order; for the reference tests.  layer: hidden_states.0 is the
 * embeddings, hidden_states.i the state after i layers; router tensors carry the layer's own index. */
struct llama4_probe {
    void (*hidden_states)(void *user, int layer, const float *rows, int64_t n_rows, int64_t hidden_size);
    void (*router)(void *user, int layer, const float *router_logits, const int32_t *top_k_index,
                   const float *top_k_weights, int64_t n_rows, int32_t num_experts, int32_t top_k);
    void *user;
};

/* llama4_open - build a model over a checkpoint's mapped weights, packing those that can be.  checkpoint, exec and
 * backend are borrowed until close, loading (NULL = all zero) for the call.  Errors: L4_E_NOMEM. */
int llama4_open(struct llama4 **out, const struct checkpoint *checkpoint, const struct exec *exec,
                const struct experts_backend *backend, const struct weights_loading *loading,
                struct l4_err *err) L4_MUST_CHECK;
void llama4_close(struct llama4 *model);

/* llama4_set_experts - the backend of the steps from now on. */
void llama4_set_experts(struct llama4 *model, const struct experts_backend *backend);
/* The weights as the model multiplies with them (llama4_weights.h), borrowed until close. */
struct llama4_weights;
const struct llama4_weights *llama4_model_weights(const struct llama4 *model);
/* llama4_experts_stats - what the experts of all steps so far were given; borrows from the model.  Any thread. */
void llama4_experts_stats(const struct llama4 *model, struct l4_experts_stats *stats);

/* llama4_forward - one step: writes the keys and values of every segment, advances their KV, and computes logits.
 *   logits [sum of n_logits, vocab_size] f32, caller's, in segment order.
 *   A row's logits and hidden states depend on its own sequence alone, bit for bit, where backend and gemm are
 *   batch-invariant.  Errors: L4_E_NOMEM (KV not advanced, sums untouched: the step may be repeated).  Thread: engine.
 */
int llama4_forward(struct llama4 *model, const struct llama4_segment *segments, int n_segments, float *logits,
                   const struct llama4_probe *probe, struct l4_err *err) L4_MUST_CHECK;

#endif
