/* The scheduler: continuous batching over one model and one KV pool.
 *
 * Between two steps requests join and leave.  A step takes one token of every sequence that decodes and then pieces of
 * prompts, oldest first, as many tokens as time allows (step_cost.h).  First come, first served: nobody overtakes the
 * head of the queue.  When KV pages run out, the youngest running sequence is set back to the head of the queue and
 * computed again later; the oldest can always go on, since the pool holds one full context.  Cached pages that nobody
 * uses count as free everywhere: they never make anyone wait.
 *
 * None of that shows in the results: what a request gets depends on the request alone.
 * Thread: engine (request->cancelled and the stored statistics aside). */
#ifndef CORE_SCHED_SCHED_H
#define CORE_SCHED_SCHED_H

#include "core/model/llama4.h"
#include "core/sched/request.h"

struct sched;

/* What runs a step: llama4_forward, or a stand-in of the same meaning. */
struct sched_model {
    int (*forward)(void *ctx, const struct llama4_segment *segments, int n_segments, float *logits, struct l4_err *err);
    void *ctx;
};

/* For tests: other decisions than the scheduler's own, which must not change any result.  Members may be NULL. */
struct sched_hooks {
    /* A chunk of `planned` tokens may be made shorter: returns 1..planned. */
    int32_t (*chunk)(void *user, int32_t planned);
    /* Before a step: how many of the n_running youngest sequences are set back. */
    int (*preempt)(void *user, int n_running);
    void *user;
};

struct sched_config {
    struct sched_model model;
    const struct model_config *model_config; /* borrowed until close, as all below */
    struct kv_pool *kv;                      /* holds at least one sequence of the longest context */
    const struct kernels *kernels;
    const struct l4_tokenizer *tokenizer; /* may be NULL */
    const int32_t *end_ids;               /* the model's own end tokens */
    int n_end_ids;
    int max_running;
    double max_step_s;
    int32_t max_chunk_tokens;
    double (*now)(void *ctx); /* seconds, monotonic */
    void *now_ctx;
    void (*log)(void *user, enum l4_log_level level, const char *message); /* may be NULL */
    void *log_user;
    struct sched_hooks hooks;
};

/* sched_open - config is copied.  Errors: L4_E_NOMEM. */
int sched_open(struct sched **out, const struct sched_config *config, struct l4_err *err) L4_MUST_CHECK;
/* sched_close - with the requests still in it and the events not taken; NULL is allowed. */
void sched_close(struct sched *sched);

/* sched_add - to the end of the queue. */
void sched_add(struct sched *sched, struct request *take_request);
/* Whether anything is queued or running: whether sched_step has work. */
bool sched_busy(const struct sched *sched);
/* sched_step - drop what was cancelled, admit, run one step of the model. */
void sched_step(struct sched *sched);
/* sched_take_events - the events since the last call, oldest first, the caller's. */
struct l4_event *sched_take_events(struct sched *sched);
/* n_queued and n_running, the pages, and the counters. */
void sched_stats(const struct sched *sched, struct l4_engine_stats *stats);

#endif
