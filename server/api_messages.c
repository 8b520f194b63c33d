/* POST /v1/messages and POST /v1/messages/count_tokens */
#include <stdlib.h>

#include "server/body_work.h"
#include "server/codec_messages.h"
#include "server/generation.h"
#include "server/route.h"

static int prepare(struct generation_input *input, struct codec_err *err) {
    struct messages_request *request = malloc(sizeof *request);
    if (!request)
        return codec_no_memory(err);
    int rc = messages_decode(input->body, input->body_bytes, MESSAGES_ANSWER, &input->limits, request, err);
    input->request = request;
    input->params = request->params;
    input->tools = request->tools; /* longer than the request lives */
    request->tools = NULL;
    input->max_calls = request->parallel_tool_calls ? 0 : 1;
    if (rc)
        return rc;
    input->answer = messages_answer_open(&request->params);
    return input->answer ? generation_add_chat(input, &request->chat, err) : codec_no_memory(err);
}

static void free_request(void *request) {
    if (request)
        messages_request_free(request);
    free(request);
}

static void free_answer(void *answer) {
    messages_answer_close(answer);
}

static void put_begin(const struct generation_output *to, const struct answer_choice *choice) {
    (void)choice;
    messages_put_start(to->out, to->head, to->usage);
}

static void put_text(const struct generation_output *to, const struct answer_choice *choice) {
    messages_put_text(to->out, to->answer, choice->text);
}

static void put_call(const struct generation_output *to, const struct answer_choice *choice) {
    messages_put_call(to->out, to->answer, choice);
}

static void put_finish(const struct generation_output *to, const struct answer_choice *choice) {
    messages_put_finish(to->out, to->answer, to->usage, choice);
}

static void put_end(const struct generation_output *to) {
    messages_put_end(to->out);
}

static void put_whole(const struct generation_output *to, const struct answer_choice *choices, size_t n_choices) {
    (void)n_choices; /* this API has no n */
    messages_put_whole(to->out, to->head, to->usage, to->answer, choices);
}

void api_messages(struct server *server, struct http_exchange *x) {
    static const struct generation_format format = {
        .id_prefix = "msg_",
        .object = "message",
        .chunk_object = "message",
        .prompt_field = "messages",
        .prepare = prepare,
        .free_request = free_request,
        .free_answer = free_answer,
        .put_begin = put_begin,
        .put_text = put_text,
        .put_call = put_call,
        .put_finish = put_finish,
        .put_end = put_end,
        .put_whole = put_whole,
    };
    generation_start(server, x, &format);
}

/* ---- count_tokens -------------------------------------------------------------------------------------------------
 */

struct count {
    struct generation_input input;
    struct codec_err err;
    int rc;
};

static void count_tokens(void *user, const char *body, size_t len_bytes) {
    struct count *count = user;
    struct messages_request request;
    count->rc = messages_decode(body, len_bytes, MESSAGES_COUNT, &count->input.limits, &request, &count->err);
    if (count->rc == 0)
        count->rc = generation_add_chat(&count->input, &request.chat, &count->err);
    messages_request_free(&request);
}

static void reply_count(void *user, struct http_exchange *x) {
    struct count *count = user;
    if (x && count->rc) {
        generation_reply_refusal(x, &count->err);
    } else if (x) {
        struct l4_buf body = {0};
        l4_buf_printf(&body, "{\"input_tokens\":%zu}", count->input.prompts[0].tokens.len);
        http_reply(x, 200, "application/json", &body);
    }
    generation_free_prompts(&count->input);
    free(count);
}

void api_messages_count_tokens(struct server *server, struct http_exchange *x) {
    struct count *count = calloc(1, sizeof *count);
    if (count) {
        generation_input_init(server, &count->input);
        count->input.max_context_tokens = INT64_MAX; /* who counts wants to know by how much it is too long */
    }
    if (!count || body_work(server, x, count_tokens, reply_count, count)) {
        free(count);
        http_reply_error(x, 503, NULL, "out_of_memory", "out of memory");
    }
}
