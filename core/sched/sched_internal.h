/* Between the files of the scheduler: sched.c (queue, admission, the step), plan.c (what a step holds), output.c (from
 * logits to events). */
#ifndef CORE_SCHED_SCHED_INTERNAL_H
#define CORE_SCHED_SCHED_INTERNAL_H

#include "core/sched/sched.h"
#include "core/sched/step_cost.h"

/* Rows of logits in a step besides one for each running sequence: bounds the chunks of requests that want
 * log-probabilities of the prompt. */
enum { SCHED_PROMPT_LOGITS_ROWS = 64 };

/* A sequence's part of a step. */
struct plan_entry {
    struct request *request;
    int32_t n_tokens;
    int32_t n_logits; /* of the last n_logits tokens */
};

struct sched {
    struct sched_config config;
    struct request *queue;    /* waiting, oldest first (utlist) */
    struct request **running; /* [n_running], oldest first, each older than all that wait */
    int n_queued, n_running;
    uint64_t n_arrived;

    struct plan_entry *plan; /* [n_plan]: decodes, then prompts */
    int n_plan;
    struct llama4_segment *segments; /* [max_running] */
    float *logits;                   /* [max_running + SCHED_PROMPT_LOGITS_ROWS][vocab_size] */
    struct sampler *sampler;
    struct trie_vocab *trie; /* of the tokenizer's tokens; NULL without one */
    struct grammar_masks *masks;
    struct l4_buf detokenized, visible; /* working storage of one token's text */
    struct step_cost cost;

    struct l4_event *events, *last_event;
    uint64_t steps, preemptions, prompt_tokens, generated_tokens;
    uint64_t prefix_lookups, prefix_hits, prefix_hit_tokens;
};

static inline double sched_now(const struct sched *sched) {
    return sched->config.now(sched->config.now_ctx);
}
void sched_log(const struct sched *sched, enum l4_log_level level, const struct request *request, const char *fmt, ...)
    L4_PRINTF(4, 5);

/* ---- sched.c ---- */
/* Take over what the prefix cache holds of the request's pending tokens. */
void sched_reuse(struct sched *sched, struct request *request);
/* Set the youngest running sequence back to the head of the queue. */
void sched_preempt_youngest(struct sched *sched, const char *why);
/* The request has reached a final state and left: take it out of the running ones and free it. */
void sched_remove(struct sched *sched, struct request *request);

/* ---- plan.c ---- */
/* plan_build - fill sched->plan and reserve the KV pages of its entries. */
void plan_build(struct sched *sched);
/* plan_reduce - leave the younger half out, or halve the only chunk; false when a single token is left. */
bool plan_reduce(struct sched *sched);

/* ---- output.c ---- */
/* output_step - after the forward pass of sched->plan: events, next tokens, ends. */
void output_step(struct sched *sched, double now_s);
/* The request ends here: its last event goes out and it is freed. */
void output_done(struct sched *sched, struct request *request, enum l4_finish finish, int32_t stop_token, double now_s);
void output_error(struct sched *sched, struct request *request, const struct l4_err *error, double now_s);

#endif
