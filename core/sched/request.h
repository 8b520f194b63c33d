/* One request inside the engine: its state, its tokens, and everything it keeps from one step to the next. */
#ifndef CORE_SCHED_REQUEST_H
#define CORE_SCHED_REQUEST_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "core/cache/kv.h"
#include "core/grammar/mask.h"
#include "core/sample/sampler.h"
#include "core/sched/stop.h"
#include "llama4/engine.h"

/* X(name, the states it may go to).  A request that is set back for want of KV pages goes to QUEUED again. */
#define REQUEST_STATES(X)                                                                                              \
    X(QUEUED, BIT(PREFILL) | BIT(CANCELLED) | BIT(FAILED))                                                             \
    X(PREFILL, BIT(DECODE) | BIT(QUEUED) | BIT(DONE) | BIT(CANCELLED) | BIT(FAILED))                                   \
    X(DECODE, BIT(QUEUED) | BIT(DONE) | BIT(CANCELLED) | BIT(FAILED))                                                  \
    X(DONE, 0)                                                                                                         \
    X(CANCELLED, 0)                                                                                                    \
    X(FAILED, 0)

enum request_state {
#define X(name, to) REQUEST_##name,
    REQUEST_STATES(X)
#undef X
        REQUEST_N_STATES
};

/* What requests are held against. */
struct request_limits {
    int32_t vocab_size;
    int64_t max_context_tokens;
    const struct l4_tokenizer *tokenizer; /* NULL: tokens only, no text, no stop strings */
};

struct request {
    struct request *prev, *next; /* in the queue (utlist) */
    enum request_state state;
    uint64_t id;
    uint64_t arrival;             /* set by the scheduler: the smaller, the older */
    const atomic_bool *cancelled; /* set by any thread; outlives the request */
    void *user;
    char log_id[64];

    struct l4_tokens tokens; /* the prompt, then the answer so far */
    int64_t n_prompt;
    int64_t max_tokens; /* resolved: never -1 */
    struct l4_sampling sampling;
    struct l4_logit_bias *logit_bias; /* owned; what sampling.logit_bias points to */
    int32_t *stop_ids;
    size_t n_stop_ids;
    bool ignore_eos, logprobs, prompt_logprobs, embed;
    int n_top_logprobs;
    struct kv_salt salt;
    bool no_prefix_cache;

    double *hidden_sum;             /* [hidden_size], of the tokens in kv; NULL before the first admission, and without
                                       embed */
    struct kv_seq *kv;              /* NULL before the first admission; length 0 after being set back */
    struct sample_history *history; /* NULL where no penalty looks at it */
    struct l4_detok detok;
    struct stop_matcher stop;
    struct l4_grammar *grammar;      /* a reference; NULL = any text */
    struct grammar_matcher *matcher; /* where the answer is in it; NULL before the first token.  Stays when the request
                                        is set back: what was generated is not generated again */
    int64_t n_prompt_computed;       /* high-water mark, what was cached included: recomputation is not counted again */
    int64_t n_cached;                /* of these, what others had computed */
    int64_t n_prompt_events;         /* L4_EVENT_PROMPT events that have gone out */

    double submitted_s, admitted_s, first_token_s; /* negative = not yet */
    struct l4_event *last;                         /* allocated up front: the end of a request needs no memory */
};

/* request_open - check a request against the limits and copy it; state QUEUED.
 *   Errors: L4_E_INVALID (names the field and what is allowed), L4_E_CONTEXT_LENGTH, L4_E_NOMEM. */
int request_open(struct request **out, const struct l4_request *from, const struct request_limits *limits,
                 struct l4_err *err) L4_MUST_CHECK;
void request_close(struct request *request); /* NULL is allowed */

const char *request_state_name(enum request_state state);
bool request_may_go(enum request_state from, enum request_state to);
/* request_set_state - asserts that the table allows it. */
void request_set_state(struct request *request, enum request_state state);

/* Tokens of the answer so far. */
static inline int64_t request_n_generated(const struct request *request) {
    return (int64_t)request->tokens.len - request->n_prompt;
}
/* Whether log-probabilities of the prompt have still to go out. */
static inline bool request_scores_prompt(const struct request *request) {
    return request->prompt_logprobs && request->n_prompt_events < request->n_prompt;
}
/* Tokens whose keys and values are not in the cache: 1 while decoding. */
static inline int64_t request_n_pending(const struct request *request) {
    return (int64_t)request->tokens.len - (request->kv ? kv_seq_length(request->kv) : 0);
}

#endif
