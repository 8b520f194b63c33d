#include "core/sched/request.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/checked.h"

#define BIT(name) (1U << REQUEST_##name)
static const struct {
    const char *name;
    unsigned to;
} states[REQUEST_N_STATES] = {
#define X(name, to) {#name, to},
    REQUEST_STATES(X)
#undef X
};

const char *request_state_name(enum request_state state) {
    return states[state].name;
}

bool request_may_go(enum request_state from, enum request_state to) {
    return states[from].to & 1U << to;
}

void request_set_state(struct request *request, enum request_state state) {
    assert(request_may_go(request->state, state));
    request->state = state;
}

_Static_assert((int)KV_SALT_BYTES == (int)L4_MAX_SALT_BYTES, "every salt that is allowed fits");

/* ---- checks --------------------------------------------------------------------------------------------------- */

static int check_range(const char *field, double value, double min, double max, struct l4_err *err) {
    if (value >= min && value <= max)
        return 0;
    return l4_err_set(err, L4_E_INVALID, "%s is %g: allowed are %g to %g", field, value, min, max);
}

static int check_ids(const char *field, const int32_t *ids, size_t n, int32_t vocab_size, struct l4_err *err) {
    for (size_t i = 0; i < n; i++)
        if (ids[i] < 0 || ids[i] >= vocab_size)
            return l4_err_set(err, L4_E_INVALID, "%s[%zu] is %d: allowed are 0 to %d", field, i, (int)ids[i],
                              (int)vocab_size - 1);
    return 0;
}

static int check_count(const char *field, size_t n, size_t max, struct l4_err *err) {
    if (n <= max)
        return 0;
    return l4_err_set(err, L4_E_INVALID, "%s has %zu entries: allowed are at most %zu", field, n, max);
}

static int check_sampling(const struct l4_sampling *s, int32_t vocab_size, struct l4_err *err) {
    const double max = L4_MAX_PENALTY;
    int rc = check_range("temperature", (double)s->temperature, 0, L4_MAX_TEMPERATURE, err);
    if (rc == 0)
        rc = check_range("top_k", s->top_k, 0, INT32_MAX, err);
    if (rc == 0)
        rc = check_range("top_p", (double)s->top_p, 0, 1, err);
    if (rc == 0)
        rc = check_range("min_p", (double)s->min_p, 0, 1, err);
    if (rc == 0)
        rc = check_range("repetition_penalty", (double)s->repetition_penalty, (double)0.01F, max, err);
    if (rc == 0)
        rc = check_range("presence_penalty", (double)s->presence_penalty, -max, max, err);
    if (rc == 0)
        rc = check_range("frequency_penalty", (double)s->frequency_penalty, -max, max, err);
    if (rc == 0)
        rc = check_count("logit_bias", s->n_logit_bias, (size_t)vocab_size, err);
    for (size_t i = 0; rc == 0 && i < s->n_logit_bias; i++) {
        const struct l4_logit_bias *bias = &s->logit_bias[i];
        if (bias->id < 0 || bias->id >= vocab_size)
            rc = l4_err_set(err, L4_E_INVALID, "logit_bias: id %d: allowed are 0 to %d", (int)bias->id,
                            (int)vocab_size - 1);
        else if (!isfinite(bias->bias))
            rc = l4_err_set(err, L4_E_INVALID, "logit_bias: the bias of id %d is not a finite number", (int)bias->id);
    }
    return rc;
}

static int check_stop(const struct l4_request *from, const struct request_limits *limits, struct l4_err *err) {
    int rc = check_count("stop", from->n_stop, L4_MAX_STOP_STRINGS, err);
    if (rc == 0 && from->n_stop > 0 && !limits->tokenizer)
        rc = l4_err_set(err, L4_E_INVALID, "stop: this model has no tokenizer, so there is no text to stop at");
    for (size_t i = 0; rc == 0 && i < from->n_stop; i++) {
        const struct l4_text *text = &from->stop[i];
        if (text->len_bytes < 1 || text->len_bytes > L4_MAX_STOP_BYTES)
            rc = l4_err_set(err, L4_E_INVALID, "stop[%zu] has %zu bytes: allowed are 1 to %d", i, text->len_bytes,
                            L4_MAX_STOP_BYTES);
        else if (((unsigned char)text->data[0] & 0xC0) == 0x80)
            rc = l4_err_set(err, L4_E_INVALID, "stop[%zu] begins inside a character", i); /* would cut one in two */
    }
    if (rc == 0)
        rc = check_count("stop_ids", from->n_stop_ids, L4_MAX_STOP_IDS, err);
    if (rc == 0)
        rc = check_ids("stop_ids", from->stop_ids, from->n_stop_ids, limits->vocab_size, err);
    return rc;
}

/* Resolves max_tokens, too. */
static int check_length(const struct l4_request *from, int64_t limit, int64_t *max_tokens, struct l4_err *err) {
    int64_t want = from->embed ? 0 : from->max_tokens == -1 ? 1 : from->max_tokens, room = -1;
    if (want < 0)
        return l4_err_set(err, L4_E_INVALID, "max_tokens is %lld: allowed are 0 and more, or -1 for as many as fit",
                          (long long)from->max_tokens);
    if (from->n_prompt < 1)
        return l4_err_set(err, L4_E_INVALID, "the prompt has no tokens: it needs at least 1");
    if (from->n_prompt <= (uint64_t)limit)
        room = limit - (int64_t)from->n_prompt;
    if (want > room && from->embed)
        return l4_err_set(err, L4_E_CONTEXT_LENGTH, "%zu tokens do not fit: this server's context is %lld tokens",
                          from->n_prompt, (long long)limit);
    if (want > room)
        return l4_err_set(err, L4_E_CONTEXT_LENGTH,
                          "a prompt of %zu tokens and %s%lld more (max_tokens) do not fit: this server's context is "
                          "%lld tokens",
                          from->n_prompt, from->max_tokens == -1 ? "at least " : "", (long long)want, (long long)limit);
    *max_tokens = from->max_tokens == -1 && !from->embed ? room : want;
    return 0;
}

static int check(const struct l4_request *from, const struct request_limits *limits, int64_t *max_tokens,
                 struct l4_err *err) {
    int rc = check_length(from, limits->max_context_tokens, max_tokens, err);
    if (rc == 0)
        rc = check_ids("prompt", from->prompt, from->n_prompt, limits->vocab_size, err);
    if (rc == 0)
        rc = check_sampling(&from->sampling, limits->vocab_size, err);
    if (rc == 0)
        rc = check_stop(from, limits, err);
    if (rc == 0 && from->salt && strlen(from->salt) > L4_MAX_SALT_BYTES)
        rc = l4_err_set(err, L4_E_INVALID, "salt has %zu bytes: allowed are at most %d", strlen(from->salt),
                        L4_MAX_SALT_BYTES);
    if (rc == 0 && from->grammar && !limits->tokenizer)
        rc = l4_err_set(err, L4_E_INVALID, "grammar: this model has no tokenizer, so there is no text to hold to it");
    if (rc == 0)
        rc = check_range("n_top_logprobs", from->n_top_logprobs, 0, L4_MAX_TOP_LOGPROBS, err);
    return rc;
}

/* ---- copies --------------------------------------------------------------------------------------------------- */

/* A copy of n * size bytes, NULL where there are none; *failed is set when there is no memory. */
static void *copy_array(const void *from, size_t n, size_t size, bool *failed) {
    if (n == 0)
        return NULL;
    void *copy = checked_array(n, size);
    if (copy)
        memcpy(copy, from, n * size);
    else
        *failed = true;
    return copy;
}

static bool copy_fields(struct request *request, const struct l4_request *from) {
    const struct l4_sampling *s = &from->sampling;
    bool failed = stop_init(&request->stop, from->stop, from->n_stop) != 0;
    request->last = calloc(1, sizeof *request->last);
    request->tokens.ids = copy_array(from->prompt, from->n_prompt, sizeof *from->prompt, &failed);
    request->tokens.len = request->tokens.cap = from->n_prompt;
    request->stop_ids = copy_array(from->stop_ids, from->n_stop_ids, sizeof *from->stop_ids, &failed);
    request->logit_bias = copy_array(s->logit_bias, s->n_logit_bias, sizeof *s->logit_bias, &failed);
    request->sampling.logit_bias = request->logit_bias;
    return request->last && !failed;
}

int request_open(struct request **out, const struct l4_request *from, const struct request_limits *limits,
                 struct l4_err *err) {
    int64_t max_tokens = 0;
    int rc = check(from, limits, &max_tokens, err);
    if (rc != 0)
        return rc;
    struct request *request = calloc(1, sizeof *request);
    if (!request)
        return l4_err_set(err, L4_E_NOMEM, "no memory for another request");
    *request = (struct request){
        .state = REQUEST_QUEUED,
        .user = from->user,
        .n_prompt = (int64_t)from->n_prompt,
        .max_tokens = max_tokens,
        .sampling = from->sampling,
        .n_stop_ids = from->n_stop_ids,
        .ignore_eos = from->ignore_eos,
        .logprobs = from->logprobs,
        .prompt_logprobs = from->prompt_logprobs && !from->embed,
        .embed = from->embed,
        .n_top_logprobs = from->n_top_logprobs,
        .no_prefix_cache = from->no_prefix_cache || from->embed, /* all of its tokens are computed */
        .admitted_s = -1,
        .first_token_s = -1,
    };
    snprintf(request->log_id, sizeof request->log_id, "%s", from->log_id ? from->log_id : "-");
    if (from->salt)
        memcpy(&request->salt, from->salt, strlen(from->salt));
    request->grammar = l4_grammar_ref(from->grammar);
    if (limits->tokenizer)
        l4_detok_init(&request->detok, limits->tokenizer, from->show_special);
    if (!copy_fields(request, from)) {
        request_close(request);
        return l4_err_set(err, L4_E_NOMEM, "no memory for a request of %zu tokens", from->n_prompt);
    }
    *out = request;
    return 0;
}

void request_close(struct request *request) {
    if (!request)
        return;
    kv_seq_close(request->kv);
    free(request->hidden_sum);
    sample_history_close(request->history);
    stop_fini(&request->stop);
    grammar_matcher_close(request->matcher);
    l4_grammar_close(request->grammar);
    l4_tokens_free(&request->tokens);
    free(request->stop_ids);
    free(request->logit_bias);
    l4_event_free(request->last);
    free(request);
}
