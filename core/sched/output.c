#include <assert.h>
#include <math.h>
#include <stdlib.h>

#include "core/base/checked.h"
#include "core/sched/sched_internal.h"

/* Tokens that may end an answer: the model's own and the request's. */
enum { MAX_END_IDS = 64 + L4_MAX_STOP_IDS };

void l4_event_free(struct l4_event *event) {
    if (!event)
        return;
    free(event->top);
    free(event->embedding);
    free(event->text);
    free(event);
}

static void event_send(struct sched *sched, struct l4_event *event) {
    event->next = NULL;
    if (sched->last_event)
        sched->last_event->next = event;
    else
        sched->events = event;
    sched->last_event = event;
}

static struct l4_event *new_event(const struct request *request, enum l4_event_type type) {
    struct l4_event *event = calloc(1, sizeof *event);
    if (!event)
        return NULL;
    event->type = type;
    event->id = request->id;
    event->user = request->user;
    return event;
}

/* A PROMPT or TOKEN event of this id; its log-probabilities come from a row of raw logits, NULL = not asked for.
 * NULL when out of memory. */
static struct l4_event *token_event(struct sched *sched, const struct request *request, enum l4_event_type type,
                                    int32_t id, const float *logits) {
    struct l4_event *event = new_event(request, type);
    if (!event)
        return NULL;
    event->token = (struct l4_logprob){id, NAN};
    if (!logits)
        return event;
    if (request->n_top_logprobs > 0) {
        event->n_top = request->n_top_logprobs;
        if (event->n_top > sched->config.model_config->vocab_size)
            event->n_top = sched->config.model_config->vocab_size;
        event->top = checked_array((size_t)event->n_top, sizeof *event->top);
        if (!event->top) {
            free(event);
            return NULL;
        }
    }
    sampler_logprobs(sched->sampler, logits, id, &event->token, event->top, event->n_top);
    return event;
}

/* ---- the end of a request ------------------------------------------------------------------------------------- */

static void output_last(struct sched *sched, struct request *request, enum request_state state, double now_s) {
    struct l4_event *event = request->last;
    request->last = NULL;
    event->type = state == REQUEST_FAILED ? L4_EVENT_ERROR : L4_EVENT_DONE;
    event->id = request->id;
    event->user = request->user;
    event->n_prompt = request->n_prompt;
    event->n_generated = request_n_generated(request);
    event->n_cached = request->n_cached;
    double admitted_s = request->admitted_s >= 0 ? request->admitted_s : now_s;
    double first_token_s = request->first_token_s >= 0 ? request->first_token_s : now_s;
    event->queue_s = admitted_s - request->submitted_s;
    event->prefill_s = first_token_s - admitted_s;
    event->decode_s = now_s - first_token_s;
    request_set_state(request, state);
    sched_log(sched, L4_LOG_DEBUG, request, "%s after %lld tokens", request_state_name(state),
              (long long)event->n_generated);
    event_send(sched, event);
    sched_remove(sched, request);
}

void output_error(struct sched *sched, struct request *request, const struct l4_err *error, double now_s) {
    sched_log(sched, L4_LOG_ERROR, request, "failed: %s", error->message);
    request->last->error = *error;
    output_last(sched, request, REQUEST_FAILED, now_s);
}

static void out_of_memory(struct sched *sched, struct request *request, double now_s) {
    struct l4_err error;
    l4_err_set(&error, L4_E_NOMEM, "no memory for the answer");
    output_error(sched, request, &error, now_s);
}

/* Hand a buffer's text to the event.  False: out of memory. */
static bool take_text(struct l4_buf *text, struct l4_event *event) {
    if (text->len == 0)
        return !text->failed;
    event->text = l4_buf_take(text, &event->text_bytes);
    return event->text != NULL;
}

/* What is still held back, unless a stop string was found.  False: out of memory. */
static bool last_text(struct sched *sched, struct request *request, struct l4_event *event) {
    struct l4_buf *detokenized = &sched->detokenized, *visible = &sched->visible;
    l4_buf_clear(detokenized);
    l4_buf_clear(visible);
    if (request->detok.tokenizer)
        l4_detok_finish(&request->detok, detokenized);
    if (detokenized->len > 0)
        stop_push(&request->stop, detokenized->data, detokenized->len, visible);
    stop_flush(&request->stop, visible);
    return !detokenized->failed && !request->stop.held.failed && take_text(visible, event);
}

void output_done(struct sched *sched, struct request *request, enum l4_finish finish, int32_t stop_token,
                 double now_s) {
    struct l4_event *event = request->last;
    if (!last_text(sched, request, event)) {
        out_of_memory(sched, request, now_s);
        return;
    }
    event->stop_index = request->stop.matched;
    event->stop_token = stop_token;
    event->finish = finish;
    if (finish == L4_FINISH_LENGTH && request->stop.matched >= 0)
        event->finish = L4_FINISH_STOP; /* the very last bytes completed a stop string */
    output_last(sched, request, finish == L4_FINISH_CANCELLED ? REQUEST_CANCELLED : REQUEST_DONE, now_s);
}

/* ---- prompts -------------------------------------------------------------------------------------------------- */

/* The events that a chunk allows: logits holds the rows of the n_rows positions before `end`.  False: out of memory.
 */
static bool prompt_events(struct sched *sched, struct request *request, const float *logits, int64_t n_rows,
                          int64_t end) {
    int64_t vocab = sched->config.model_config->vocab_size, first = end - n_rows;
    while (request->n_prompt_events < request->n_prompt && request->n_prompt_events <= end) {
        int64_t i = request->n_prompt_events;
        const float *row = NULL; /* nothing predicts the first token */
        if (i > 0) {
            assert(i - 1 >= first);
            row = logits + (i - 1 - first) * vocab;
        }
        struct l4_event *event = token_event(sched, request, L4_EVENT_PROMPT, request->tokens.ids[i], row);
        if (!event)
            return false;
        event_send(sched, event);
        request->n_prompt_events++;
    }
    return true;
}

/* ---- embeddings ----------------------------------------------------------------------------------------------- */

/* The length of the mean is that of the sum: it is divided out together with the number of tokens. */
static void output_embedding(struct sched *sched, struct request *request, double now_s) {
    int32_t hidden = sched->config.model_config->hidden_size;
    const double *sum = request->hidden_sum;
    struct l4_event *event = new_event(request, L4_EVENT_EMBEDDING);
    double square = 0;
    if (event)
        event->embedding = checked_array((size_t)hidden, sizeof *event->embedding);
    if (!event || !event->embedding) {
        l4_event_free(event);
        out_of_memory(sched, request, now_s);
        return;
    }
    for (int32_t i = 0; i < hidden; i++)
        square += sum[i] * sum[i];
    if (!isfinite(square)) {
        struct l4_err error;
        l4_event_free(event);
        l4_err_set(&error, L4_E_INTERNAL, "the model's hidden states are not finite");
        output_error(sched, request, &error, now_s);
        return;
    }
    for (int32_t i = 0; i < hidden; i++)
        event->embedding[i] = square > 0 ? (float)(sum[i] / sqrt(square)) : 0;
    event->n_embedding = hidden;
    event_send(sched, event);
    output_done(sched, request, L4_FINISH_STOP, -1, now_s);
}

/* ---- answers -------------------------------------------------------------------------------------------------- */

static bool is_stop_token(const struct sched *sched, const struct request *request, int32_t id) {
    for (size_t i = 0; i < request->n_stop_ids; i++)
        if (request->stop_ids[i] == id)
            return true;
    for (int i = 0; !request->ignore_eos && i < sched->config.n_end_ids; i++)
        if (sched->config.end_ids[i] == id)
            return true;
    return false;
}

/* The text that this token lets go.  False: out of memory. */
static bool token_text(struct sched *sched, struct request *request, struct l4_event *event) {
    struct l4_buf *detokenized = &sched->detokenized, *visible = &sched->visible;
    if (!request->detok.tokenizer)
        return true;
    l4_buf_clear(detokenized);
    l4_buf_clear(visible);
    l4_detok_push(&request->detok, event->token.id, detokenized);
    if (detokenized->len > 0)
        stop_push(&request->stop, detokenized->data, detokenized->len, visible);
    if (detokenized->failed || request->stop.held.failed)
        return false;
    return take_text(visible, event);
}

/* The tokens that end this answer, where its grammar may end. */
static size_t end_tokens(const struct sched *sched, const struct request *request, int32_t ids[MAX_END_IDS]) {
    const size_t n_own = request->ignore_eos ? 0 : (size_t)sched->config.n_end_ids;
    size_t n = 0;
    for (size_t i = 0; i < n_own && n < MAX_END_IDS; i++)
        ids[n++] = sched->config.end_ids[i];
    for (size_t i = 0; i < request->n_stop_ids && n < MAX_END_IDS; i++)
        ids[n++] = request->stop_ids[i];
    return n;
}

/* Sample a token that the grammar allows; *ended: it allows none, since the answer is complete. */
static int next_allowed(struct sched *sched, struct request *request, const float *logits, uint64_t index, int32_t *id,
                        bool *ended, struct l4_err *err) {
    int32_t ends[MAX_END_IDS];
    struct grammar_mask mask;
    int rc = 0;
    if (!request->matcher && grammar_matcher_open(&request->matcher, sched->masks, request->grammar))
        return l4_err_set(err, L4_E_NOMEM, "no memory to follow a grammar");
    if ((rc = grammar_matcher_mask(request->matcher, &mask, err)))
        return rc;
    const struct sample_mask allowed = {
        .bits = mask.bits, .also = ends, .n_also = mask.may_end ? end_tokens(sched, request, ends) : 0};
    *ended = mask.n_allowed == 0 && allowed.n_also == 0;
    if (*ended)
        return mask.may_end ? 0 : l4_err_set(err, L4_E_INVALID, "grammar: no token of this model can follow here");
    *id = sampler_next_masked(sched->sampler, &request->sampling, request->history, &allowed, logits, index);
    for (size_t i = 0; i < allowed.n_also; i++)
        if (ends[i] == *id)
            return 0;
    size_t len_bytes;
    const char *text = l4_tokenizer_bytes(sched->config.tokenizer, *id, &len_bytes);
    return grammar_matcher_accept(request->matcher, text, len_bytes, err);
}

static void next_token(struct sched *sched, struct request *request, const float *logits, double now_s) {
    int64_t n_generated = request_n_generated(request);
    struct l4_err error;
    bool ended = false;
    int32_t id = -1;
    if (!request->grammar) {
        id = sampler_next(sched->sampler, &request->sampling, request->history, logits, (uint64_t)n_generated);
    } else if (next_allowed(sched, request, logits, (uint64_t)n_generated, &id, &ended, &error)) {
        output_error(sched, request, &error, now_s);
        return;
    }
    if (ended) {
        output_done(sched, request, L4_FINISH_STOP, -1, now_s);
        return;
    }
    struct l4_event *event = token_event(sched, request, L4_EVENT_TOKEN, id, request->logprobs ? logits : NULL);
    if (!event || l4_tokens_push(&request->tokens, id) != 0 ||
        (request->history && sample_history_add(request->history, id, true) != 0)) {
        l4_event_free(event);
        out_of_memory(sched, request, now_s);
        return;
    }
    n_generated++;
    sched->generated_tokens++;
    if (request->state == REQUEST_PREFILL)
        request_set_state(request, REQUEST_DECODE);
    if (request->first_token_s < 0)
        request->first_token_s = now_s;
    event->is_stop_token = is_stop_token(sched, request, id);
    if (!event->is_stop_token && !token_text(sched, request, event)) {
        l4_event_free(event);
        out_of_memory(sched, request, now_s);
        return;
    }
    event_send(sched, event);
    if (event->is_stop_token)
        output_done(sched, request, L4_FINISH_STOP, id, now_s);
    else if (request->stop.matched >= 0)
        output_done(sched, request, L4_FINISH_STOP, -1, now_s);
    else if (n_generated == request->max_tokens)
        output_done(sched, request, L4_FINISH_LENGTH, -1, now_s);
}

static void output_entry(struct sched *sched, const struct plan_entry *entry, const float *logits, double now_s) {
    struct request *request = entry->request;
    int64_t computed = kv_seq_length(request->kv);
    if (request->prompt_logprobs && !prompt_events(sched, request, logits, entry->n_logits, computed)) {
        out_of_memory(sched, request, now_s);
        return;
    }
    if (computed < (int64_t)request->tokens.len)
        return;
    if (request->embed) {
        output_embedding(sched, request, now_s);
        return;
    }
    if (request->max_tokens == 0) {
        output_done(sched, request, L4_FINISH_LENGTH, -1, now_s);
        return;
    }
    int64_t vocab = sched->config.model_config->vocab_size;
    next_token(sched, request, logits + (entry->n_logits - 1) * vocab, now_s);
}

void output_step(struct sched *sched, double now_s) {
    const float *logits = sched->logits;
    for (int i = 0; i < sched->n_plan; i++) {
        struct plan_entry entry = sched->plan[i];
        output_entry(sched, &entry, logits, now_s);
        logits += (int64_t)entry.n_logits * sched->config.model_config->vocab_size;
    }
}
