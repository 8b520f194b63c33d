#include <assert.h>
#include <string.h>

#include "core/sched/sched_internal.h"

/* Rows of logits that the request's next n tokens ask for: all of them where they may predict prompt tokens that are to
 * be scored, none for an embedding, else the last one of all, which gives the next token. */
static int32_t logits_wanted(const struct request *request, int64_t n) {
    if (request_scores_prompt(request))
        return (int32_t)n;
    return !request->embed && n == request_n_pending(request);
}

/* Take the youngest running sequence out of the plan, if it is there, and set it back. */
static void set_back_youngest(struct sched *sched) {
    const struct request *youngest = sched->running[sched->n_running - 1];
    for (int i = 0; i < sched->n_plan; i++)
        if (sched->plan[i].request == youngest) {
            sched->n_plan--;
            memmove(&sched->plan[i], &sched->plan[i + 1], (size_t)(sched->n_plan - i) * sizeof sched->plan[0]);
            break;
        }
    sched_preempt_youngest(sched, "no free KV pages");
}

enum added {
    ADDED,
    ADDED_NOT, /* no pages: being the youngest, it sits this step out and keeps what it has while older ones go on */
    ADDED_GONE /* it failed and left */
};

/* Put a sequence into the plan, making room at the cost of younger ones. */
static enum added plan_add(struct sched *sched, struct request *request, int32_t n_tokens) {
    int rc = kv_seq_reserve(request->kv, n_tokens);
    while (rc == L4_E_KV_FULL && sched->running[sched->n_running - 1] != request) {
        set_back_youngest(sched);
        rc = kv_seq_reserve(request->kv, n_tokens);
    }
    if (rc == L4_E_KV_FULL && sched->n_running > 1)
        return ADDED_NOT;
    if (rc != 0) {
        struct l4_err error;
        l4_err_set(&error, rc, "cannot extend the KV cache of a sequence by %d tokens", (int)n_tokens);
        output_error(sched, request, &error, sched_now(sched));
        return ADDED_GONE;
    }
    sched->plan[sched->n_plan++] = (struct plan_entry){
        .request = request,
        .n_tokens = n_tokens,
        .n_logits = logits_wanted(request, n_tokens),
    };
    return ADDED;
}

static void plan_decodes(struct sched *sched) {
    for (int i = 0; i < sched->n_running;) {
        struct request *request = sched->running[i];
        if (request->state != REQUEST_DECODE || plan_add(sched, request, 1) != ADDED_GONE)
            i++;
    }
}

/* How many of its pending tokens a prompt may add to the step. */
static int64_t chunk_of(const struct sched *sched, const struct request *request, int64_t tokens_left,
                        int64_t rows_left) {
    const struct sched_hooks *hooks = &sched->config.hooks;
    int64_t n = request_n_pending(request);
    if (n > tokens_left)
        n = tokens_left;
    if (request_scores_prompt(request) && n > rows_left)
        n = rows_left;
    return n > 0 && hooks->chunk ? hooks->chunk(hooks->user, (int32_t)n) : n;
}

static void plan_prompts(struct sched *sched) {
    int64_t tokens_left =
        step_cost_chunk(&sched->cost, sched->n_plan, sched->config.max_step_s, sched->config.max_chunk_tokens);
    int64_t rows_left = SCHED_PROMPT_LOGITS_ROWS;
    for (int i = 0; i < sched->n_running && tokens_left > 0;) {
        struct request *request = sched->running[i];
        if (request->state != REQUEST_PREFILL) {
            i++;
            continue;
        }
        sched_reuse(sched, request); /* an older one may have computed the same since this one was admitted */
        int64_t n = chunk_of(sched, request, tokens_left, rows_left);
        if (n == 0)
            return; /* no rows left: it goes on in the next step, and nobody overtakes it */
        enum added added = plan_add(sched, request, (int32_t)n);
        if (added == ADDED) {
            tokens_left -= n;
            if (request_scores_prompt(request))
                rows_left -= sched->plan[sched->n_plan - 1].n_logits;
        }
        if (added != ADDED_GONE)
            i++;
    }
}

void plan_build(struct sched *sched) {
    sched->n_plan = 0;
    plan_decodes(sched);
    plan_prompts(sched);
}

bool plan_reduce(struct sched *sched) {
    struct plan_entry *first = &sched->plan[0];
    if (sched->n_plan > 1) {
        sched->n_plan = (sched->n_plan + 1) / 2;
        return true;
    }
    if (first->n_tokens == 1)
        return false;
    first->n_tokens /= 2;
    first->n_logits = logits_wanted(first->request, first->n_tokens);
    return true;
}
