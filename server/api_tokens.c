/* POST /tokenize, /detokenize and /apply-template: what a request's tokens are, without the model. */
#include <stdlib.h>

#include "server/body_work.h"
#include "server/codec_chat.h"
#include "server/codec_tokens.h"
#include "server/generation.h"
#include "server/route.h"

/* The answer to input->body, as JSON.  Any thread. */
typedef int answer_fn(struct generation_input *input, struct l4_buf *out, struct codec_err *err);

struct job {
    answer_fn *answer;
    struct generation_input input;
    struct l4_buf out;
    struct codec_err err;
    int rc;
};

static void on_work(void *user, const char *body, size_t len_bytes) {
    struct job *job = user;
    job->input.body = body;
    job->input.body_bytes = len_bytes;
    job->rc = job->answer(&job->input, &job->out, &job->err);
}

static void on_done(void *user, struct http_exchange *x) {
    struct job *job = user;
    if (x && job->rc)
        generation_reply_refusal(x, &job->err);
    else if (x)
        http_reply(x, 200, "application/json", &job->out);
    generation_free_prompts(&job->input);
    l4_buf_free(&job->out);
    free(job);
}

static void reply(struct server *server, struct http_exchange *x, answer_fn *answer) {
    struct job *job = calloc(1, sizeof *job);
    if (job) {
        generation_input_init(server, &job->input);
        job->answer = answer;
    }
    if (!job || body_work(server, x, on_work, on_done, job)) {
        free(job);
        http_reply_error(x, 503, NULL, "out_of_memory", "out of memory");
    }
}

/* The prompt that a chat completion of the same request would begin with, whatever its length. */
static int add_chat(struct generation_input *input, bool keep_text, struct codec_err *err) {
    const int64_t max_context_tokens = input->max_context_tokens;
    struct chat_request request;
    int rc = chat_decode(input->body, input->body_bytes, &input->limits, &request, err);
    input->keep_text = keep_text;
    input->max_context_tokens = INT64_MAX;
    if (rc == 0)
        rc = generation_add_chat(input, &request.chat, err);
    input->max_context_tokens = max_context_tokens;
    chat_request_free(&request);
    return rc;
}

static int add_text(struct generation_input *input, const struct tokenize_request *request, struct codec_err *err) {
    const unsigned flags =
        (request->add_special ? L4_ENCODE_BOS : 0) | (request->parse_special ? L4_ENCODE_SPECIAL : 0);
    struct l4_err why;
    int rc = generation_add_prompts(input, 1, err);
    if (rc)
        return rc;
    if (l4_encode(input->tokenizer, request->text.data, request->text.len_bytes, flags, &input->prompts[0].tokens,
                  &why))
        return generation_refuse(err, NULL, &why);
    return 0;
}

static int tokenize(struct generation_input *input, struct l4_buf *out, struct codec_err *err) {
    struct tokenize_request request;
    int rc = tokenize_decode(input->body, input->body_bytes, &input->limits, &request, err);
    if (rc == 0)
        rc = request.is_chat ? add_chat(input, false, err) : add_text(input, &request, err);
    if (rc == 0)
        tokenize_put(out, input->tokenizer, &input->prompts[0].tokens, request.with_pieces, input->max_context_tokens);
    tokenize_request_free(&request);
    return rc;
}

static int detokenize(struct generation_input *input, struct l4_buf *out, struct codec_err *err) {
    int32_t *ids = NULL;
    size_t n_ids = 0;
    int rc = detokenize_decode(input->body, input->body_bytes, &input->limits, &ids, &n_ids, err);
    if (rc == 0)
        detokenize_put(out, input->tokenizer, ids, n_ids);
    free(ids);
    return rc;
}

static int apply_template(struct generation_input *input, struct l4_buf *out, struct codec_err *err) {
    int rc = add_chat(input, true, err);
    if (rc)
        return rc;
    l4_buf_puts(out, "{\"prompt\":");
    codec_put_string(out, input->prompts[0].text.data, input->prompts[0].text.len);
    l4_buf_puts(out, "}");
    return 0;
}

void api_tokenize(struct server *server, struct http_exchange *x) {
    reply(server, x, tokenize);
}

void api_detokenize(struct server *server, struct http_exchange *x) {
    reply(server, x, detokenize);
}

void api_apply_template(struct server *server, struct http_exchange *x) {
    reply(server, x, apply_template);
}
