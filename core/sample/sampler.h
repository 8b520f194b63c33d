/* From logits to a token, and the log-probabilities that are reported.  Pure functions of their arguments. */
#ifndef CORE_SAMPLE_SAMPLER_H
#define CORE_SAMPLE_SAMPLER_H

#include <stdbool.h>
#include <stdint.h>

#include "core/kernels/kernels.h"
#include "llama4/engine.h"

/* What the penalties look at: counts per id.  Kept up to date token by token, so that a step costs no pass over
 * history; storage grows with the number of different ids. */
struct sample_history;
int sample_history_open(struct sample_history **out) L4_MUST_CHECK; /* 0 or L4_E_NOMEM */
void sample_history_close(struct sample_history *history);
/* sample_history_add - id >= 0; is_answer: generated rather than given.  Returns 0, or L4_E_NOMEM and
 * nothing changed. */
int sample_history_add(struct sample_history *history, int32_t id, bool is_answer) L4_MUST_CHECK;

/* Working storage for one vocabulary (16 bytes an id), reused between calls; one thread at a time.  kernels is borrowed
 * until close. */
struct sampler;
int sampler_open(struct sampler **out, int32_t vocab_size, const struct kernels *kernels) L4_MUST_CHECK;
void sampler_close(struct sampler *sampler);

/* The tokens that may be drawn: those whose bit is set, and a few more. */
struct sample_mask {
    const uint64_t *bits; /* [(vocab + 63) / 64]: id i is bit i % 64 of bits[i / 64] */
    const int32_t *also;
    size_t n_also;
};

/* In all functions below logits [vocab] f32 is borrowed.  A logit that is NaN counts as -inf, +inf as the largest
 * float; where every logit is -inf, everything goes to id 0.  What *sampling holds, ids included, was checked by the
 * caller. */

/* sampler_probs - the distribution that sampling draws from: probs [vocab] f32, caller's, sums to 1.
 *   Order: logit_bias, penalties, temperature, top_k, top_p, min_p.  history NULL = none.
 *   temperature 0 puts everything on the largest logit, the lowest id among equals.
 *   top_k keeps every logit that equals the k-th largest; top_p takes equals in the order of their ids.
 *   Time is linear in vocab whatever is asked for: thresholds are found by counting, nothing is sorted.
 *   Source: transformers' logits processors; presence and frequency penalty as OpenAI defines them. */
void sampler_probs(struct sampler *sampler, const struct l4_sampling *sampling, const struct sample_history *history,
                   const float *logits, float *probs);

/* sampler_next_masked - sampler_next among the tokens of a mask, at least one, which is applied before everything else:
 * no other is ever drawn, and of those that may be, one without a finite logit counts as very unlikely. */
int32_t sampler_next_masked(struct sampler *sampler, const struct l4_sampling *sampling,
                            const struct sample_history *history, const struct sample_mask *mask, const float *logits,
                            uint64_t index);

/* sampler_next - the token at place `index` of the answer (0, 1, ...): depends on logits, sampling, history, seed and
 * index alone.  The random number is the index-th output of splitmix64 seeded with a mix of the seed, so that a request
 * can be taken up again anywhere. */
int32_t sampler_next(struct sampler *sampler, const struct l4_sampling *sampling, const struct sample_history *history,
                     const float *logits, uint64_t index);

/* sampler_logprobs - log-softmax of the raw logits for token `id` and for the n_top best (ties: lowest id first).
 *   top [n_top], caller's; entries beyond the vocabulary get id -1.  A logit of -inf has log-probability -INFINITY. */
void sampler_logprobs(struct sampler *sampler, const float *logits, int32_t id, struct l4_logprob *token,
                      struct l4_logprob *top, int n_top);

#endif
