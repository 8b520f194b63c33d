/* A stand-in for the model behind llama4_forward, and a clock that only it moves.
 *
 * What it answers is a hash of all tokens of the sequence so far, read back from the KV cache itself: a page that was
 * lost, mixed up or not computed again changes the answer. */
#ifndef TESTS_LIB_FAKE_MODEL_H
#define TESTS_LIB_FAKE_MODEL_H

#include "core/model/llama4.h"

enum { FAKE_MODEL_MAX_STEPS = 4096, FAKE_MODEL_HIDDEN = 8 };

struct fake_model {
    const struct model_config *config;
    double clock_s;                       /* fake_model_now */
    double step_s, decode_s, token_s;     /* what a step costs: base, a single-token segment, another token */
    int64_t max_step_tokens;              /* larger steps fail with L4_E_NOMEM; 0 = none does */
    int fail_code;                        /* every step fails with this; 0 = none does */
    int n_steps;                          /* that went well */
    int64_t tokens[FAKE_MODEL_MAX_STEPS]; /* of each step */
    int64_t logits[FAKE_MODEL_MAX_STEPS]; /* rows of each step */
    double seconds[FAKE_MODEL_MAX_STEPS]; /* of each step */
    int segments[FAKE_MODEL_MAX_STEPS];   /* of each step */
};

/* Two layers, the second one chunked. */
void fake_model_config(struct model_config *config, int32_t vocab_size, int64_t max_tokens, int64_t chunk);
/* A sched_model.forward; ctx is a struct fake_model. */
int fake_model_forward(void *ctx, const struct llama4_segment *segments, int n_segments, float *logits,
                       struct l4_err *err);
double fake_model_now(void *ctx);
/* The last hidden state of token n - 1: [hidden_size]. */
void fake_model_hidden(const struct model_config *config, const int32_t *tokens, int64_t n, float *hidden);
/* The logits after n tokens: [vocab_size]. */
void fake_model_logits(const struct model_config *config, const int32_t *tokens, int64_t n, float *logits);

#endif
