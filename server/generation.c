#include "server/generation.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include <uv.h>
#include <xxhash.h>

#include "server/auth.h"
#include "server/body_work.h"
#include "server/logprob_track.h"
#include "server/sse.h"

/* Only longer texts are worth a look at every token's length. */
enum { LONG_TEXT_BYTES = 256 * 1024 };

/* One request in the engine: a choice of the answer or, with best_of, a candidate for one. */
struct candidate {
    struct generation *gen;
    uint64_t id; /* in the engine; valid while running */
    bool running;
    int index;                    /* of the choice in the answer */
    bool is_first;                /* of its prompt, whose tokens count once */
    struct l4_buf text;           /* whole answers: all of it; streams: what the next chunk brings */
    struct logprob_list logprobs; /* likewise */
    struct logprob_track track;   /* where log-probabilities are wanted */
    struct tool_calls *tools;     /* takes the calls out of the text; NULL where there are none to expect */
    struct answer_calls calls;
    size_t n_whole_calls;
    bool in_prompt;   /* log-probabilities of the prompt come first ... */
    bool hides_first; /* ... the first of them of a token without text */
    int64_t prompt_chars;
    const char *finish_reason;
    int stop_index; /* -1 = no stop string ended it */
    double logprob_sum;
    int64_t n_tokens;
    uint64_t token_ns; /* when the last one came */
};

struct generation {
    struct server *server;
    const struct generation_format *format;
    struct http_exchange *x; /* NULL while prepare has it, and once the client has gone */
    uint64_t start_ns;
    int prepare_rc;
    struct codec_err err;
    struct generation_input input;

    struct answer_head head;
    struct candidate *candidates; /* [n_prompts][best_of] */
    size_t n_candidates, n_running;
    int64_t n_tokens; /* generated so far */
    struct answer_usage usage;
    struct l4_buf out;
};

int generation_add_prompts(struct generation_input *input, size_t n, struct codec_err *err) {
    input->prompts = calloc(n, sizeof *input->prompts);
    if (!input->prompts)
        return codec_no_memory(err);
    input->n_prompts = n;
    return 0;
}

int generation_refuse(struct codec_err *out, const char *param, const struct l4_err *err) {
    codec_fail(out, param, "%s", err->message);
    out->status = http_err_status(err->code);
    out->code = http_err_code(err->code);
    return err->code;
}

int generation_check_length(const struct generation_input *input, const char *param, size_t n_bytes,
                            struct codec_err *err) {
    if (n_bytes <= LONG_TEXT_BYTES)
        return 0;
    size_t longest = 1, len;
    for (int32_t id = 0; id < input->limits.vocab_size; id++)
        if (l4_tokenizer_bytes(input->tokenizer, id, &len) && len > longest)
            longest = len;
    int64_t least = (int64_t)(n_bytes / longest);
    if (least <= input->max_context_tokens)
        return 0;
    codec_fail(err, param, "the prompt has at least %lld tokens, the context is %lld tokens", (long long)least,
               (long long)input->max_context_tokens);
    err->code = http_err_code(L4_E_CONTEXT_LENGTH);
    return L4_E_CONTEXT_LENGTH;
}

int generation_encode_text(const struct generation_input *input, const char *param, struct l4_text text,
                           struct l4_tokens *tokens, struct codec_err *err) {
    const unsigned flags = L4_ENCODE_BOS | L4_ENCODE_SPECIAL;
    struct l4_err why;
    int rc = generation_check_length(input, param, text.len_bytes, err);
    if (rc)
        return rc;
    if (l4_encode(input->tokenizer, text.data, text.len_bytes, flags, tokens, &why))
        return generation_refuse(err, param, &why);
    if (tokens->len == 0)
        return codec_fail(err, param, "'%s' is empty, and this model has no token to begin with", param);
    return 0;
}

/* The template's errors begin with the place to blame, where there is one: "tools[0]: ...". */
static int refuse_place(struct codec_err *err, const struct l4_err *why) {
    char param[sizeof err->param];
    bool has_place = strncmp(why->message, "tools[", 6) == 0 || strncmp(why->message, "messages[", 9) == 0;
    const char *place = has_place ? why->message : "messages";
    snprintf(param, sizeof param, "%.*s", (int)strcspn(place, ":"), place);
    return generation_refuse(err, param, why);
}

int generation_add_chat(struct generation_input *input, const struct l4_chat *chat, struct codec_err *err) {
    struct l4_err why;
    size_t n_bytes = 0;
    int rc;
    for (size_t i = 0; i < chat->n_messages; i++)
        n_bytes += chat->messages[i].content.len_bytes;
    if ((rc = generation_check_length(input, "messages", n_bytes, err)) || (rc = generation_add_prompts(input, 1, err)))
        return rc;
    if (l4_chat_encode(input->tokenizer, chat, &input->prompts[0].tokens,
                       input->keep_text ? &input->prompts[0].text : NULL, &why))
        return refuse_place(err, &why);
    return 0;
}

void generation_free_prompts(struct generation_input *input) {
    for (size_t i = 0; i < input->n_prompts; i++) {
        l4_tokens_free(&input->prompts[i].tokens);
        l4_buf_free(&input->prompts[i].text);
    }
    free(input->prompts);
    input->prompts = NULL;
    input->n_prompts = 0;
}

/* What the engine has copied or made is not needed any more. */
static void free_input(struct generation *gen) {
    struct generation_input *input = &gen->input;
    generation_free_prompts(input);
    gen->format->free_request(input->request);
    input->request = NULL;
    input->params.n_stop = input->params.n_stop_ids = input->params.sampling.n_logit_bias = 0; /* were the request's */
    input->params.stop_ids = NULL;
    input->params.sampling.logit_bias = NULL;
}

static void generation_free(struct generation *gen) {
    for (size_t i = 0; i < gen->n_candidates; i++) {
        struct candidate *c = &gen->candidates[i];
        l4_buf_free(&c->text);
        tool_calls_close(c->tools);
        answer_calls_free(&c->calls);
        logprob_list_free(&c->logprobs);
        logprob_track_free(&c->track);
    }
    free(gen->candidates);
    free_input(gen);
    if (gen->input.answer)
        gen->format->free_answer(gen->input.answer);
    tool_names_close(gen->input.tools);
    answer_head_free(&gen->head);
    l4_buf_free(&gen->out);
    free(gen);
}

static void cancel_all(struct generation *gen) {
    for (size_t i = 0; i < gen->n_candidates; i++)
        if (gen->candidates[i].running)
            bridge_cancel(gen->server->bridge, gen->candidates[i].id);
}

static void on_gone(void *user) {
    struct generation *gen = user;
    gen->x = NULL;
    cancel_all(gen);
    generation_free(gen);
}

/* ---- the answer ---------------------------------------------------------------------------------------------------
 */

static struct generation_output output_of(struct generation *gen) {
    return (struct generation_output){.out = &gen->out,
                                      .head = &gen->head,
                                      .params = &gen->input.params,
                                      .usage = &gen->usage,
                                      .answer = gen->input.answer};
}

static void fail(struct generation *gen, const struct l4_err *err) {
    cancel_all(gen);
    if (!gen->input.params.stream) {
        http_reply_err(gen->x, NULL, err);
    } else if (!gen->format->put_error) {
        http_stream_fail(gen->x, err);
    } else {
        const struct generation_output to = output_of(gen);
        l4_buf_clear(&gen->out);
        gen->format->put_error(&to, err);
        if (!gen->out.failed)
            http_stream_send(gen->x, gen->out.data, gen->out.len);
        http_stream_end(gen->x);
    }
    generation_free(gen);
}

static struct answer_choice choice_of(const struct candidate *c) {
    return (struct answer_choice){
        .index = c->index,
        .text = {c->text.data ? c->text.data : "", c->text.len},
        .calls = c->calls.list,
        .n_calls = c->calls.n,
        .logprobs = c->gen->input.params.logprobs ? &c->logprobs : NULL,
        .finish_reason = c->finish_reason,
        .stop_index = c->stop_index,
    };
}

static void put_chunk(struct generation *gen, generation_put_chunk *put, const struct answer_choice *choice) {
    const struct generation_output to = output_of(gen);
    put(&to, choice);
}

/* Something of the candidate's answer was lost for want of memory. */
static bool has_failed(const struct candidate *c) {
    return c->text.failed || c->track.failed || logprob_list_failed(&c->logprobs) || answer_calls_failed(&c->calls) ||
           (c->tools && tool_calls_failed(c->tools));
}

/* The format is given the answer as it comes, not at the end. */
static bool in_pieces(const struct generation *gen) {
    return gen->input.params.stream || gen->format->always_in_pieces;
}

/* What a candidate has to show since its last chunk. */
static void put_pending(struct candidate *c) {
    struct generation *gen = c->gen;
    bool has_logprobs = !logprob_list_is_empty(&c->logprobs);
    gen->out.failed |= has_failed(c);
    if (c->text.len == 0 && !has_logprobs)
        return;
    struct answer_choice choice = choice_of(c);
    choice.finish_reason = NULL;
    if (!has_logprobs)
        choice.logprobs = NULL;
    put_chunk(gen, gen->format->put_text, &choice);
    l4_buf_clear(&c->text);
    logprob_list_clear(&c->logprobs);
}

static void put_finish(struct candidate *c) {
    struct answer_choice choice = {.index = c->index,
                                   .text = {"", 0},
                                   .finish_reason = c->finish_reason,
                                   .stop_index = c->stop_index,
                                   .n_broken_calls = c->calls.n - c->n_whole_calls};
    put_chunk(c->gen, c->gen->format->put_finish, &choice);
}

/* Send what was put into gen->out.  False: that failed, and gen is gone. */
static bool flush(struct generation *gen) {
    if (gen->out.failed) {
        struct l4_err err;
        l4_err_set(&err, L4_E_NOMEM, "out of memory while writing the answer");
        fail(gen, &err);
        return false;
    }
    if (gen->out.len)
        http_stream_send(gen->x, gen->out.data, gen->out.len);
    l4_buf_clear(&gen->out);
    return true;
}

static void put_end(const struct generation_output *to) {
    if (to->params->include_usage) {
        sse_open(to->out);
        answer_put_usage_chunk(to->out, to->head, to->usage);
        sse_close(to->out);
    }
    sse_done(to->out);
}

static void end_stream(struct generation *gen) {
    const struct generation_output to = output_of(gen);
    (gen->format->put_end ? gen->format->put_end : put_end)(&to);
    if (!flush(gen))
        return;
    http_stream_end(gen->x);
    generation_free(gen);
}

/* best_of: by mean log-probability, best first; among equals the earlier one. */
static int compare_candidates(const void *a, const void *b) {
    const struct candidate *x = a, *y = b;
    double mean_x = x->n_tokens ? x->logprob_sum / (double)x->n_tokens : 0;
    double mean_y = y->n_tokens ? y->logprob_sum / (double)y->n_tokens : 0;
    return mean_x != mean_y ? (mean_x < mean_y) - (mean_x > mean_y) : (x->index > y->index) - (x->index < y->index);
}

static void reply_whole(struct generation *gen) {
    size_t n = (size_t)gen->input.params.n, best_of = (size_t)gen->input.params.best_of, n_choices = 0;
    struct answer_choice *choices = calloc(gen->n_candidates, sizeof *choices);
    gen->out.failed |= !choices;
    for (size_t first = 0; choices && first < gen->n_candidates; first += best_of) {
        if (best_of > n)
            qsort(&gen->candidates[first], best_of, sizeof *gen->candidates, compare_candidates);
        for (size_t k = 0; k < n; k++) {
            struct candidate *c = &gen->candidates[first + k];
            gen->out.failed |= has_failed(c);
            c->index = (int)n_choices;
            choices[n_choices++] = choice_of(c);
        }
    }
    const struct generation_output to = output_of(gen);
    if (choices)
        gen->format->put_whole(&to, choices, n_choices);
    free(choices);
    http_reply(gen->x, 200, "application/json", &gen->out);
    generation_free(gen);
}

/* ---- events -------------------------------------------------------------------------------------------------------
 */

static void take_prompt_token(struct candidate *c, const struct l4_event *event) {
    logprob_track_prompt(&c->track, event, !c->hides_first, &c->logprobs);
    c->hides_first = false;
}

static void end_prompt(struct candidate *c) {
    if (c->in_prompt)
        logprob_track_begin_answer(&c->track, c->prompt_chars);
    c->in_prompt = false;
}

static void put_call(struct candidate *c, const struct answer_call *call, size_t index, bool begins) {
    struct answer_choice choice = {.index = c->index, .calls = call, .n_calls = 1, .call = index, .stop_index = -1};
    choice.begins_call = begins;
    put_chunk(c->gen, c->gen->format->put_call, &choice);
}

static void put_call_end(struct candidate *c, const struct answer_call *call, size_t index, bool breaks) {
    struct answer_choice choice = {.index = c->index, .calls = call, .n_calls = 1, .call = index, .stop_index = -1};
    choice.breaks_call = breaks;
    if (call && in_pieces(c->gen) && c->gen->format->put_call_end)
        put_chunk(c->gen, c->gen->format->put_call_end, &choice);
}

/* What comes out of the text that a candidate's tool_calls was fed. */
static void on_tool_event(void *user, const struct tool_event *event) {
    struct candidate *c = user;
    bool pieces = in_pieces(c->gen);
    struct answer_call *call = c->calls.n > 0 ? &c->calls.list[c->calls.n - 1] : NULL;
    switch (event->type) {
    case TOOL_CALL_BROKEN:
        put_call_end(c, call, event->call, true);
        if (!pieces) /* else it was announced, and its arguments stay incomplete */
            answer_calls_drop_last(&c->calls);
        /* fall through */
    case TOOL_CONTENT:
        l4_buf_append(&c->text, event->text.data, event->text.len_bytes);
        break;
    case TOOL_CALL_BEGIN:
        call = answer_calls_add(&c->calls, event->text);
        if (call && pieces) {
            put_pending(c);
            put_call(c, call, event->call, true);
        }
        break;
    case TOOL_CALL_ARGUMENTS:
        if (!call)
            break;
        l4_buf_append(&call->arguments, event->text.data, event->text.len_bytes);
        if (pieces) {
            put_call(c, call, event->call, false);
            c->gen->out.failed |= call->arguments.failed;
            l4_buf_clear(&call->arguments);
        }
        break;
    case TOOL_CALL_END:
        put_call_end(c, call, event->call, false);
        c->n_whole_calls++;
        break;
    case TOOL_MARKUP:
        break;
    }
}

static void take_text(struct candidate *c, const struct l4_event *event) {
    if (c->tools)
        tool_calls_feed(c->tools, event->text, event->text_bytes);
    else
        l4_buf_append(&c->text, event->text, event->text_bytes);
}

static void measure_token(struct candidate *c) {
    uint64_t now_ns = uv_hrtime(), since_ns = c->n_tokens == 0 ? c->gen->start_ns : c->token_ns;
    metrics_observe(c->gen->server->metrics,
                    c->n_tokens == 0 ? METRICS_time_to_first_token_seconds : METRICS_inter_token_seconds,
                    (double)(now_ns - since_ns) * 1e-9);
    c->token_ns = now_ns;
}

/* More, or fewer, tokens than were known. */
static void note_tokens(struct generation *gen, int64_t n_more) {
    gen->n_tokens += n_more;
    http_note_tokens(gen->x, gen->usage.prompt_tokens, gen->n_tokens);
}

/* The text and, unless the token only ends the answer, the log-probability of a token. */
static void take_token(struct candidate *c, const struct l4_event *event) {
    bool logprobs = c->gen->input.params.logprobs;
    end_prompt(c);
    measure_token(c);
    c->logprob_sum += event->token.logprob;
    c->n_tokens++;
    note_tokens(c->gen, 1);
    if (logprobs && !event->is_stop_token)
        logprob_track_token(&c->track, event);
    take_text(c, event);
    if (logprobs)
        logprob_track_release(&c->track, event->text_bytes, &c->logprobs);
}

static void take_end(struct candidate *c, const struct l4_event *event) {
    struct generation *gen = c->gen;
    end_prompt(c);
    take_text(c, event);
    if (c->tools)
        tool_calls_finish(c->tools);
    if (gen->input.params.logprobs) {
        logprob_track_release(&c->track, event->text_bytes, &c->logprobs);
        logprob_track_finish(&c->track, event->stop_index >= 0, &c->logprobs);
    }
    c->finish_reason = event->finish == L4_FINISH_LENGTH ? "length" : c->n_whole_calls > 0 ? "tool_calls" : "stop";
    metrics_observe(gen->server->metrics, METRICS_queue_wait_seconds, event->queue_s);
    metrics_cached_tokens(gen->server->metrics, event->n_cached);
    c->running = false;
    gen->n_running--;
    c->stop_index = event->stop_index;
    gen->usage.cached_tokens += c->is_first ? event->n_cached : 0;
    gen->usage.completion_tokens += event->n_generated;
    gen->usage.prefill_s = fmax(gen->usage.prefill_s, event->prefill_s);
    gen->usage.decode_s = fmax(gen->usage.decode_s, event->decode_s);
    note_tokens(gen, event->n_generated - c->n_tokens);
}

static void on_event(void *user, const struct l4_event *event) {
    struct candidate *c = user;
    struct generation *gen = c->gen;
    if (event->type == L4_EVENT_ERROR || (event->type == L4_EVENT_DONE && event->finish == L4_FINISH_CANCELLED)) {
        struct l4_err err = event->error;
        c->running = false;
        if (event->type == L4_EVENT_DONE)
            l4_err_set(&err, L4_E_SHUTDOWN, "the request was cancelled: the server is shutting down");
        fail(gen, &err);
        return;
    }
    if (event->type == L4_EVENT_PROMPT)
        take_prompt_token(c, event);
    else if (event->type == L4_EVENT_TOKEN)
        take_token(c, event);
    else
        take_end(c, event);

    if (in_pieces(gen) && event->type != L4_EVENT_PROMPT)
        put_pending(c);
    if (in_pieces(gen) && event->type == L4_EVENT_DONE)
        put_finish(c);
    if (gen->n_running == 0 && gen->input.params.stream)
        end_stream(gen);
    else if (gen->n_running == 0)
        reply_whole(gen);
    else if (gen->input.params.stream)
        flush(gen);
}

/* ---- start --------------------------------------------------------------------------------------------------------
 */

/* The server's setting, else the model's own, else what changes nothing. */
static float pick(struct config_opt_real setting, bool has_own, float own, float neutral) {
    return setting.is_set ? (float)setting.value : has_own ? own : neutral;
}

static void init_defaults(const struct server *server, struct l4_sampling *s) {
    const struct l4_engine_info *info = &server->info;
    const struct config *c = server->config;
    l4_sampling_init(s);
    s->temperature = pick(c->temperature, info->has_temperature, info->temperature, s->temperature);
    s->top_p = pick(c->top_p, info->has_top_p, info->top_p, s->top_p);
    s->repetition_penalty =
        pick(c->repetition_penalty, info->has_repetition_penalty, info->repetition_penalty, s->repetition_penalty);
    s->min_p = pick(c->min_p, info->has_min_p, info->min_p, s->min_p);
    s->presence_penalty = pick(c->presence_penalty, false, 0, s->presence_penalty);
    s->frequency_penalty = pick(c->frequency_penalty, false, 0, s->frequency_penalty);
    if (c->top_k.is_set)
        s->top_k = (int)c->top_k.value;
    else if (info->has_top_k)
        s->top_k = info->top_k;
}

static int max_choices(const struct config *config) {
    int64_t places = config->max_running + config->max_queue;
    return places < PARAMS_MAX_CHOICES ? (int)places : PARAMS_MAX_CHOICES;
}

static bool fill_random(void *out, size_t n_bytes) {
    return getrandom(out, n_bytes, 0) == (ssize_t)n_bytes;
}

/* Names what the answer depends on besides the request: another fingerprint may give other tokens. */
static uint32_t fingerprint(const struct server *server) {
    const struct l4_engine_info *info = &server->info;
    const char *const parts[] = {
        server->model_name, info->quantization,  info->activations, info->experts_implementation,
        info->gemm,         info->kv_cache_type, info->cpu_kernels};
    XXH64_hash_t hash = 0;
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        hash = XXH64(parts[i], strlen(parts[i]) + 1, hash);
    return (uint32_t)(hash ^ (hash >> 32));
}

static bool init_head(struct generation *gen) {
    const struct generation_format *format = gen->format;
    uint64_t random[2];
    char id[64], print[24];
    if (!fill_random(random, sizeof random))
        return false;
    snprintf(id, sizeof id, "%s%016llx%016llx", format->id_prefix, (unsigned long long)random[0],
             (unsigned long long)random[1]);
    snprintf(print, sizeof print, "fp_%08x", (unsigned)fingerprint(gen->server));
    answer_head_init(&gen->head, id, gen->input.params.stream ? format->chunk_object : format->object,
                     (long long)time(NULL), gen->server->model_name, print);
    return true;
}

static int64_t count_chars(const char *text, size_t len_bytes) {
    int64_t n = 0;
    for (size_t i = 0; i < len_bytes; i++)
        n += ((unsigned char)text[i] & 0xc0) != 0x80;
    return n;
}

/* Candidate k of prompt p before it is submitted.  False: out of memory. */
static bool init_candidate(struct generation *gen, size_t p, size_t k) {
    const struct gen_params *params = &gen->input.params;
    const struct generation_prompt *prompt = &gen->input.prompts[p];
    struct candidate *c = &gen->candidates[gen->n_candidates++];
    c->gen = gen;
    c->index = (int)(p * (size_t)params->best_of + k);
    c->is_first = k == 0;
    c->stop_index = -1;
    gen->usage.prompt_tokens += c->is_first ? (int64_t)prompt->tokens.len : 0;
    c->in_prompt = params->echo && params->logprobs;
    c->hides_first = prompt->has_implicit_bos;
    c->prompt_chars = count_chars(prompt->text.data, prompt->text.len);
    if (params->echo)
        l4_buf_append(&c->text, prompt->text.data, prompt->text.len);
    if (params->logprobs) {
        logprob_track_init(&c->track, gen->format->logprobs_shape, gen->input.tokenizer, 0);
        if (!c->in_prompt)
            logprob_track_begin_answer(&c->track, c->prompt_chars);
    }
    if (gen->input.tools)
        c->tools = tool_calls_open(gen->input.tools, gen->input.max_calls, on_tool_event, c);
    return !gen->input.tools || c->tools;
}

static int submit(struct candidate *c, const struct generation_prompt *prompt, size_t k, struct l4_err *err) {
    struct generation *gen = c->gen;
    const struct gen_params *params = &gen->input.params;
    struct l4_request request = {
        .prompt = prompt->tokens.ids,
        .n_prompt = prompt->tokens.len,
        .max_tokens = params->max_tokens,
        .sampling = params->sampling,
        .stop = params->stop,
        .n_stop = params->n_stop,
        .stop_ids = params->stop_ids,
        .n_stop_ids = params->n_stop_ids,
        .ignore_eos = params->ignore_eos,
        .grammar = params->grammar,
        .logprobs = params->logprobs || params->best_of > params->n,
        .n_top_logprobs = params->n_top_logprobs,
        .prompt_logprobs = c->in_prompt,
        .salt = params->salt,
        .no_prefix_cache = params->no_prefix_cache,
        .log_id = http_request_id(gen->x),
    };
    request.sampling.seed = params_choice_seed(params, (int)k);
    int rc = bridge_submit(gen->server->bridge, &request, on_event, c, &c->id, err);
    c->running = rc == 0;
    gen->n_running += rc == 0;
    return rc;
}

static int submit_all(struct generation *gen, struct l4_err *err) {
    struct gen_params *params = &gen->input.params;
    size_t best_of = (size_t)params->best_of;
    gen->candidates = calloc(gen->input.n_prompts * best_of, sizeof *gen->candidates);
    if (!gen->candidates || !init_head(gen) ||
        (!params->has_seed && !fill_random(&params->sampling.seed, sizeof params->sampling.seed)))
        return l4_err_set(err, L4_E_NOMEM, "out of memory for %zu choices", gen->input.n_prompts * best_of);
    for (size_t p = 0; p < gen->input.n_prompts; p++)
        for (size_t k = 0; k < best_of; k++) {
            if (!init_candidate(gen, p, k))
                return l4_err_set(err, L4_E_NOMEM, "out of memory for %zu choices", gen->input.n_prompts * best_of);
            int rc = submit(&gen->candidates[gen->n_candidates - 1], &gen->input.prompts[p], k, err);
            if (rc)
                return rc;
        }
    return 0;
}

void generation_reply_refusal(struct http_exchange *x, const struct codec_err *err) {
    http_reply_error(x, err->status, err->param[0] ? err->param : NULL, err->code, "%s", err->message);
}

/* On the loop again: refuse or submit. */
static void on_prepared(void *user, struct http_exchange *x) {
    struct generation *gen = user;
    struct l4_err err;
    if (!x) {
        generation_free(gen);
        return;
    }
    gen->x = x;
    http_on_gone(x, on_gone, gen);
    if (gen->prepare_rc) {
        generation_reply_refusal(gen->x, &gen->err);
        generation_free(gen);
        return;
    }
    if (http_client_name(gen->x))
        auth_mix_salt(http_client_name(gen->x), gen->input.params.salt);
    if (submit_all(gen, &err)) {
        cancel_all(gen);
        http_reply_err(gen->x, err.code == L4_E_CONTEXT_LENGTH ? gen->format->prompt_field : NULL, &err);
        generation_free(gen);
        return;
    }
    note_tokens(gen, 0);
    free_input(gen);
    http_body_done(gen->x);
    if (!gen->input.params.stream)
        return;
    http_stream_begin(gen->x);
    for (size_t i = 0; gen->format->put_begin && i < gen->n_candidates; i++) {
        struct answer_choice choice = {.index = gen->candidates[i].index, .stop_index = -1};
        put_chunk(gen, gen->format->put_begin, &choice);
    }
    flush(gen);
}

static void prepare(void *user, const char *body, size_t len_bytes) {
    struct generation *gen = user;
    gen->input.body = body;
    gen->input.body_bytes = len_bytes;
    gen->prepare_rc = gen->format->prepare(&gen->input, &gen->err);
}

void generation_input_init(const struct server *server, struct generation_input *input) {
    *input = (struct generation_input){
        .limits = {.model_name = server->model_name,
                   .vocab_size = server->info.vocab_size,
                   .max_choices = max_choices(server->config)},
        .max_context_tokens = server->info.max_context_tokens,
        .tokenizer = l4_engine_tokenizer(server->engine),
    };
    init_defaults(server, &input->limits.defaults);
}

void generation_start(struct server *server, struct http_exchange *x, const struct generation_format *format) {
    struct generation *gen = calloc(1, sizeof *gen);
    if (gen) {
        gen->server = server;
        gen->start_ns = uv_hrtime();
        gen->format = format;
        generation_input_init(server, &gen->input);
    }
    if (!gen || body_work(server, x, prepare, on_prepared, gen)) {
        free(gen);
        http_reply_error(x, 503, NULL, "out_of_memory", "out of memory");
    }
}
