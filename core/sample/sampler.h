/* From logits to a token, and the log-probabilities that are reported.  Pure functions of their arguments. */
#ifndef CORE_SAMPLE_SAMPLER_H
#define CORE_SAMPLE_SAMPLER_H

#include <stdint.h>

#include "core/kernels/kernels.h"
#include "llama4/engine.h"

/* What the penalties look at: counts per id.  Kept up to date token by token, so that a step costs no pass over
 * history. */
struct sample_history;
int sample_history_open(struct sample_history **out, int32_t vocab_size) L4_MUST_CHECK;
void sample_history_close(struct sample_history *history);
int sample_history_add(struct sample_history *history, int32_t id, bool is_answer) L4_MUST_CHECK; /* 0 or L4_E_NOMEM */

/* Working storage for one vocabulary, reused between calls; one thread at a time. */
struct sampler;
int sampler_open(struct sampler **out, int32_t vocab_size, const struct kernels *kernels) L4_MUST_CHECK;
void sampler_close(struct sampler *sampler);

/* sampler_probs - the distribution that sampling draws from: probs [vocab] f32, caller's, sums to 1.
 *   logits [vocab] f32, borrowed.  Order: logit_bias, penalties, temperature, top_k, top_p, min_p.
 *   temperature 0 puts everything on the largest logit, the lowest id among equals.
 *   history NULL = none.  Source: transformers' logits processors. */
void sampler_probs(struct sampler *sampler, const struct l4_sampling *sampling, const struct sample_history *history,
                   const float *logits, float *probs);

/* sampler_next - the token at place `index` of the answer (0, 1, ...): depends on logits, sampling, history, seed and
 * index alone. */
int32_t sampler_next(struct sampler *sampler, const struct l4_sampling *sampling, const struct sample_history *history,
                     const float *logits, uint64_t index);

/* sampler_logprobs - log-softmax of the raw logits for token `id` and the n_top best (ties: lowest id first). */
void sampler_logprobs(struct sampler *sampler, const float *logits, int32_t id, struct l4_logprob *token,
                      struct l4_logprob *top, int n_top);

#endif
