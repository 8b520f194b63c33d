/* POST /v1/embeddings: each input is a request of its own in the engine, which batches them with all others.
 *
 * No more of them are there at a time than may run: a thousand inputs leave the queue to others, and need no thousand
 * places in it. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/body_work.h"
#include "server/codec_embeddings.h"
#include "server/generation.h"
#include "server/route.h"

/* Answers up to this many numbers are written on the loop. */
enum { INLINE_VALUES = 8192 };

struct embeddings;

struct input {
    struct embeddings *all;
    uint64_t id; /* in the engine; valid while running */
    bool running;
    float *values; /* [all->n_values], NULL until they are there */
};

struct embeddings {
    struct server *server;
    struct http_exchange *x;       /* NULL while the body is read, and once the client has gone */
    struct generation_input input; /* its prompts are the inputs */
    struct codec_err err;
    int prepare_rc;
    bool base64;
    bool writing; /* a worker writes the answer */

    struct input *inputs;
    size_t n_submitted, n_running; /* the first n_submitted have been in the engine, n_running still are */
    size_t n_values;               /* of each vector */
    int64_t n_tokens;
    struct l4_buf out;
};

static void embeddings_free(struct embeddings *e) {
    for (size_t i = 0; e->inputs && i < e->input.n_prompts; i++)
        free(e->inputs[i].values);
    free(e->inputs);
    generation_free_prompts(&e->input);
    l4_buf_free(&e->out);
    free(e);
}

static void cancel_all(struct embeddings *e) {
    for (size_t i = 0; e->n_running > 0 && i < e->n_submitted; i++)
        if (e->inputs[i].running)
            bridge_cancel(e->server->bridge, e->inputs[i].id);
}

static void on_gone(void *user) {
    struct embeddings *e = user;
    e->x = NULL;
    if (e->writing)
        return; /* on_written frees it */
    cancel_all(e);
    embeddings_free(e);
}

static void fail(struct embeddings *e, const struct l4_err *err) {
    cancel_all(e);
    http_reply_err(e->x, err->code == L4_E_CONTEXT_LENGTH ? "input" : NULL, err);
    embeddings_free(e);
}

/* ---- the answer ---------------------------------------------------------------------------------------------------
 */

static void write_answer(void *user) {
    struct embeddings *e = user;
    struct l4_buf *out = &e->out;
    l4_buf_puts(out, "{\"object\":\"list\",\"data\":[");
    for (size_t i = 0; i < e->input.n_prompts; i++) {
        if (i)
            l4_buf_append(out, ",", 1);
        embeddings_put_one(out, i, e->inputs[i].values, e->n_values, e->base64);
    }
    l4_buf_puts(out, "],\"model\":");
    codec_put_string(out, e->input.limits.model_name, strlen(e->input.limits.model_name));
    l4_buf_printf(out, ",\"usage\":{\"prompt_tokens\":%lld,\"total_tokens\":%lld}}", (long long)e->n_tokens,
                  (long long)e->n_tokens);
}

static void on_written(void *user) {
    struct embeddings *e = user;
    if (e->x)
        http_reply(e->x, 200, "application/json", &e->out);
    embeddings_free(e);
}

static void reply(struct embeddings *e) {
    e->writing = e->n_values * e->input.n_prompts > INLINE_VALUES;
    if (e->writing && bridge_work(e->server->bridge, write_answer, on_written, e) == 0)
        return;
    write_answer(e);
    on_written(e);
}

/* ---- in the engine ------------------------------------------------------------------------------------------------
 */

static void on_event(void *user, const struct l4_event *event);

/* As many of the inputs that wait as may run.  A full queue is an error only for who has nothing in the engine: whoever
 * has goes on when the next of his own is done. */
static int submit_more(struct embeddings *e, struct l4_err *err) {
    while (e->n_submitted < e->input.n_prompts && e->n_running < (size_t)e->server->config->max_running) {
        struct input *input = &e->inputs[e->n_submitted];
        const struct l4_tokens *tokens = &e->input.prompts[e->n_submitted].tokens;
        struct l4_request request = {
            .prompt = tokens->ids, .n_prompt = tokens->len, .embed = true, .log_id = http_request_id(e->x)};
        l4_sampling_init(&request.sampling);
        int rc = bridge_submit(e->server->bridge, &request, on_event, input, &input->id, err);
        if (rc == L4_E_QUEUE_FULL && e->n_running > 0)
            return 0;
        if (rc)
            return rc;
        input->running = true;
        e->n_submitted++;
        e->n_running++;
    }
    return 0;
}

static void on_event(void *user, const struct l4_event *event) {
    struct input *input = user;
    struct embeddings *e = input->all;
    struct l4_err err = event->error;
    int rc = 0;
    if (event->type == L4_EVENT_EMBEDDING) {
        e->n_values = (size_t)event->n_embedding;
        input->values = calloc(e->n_values, sizeof *input->values);
        if (input->values)
            memcpy(input->values, event->embedding, e->n_values * sizeof *input->values);
        else
            rc = l4_err_set(&err, L4_E_NOMEM, "out of memory for an embedding");
    } else {
        input->running = false;
        e->n_running--;
        if (event->type == L4_EVENT_ERROR)
            rc = err.code;
        else if (event->finish == L4_FINISH_CANCELLED)
            rc = l4_err_set(&err, L4_E_SHUTDOWN, "the request was cancelled: the server is shutting down");
        else
            rc = submit_more(e, &err);
        if (rc == 0)
            metrics_observe(e->server->metrics, METRICS_queue_wait_seconds, event->queue_s);
    }
    if (rc)
        fail(e, &err);
    else if (e->n_running == 0)
        reply(e);
}

/* ---- start --------------------------------------------------------------------------------------------------------
 */

static int add_tokens(struct embeddings *e, const struct codec_prompt *input, const char *param,
                      struct l4_tokens *tokens) {
    for (size_t i = 0; i < input->n_ids; i++)
        if (l4_tokens_push(tokens, input->ids[i]))
            return codec_no_memory(&e->err);
    int rc = input->ids ? 0 : generation_encode_text(&e->input, param, input->text, tokens, &e->err);
    if (rc || (int64_t)tokens->len <= e->input.max_context_tokens)
        return rc;
    codec_fail(&e->err, param, "the input has %zu tokens, the context is %lld tokens", tokens->len,
               (long long)e->input.max_context_tokens);
    e->err.code = http_err_code(L4_E_CONTEXT_LENGTH);
    return L4_E_CONTEXT_LENGTH;
}

static int read_body(struct embeddings *e, const char *body, size_t len_bytes, struct embeddings_request *request) {
    int rc = embeddings_decode(body, len_bytes, &e->input.limits, e->server->info.hidden_size, request, &e->err);
    e->base64 = request->base64;
    if (rc || (rc = generation_add_prompts(&e->input, request->n_inputs, &e->err)))
        return rc;
    for (size_t i = 0; i < request->n_inputs; i++) {
        char param[32] = "input";
        if (request->n_inputs > 1)
            snprintf(param, sizeof param, "input[%zu]", i);
        if ((rc = add_tokens(e, &request->inputs[i], param, &e->input.prompts[i].tokens)))
            return rc;
        e->n_tokens += (int64_t)e->input.prompts[i].tokens.len;
    }
    return 0;
}

static void prepare(void *user, const char *body, size_t len_bytes) {
    struct embeddings *e = user;
    struct embeddings_request request;
    e->prepare_rc = read_body(e, body, len_bytes, &request);
    embeddings_request_free(&request);
}

static void on_prepared(void *user, struct http_exchange *x) {
    struct embeddings *e = user;
    struct l4_err err;
    if (!x) {
        embeddings_free(e);
        return;
    }
    if (e->prepare_rc == 0 && !(e->inputs = calloc(e->input.n_prompts, sizeof *e->inputs)))
        e->prepare_rc = codec_no_memory(&e->err);
    if (e->prepare_rc) {
        generation_reply_refusal(x, &e->err);
        embeddings_free(e);
        return;
    }
    e->x = x;
    http_on_gone(x, on_gone, e);
    http_body_done(x);
    http_note_tokens(x, e->n_tokens, 0);
    for (size_t i = 0; i < e->input.n_prompts; i++)
        e->inputs[i].all = e;
    if (submit_more(e, &err))
        fail(e, &err);
}

void api_embeddings(struct server *server, struct http_exchange *x) {
    struct embeddings *e = calloc(1, sizeof *e);
    if (e) {
        e->server = server;
        generation_input_init(server, &e->input);
    }
    if (!e || body_work(server, x, prepare, on_prepared, e)) {
        free(e);
        http_reply_error(x, 503, NULL, "out_of_memory", "out of memory");
    }
}
