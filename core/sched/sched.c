#include "core/sched/sched.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include "core/base/checked.h"
#include "core/sched/sched_internal.h"

void sched_log(const struct sched *sched, enum l4_log_level level, const struct request *request, const char *fmt,
               ...) {
    if (!sched->config.log)
        return;
    char text[256], line[384];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    snprintf(line, sizeof line, "request %s: %s", request->log_id, text);
    sched->config.log(sched->config.log_user, level, line);
}

/* What a grammar may be made of: text, no special tokens. */
static const char *token_text(const void *tokenizer, int32_t id, size_t *len_bytes) {
    return l4_tokenizer_is_special(tokenizer, id) ? NULL : l4_tokenizer_bytes(tokenizer, id, len_bytes);
}

static int open_grammars(struct sched *sched) {
    if (!sched->config.tokenizer)
        return 0;
    int rc = trie_open(&sched->trie, sched->config.model_config->vocab_size, token_text, sched->config.tokenizer);
    return rc ? rc : grammar_masks_open(&sched->masks, sched->trie);
}

int sched_open(struct sched **out, const struct sched_config *config, struct l4_err *err) {
    size_t n = (size_t)config->max_running, vocab = (size_t)config->model_config->vocab_size, n_logits;
    struct sched *sched = calloc(1, sizeof *sched);
    if (!sched)
        return l4_err_set(err, L4_E_NOMEM, "no memory for the scheduler");
    sched->config = *config;
    sched->running = checked_array(n, sizeof(struct request *));
    sched->plan = checked_array(n, sizeof *sched->plan);
    sched->segments = checked_array(n, sizeof *sched->segments);
    /* Large for a real vocabulary, but only the rows that are used get memory. */
    if (checked_mul_size(n + SCHED_PROMPT_LOGITS_ROWS, vocab, &n_logits))
        sched->logits = checked_array(n_logits, sizeof *sched->logits);
    if (!sched->running || !sched->plan || !sched->segments || !sched->logits ||
        sampler_open(&sched->sampler, config->model_config->vocab_size, config->kernels) != 0 ||
        open_grammars(sched) != 0) {
        sched_close(sched);
        return l4_err_set(err, L4_E_NOMEM, "no memory for a scheduler of %zu sequences", n);
    }
    *out = sched;
    return 0;
}

void sched_close(struct sched *sched) {
    if (!sched)
        return;
    for (int i = 0; i < sched->n_running; i++)
        request_close(sched->running[i]);
    struct request *request, *next;
    DL_FOREACH_SAFE(sched->queue, request, next) {
        request_close(request);
    }
    for (struct l4_event *event = sched->events; event;) {
        struct l4_event *after = event->next;
        l4_event_free(event);
        event = after;
    }
    sampler_close(sched->sampler);
    grammar_masks_close(sched->masks);
    trie_close(sched->trie);
    l4_buf_free(&sched->detokenized);
    l4_buf_free(&sched->visible);
    free(sched->logits);
    free(sched->segments);
    free(sched->plan);
    free(sched->running);
    free(sched);
}

void sched_add(struct sched *sched, struct request *take_request) {
    take_request->arrival = sched->n_arrived++;
    DL_APPEND(sched->queue, take_request);
    sched->n_queued++;
}

bool sched_busy(const struct sched *sched) {
    return sched->n_queued + sched->n_running > 0;
}

struct l4_event *sched_take_events(struct sched *sched) {
    struct l4_event *events = sched->events;
    sched->events = sched->last_event = NULL;
    return events;
}

void sched_stats(const struct sched *sched, struct l4_engine_stats *stats) {
    int64_t total = kv_pool_total_pages(sched->config.kv);
    *stats = (struct l4_engine_stats){
        .n_queued = sched->n_queued,
        .n_running = sched->n_running,
        .kv_pages_used = total - kv_pool_free_pages(sched->config.kv),
        .kv_pages_total = total,
        .kv_pages_cached = kv_pool_cached_pages(sched->config.kv),
        .steps = sched->steps,
        .preemptions = sched->preemptions,
        .prompt_tokens = sched->prompt_tokens,
        .generated_tokens = sched->generated_tokens,
        .prefix_lookups = sched->prefix_lookups,
        .prefix_hits = sched->prefix_hits,
        .prefix_hit_tokens = sched->prefix_hit_tokens,
        .prefix_evicted_pages = kv_pool_evicted_pages(sched->config.kv),
    };
}

void sched_remove(struct sched *sched, struct request *request) {
    for (int i = 0; i < sched->n_running; i++)
        if (sched->running[i] == request) {
            sched->n_running--;
            memmove(&sched->running[i], &sched->running[i + 1],
                    (size_t)(sched->n_running - i) * sizeof(struct request *));
            request_close(request);
            return;
        }
    DL_DELETE(sched->queue, request);
    sched->n_queued--;
    request_close(request);
}

void sched_preempt_youngest(struct sched *sched, const char *why) {
    struct request *request = sched->running[--sched->n_running];
    assert(!sched->queue || request->arrival < sched->queue->arrival);
    sched_log(sched, L4_LOG_DEBUG, request, "set back after %lld tokens: %s", (long long)kv_seq_length(request->kv),
              why);
    kv_seq_clear(request->kv);
    request_set_state(request, REQUEST_QUEUED);
    DL_PREPEND(sched->queue, request);
    sched->n_queued++;
    sched->preemptions++;
}

static void drop_cancelled(struct sched *sched, double now_s) {
    for (int i = sched->n_running - 1; i >= 0; i--)
        if (atomic_load_explicit(sched->running[i]->cancelled, memory_order_relaxed))
            output_done(sched, sched->running[i], L4_FINISH_CANCELLED, -1, now_s);
    struct request *request, *next;
    DL_FOREACH_SAFE(sched->queue, request, next) {
        if (atomic_load_explicit(request->cancelled, memory_order_relaxed))
            output_done(sched, request, L4_FINISH_CANCELLED, -1, now_s);
    }
}

/* ---- admission ------------------------------------------------------------------------------------------------ */

/* Pages that a sequence needs for what it holds now and the next few tokens, besides those that it has. */
static int64_t pages_to_come(const struct sched *sched, const struct request *request) {
    int64_t pages = kv_pages_needed(sched->config.model_config, (int64_t)request->tokens.len + KV_PAGE_TOKENS,
                                    sched->config.max_chunk_tokens);
    int64_t has = kv_seq_pages(request->kv);
    return pages > has ? pages - has : 0;
}

/* Whether the pages are there for the whole prompt of one more, whatever the others' prompts still need: so nobody is
 * set back soon after, except by answers growing long.  What it has got from the prefix cache is in use already. */
static bool has_room(const struct sched *sched, const struct request *request) {
    if (sched->n_running == 0)
        return true;
    int64_t pages = pages_to_come(sched, request);
    for (int i = 0; i < sched->n_running; i++)
        pages += pages_to_come(sched, sched->running[i]);
    return pages <= kv_pool_free_pages(sched->config.kv);
}

/* How many of its tokens may come out of the cache: one is computed to get the next, and all whose logits score the
 * prompt. */
static int64_t max_reused(const struct request *request) {
    if (request_scores_prompt(request))
        return request->n_prompt_events > 0 ? request->n_prompt_events - 1 : 0;
    return (int64_t)request->tokens.len - 1;
}

/* What a prompt's computed part has grown by since the last look. */
static int64_t prompt_progress(struct sched *sched, struct request *request) {
    int64_t computed = kv_seq_length(request->kv), before = request->n_prompt_computed;
    if (computed > request->n_prompt)
        computed = request->n_prompt;
    if (computed <= before)
        return 0;
    request->n_prompt_computed = computed;
    sched->prompt_tokens += (uint64_t)(computed - before);
    return computed - before;
}

/* Not what a sequence that was set back finds of its own. */
static void count_cached(struct sched *sched, struct request *request) {
    int64_t n = prompt_progress(sched, request);
    sched->prefix_hits += n > 0 && request->n_cached == 0;
    sched->prefix_hit_tokens += (uint64_t)n;
    request->n_cached += n;
}

void sched_reuse(struct sched *sched, struct request *request) {
    if (kv_seq_reuse(request->kv, request->tokens.ids, max_reused(request)) > 0)
        count_cached(sched, request);
}

/* What a request needs only once it runs: a long queue stays cheap. */
static int prepare(struct sched *sched, struct request *request) {
    const struct l4_sampling *s = &request->sampling;
    if (!request->kv) {
        int rc = kv_seq_open(&request->kv, sched->config.kv, NULL);
        if (rc != 0)
            return rc;
        if (!request->no_prefix_cache)
            kv_seq_share(request->kv, &request->salt);
    }
    size_t hidden = (size_t)sched->config.model_config->hidden_size;
    if (request->embed && !request->hidden_sum && !(request->hidden_sum = checked_array(hidden, sizeof(double))))
        return L4_E_NOMEM;
    for (size_t i = 0; request->hidden_sum && i < hidden; i++) /* set back: all of its tokens are computed again */
        request->hidden_sum[i] = 0;
    if (request->history || (s->repetition_penalty == 1 && s->presence_penalty == 0 && s->frequency_penalty == 0))
        return 0;
    int rc = sample_history_open(&request->history);
    for (int64_t i = 0; rc == 0 && i < request->n_prompt; i++)
        rc = sample_history_add(request->history, request->tokens.ids[i], false);
    return rc;
}

static void admit(struct sched *sched, double now_s) {
    while (sched->queue && sched->n_running < sched->config.max_running) {
        struct request *request = sched->queue;
        if (prepare(sched, request) != 0) {
            struct l4_err error;
            l4_err_set(&error, L4_E_NOMEM, "no memory to start the request");
            output_error(sched, request, &error, now_s);
            continue;
        }
        kv_seq_reuse(request->kv, request->tokens.ids, max_reused(request));
        if (!has_room(sched, request)) {
            kv_seq_clear(request->kv);
            return;
        }
        DL_DELETE(sched->queue, request);
        sched->n_queued--;
        sched->running[sched->n_running++] = request;
        request_set_state(request, REQUEST_PREFILL);
        if (request->admitted_s < 0 && kv_seq_shares(request->kv) && max_reused(request) > 0)
            sched->prefix_lookups++;
        count_cached(sched, request);
        if (request->admitted_s < 0)
            request->admitted_s = now_s;
        sched_log(sched, L4_LOG_DEBUG, request,
                  "runs: %lld prompt tokens, %lld generated, %lld cached, %d running, %d waiting",
                  (long long)request->n_prompt, (long long)request_n_generated(request),
                  (long long)kv_seq_length(request->kv), sched->n_running, sched->n_queued);
    }
}

/* ---- a step --------------------------------------------------------------------------------------------------- */

static int forward(struct sched *sched, struct l4_err *err) {
    for (int i = 0; i < sched->n_plan; i++) {
        const struct plan_entry *entry = &sched->plan[i];
        sched->segments[i] = (struct llama4_segment){
            .kv = entry->request->kv,
            .tokens = entry->request->tokens.ids + kv_seq_length(entry->request->kv),
            .n_tokens = entry->n_tokens,
            .n_logits = entry->n_logits,
            .hidden_sum = entry->request->hidden_sum,
        };
    }
    const struct sched_model *model = &sched->config.model;
    return model->forward(model->ctx, sched->segments, sched->n_plan, sched->logits, err);
}

/* The step cannot be run even for one token (no memory), or the model failed: what is in it ends with the error. */
static void fail_plan(struct sched *sched, const struct l4_err *error) {
    double now_s = sched_now(sched);
    for (int i = 0; i < sched->n_plan; i++)
        output_error(sched, sched->plan[i].request, error, now_s);
}

static void observe(struct sched *sched, double seconds) {
    int64_t n_decode = 0, n_prompt = 0;
    for (int i = 0; i < sched->n_plan; i++) {
        const struct plan_entry *entry = &sched->plan[i];
        struct request *request = entry->request;
        if (request->state == REQUEST_DECODE)
            n_decode++;
        else
            n_prompt += entry->n_tokens;
        prompt_progress(sched, request);
    }
    step_cost_observe(&sched->cost, n_decode, n_prompt, seconds);
    sched->steps++;
}

void sched_step(struct sched *sched) {
    double start_s = sched_now(sched);
    drop_cancelled(sched, start_s);
    const struct sched_hooks *hooks = &sched->config.hooks;
    if (hooks->preempt && sched->n_running > 0)
        for (int n = hooks->preempt(hooks->user, sched->n_running); n > 0; n--)
            sched_preempt_youngest(sched, "forced");
    admit(sched, start_s);
    plan_build(sched);
    if (sched->n_plan == 0)
        return;
    struct l4_err err = {0};
    int rc = forward(sched, &err);
    while (rc == L4_E_NOMEM && plan_reduce(sched))
        rc = forward(sched, &err);
    if (rc != 0) {
        err.code = rc;
        fail_plan(sched, &err);
        return;
    }
    double end_s = sched_now(sched);
    observe(sched, end_s - start_s);
    output_step(sched, end_s);
}
