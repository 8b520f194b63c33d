/* POST /v1/responses */
#include <stdlib.h>
#include <string.h>

#include "server/codec_responses.h"
#include "server/generation.h"
#include "server/responses_answer.h"
#include "server/route.h"

static int prepare(struct generation_input *input, struct codec_err *err) {
    struct responses_request *request = malloc(sizeof *request);
    if (!request)
        return codec_no_memory(err);
    int rc = responses_decode(input->body, input->body_bytes, &input->limits, request, err);
    input->request = request;
    input->params = request->params;
    input->tools = request->tools; /* longer than the request lives */
    request->tools = NULL;
    input->max_calls = request->parallel_tool_calls ? 0 : 1;
    if (rc)
        return rc;
    input->answer = responses_answer_open(&request->echo, request->params.stream);
    if (!input->answer)
        return codec_no_memory(err);
    rc = generation_add_chat(input, &request->chat, err);
    if (rc && strncmp(err->param, "messages", 8) == 0)
        strcpy(err->param, "input"); /* what the messages were made of */
    return rc;
}

static void free_request(void *request) {
    if (request)
        responses_request_free(request);
    free(request);
}

static void free_answer(void *answer) {
    responses_answer_close(answer);
}

static void put_begin(const struct generation_output *to, const struct answer_choice *choice) {
    (void)choice;
    responses_put_begin(to->out, to->answer, to->head);
}

static void put_text(const struct generation_output *to, const struct answer_choice *choice) {
    responses_put_text(to->out, to->answer, to->head, choice);
}

static void put_call(const struct generation_output *to, const struct answer_choice *choice) {
    responses_put_call(to->out, to->answer, choice);
}

static void put_call_end(const struct generation_output *to, const struct answer_choice *choice) {
    responses_put_call_end(to->out, to->answer, choice);
}

static void put_finish(const struct generation_output *to, const struct answer_choice *choice) {
    responses_put_finish(to->out, to->answer, to->head, choice);
}

static void put_end(const struct generation_output *to) {
    responses_put_end(to->out, to->answer, to->head, to->usage);
}

static void put_error(const struct generation_output *to, const struct l4_err *err) {
    struct http_error error = {
        .status = http_err_status(err->code), .code = http_err_code(err->code), .message = err->message};
    struct l4_buf object = {0};
    http_error_json(&object, NULL, NULL, &error);
    if (!object.failed) {
        object.data[object.len - 1] = '\0'; /* its member, without the braces */
        struct responses_failure failure = {.is_ours = error.status >= 500,
                                            .code = error.code,
                                            .message = error.message,
                                            .error_member = object.data + 1};
        responses_put_failure(to->out, to->answer, to->head, to->usage, &failure);
    }
    l4_buf_free(&object);
}

static void put_whole(const struct generation_output *to, const struct answer_choice *choices, size_t n_choices) {
    (void)choices; /* one, which has come in pieces */
    (void)n_choices;
    responses_put_whole(to->out, to->answer, to->head, to->usage);
}

void api_responses(struct server *server, struct http_exchange *x) {
    static const struct generation_format format = {
        .id_prefix = "resp_",
        .object = "response",
        .chunk_object = "response",
        .prompt_field = "input",
        .logprobs_shape = LOGPROBS_CHAT,
        .prepare = prepare,
        .free_request = free_request,
        .free_answer = free_answer,
        .always_in_pieces = true,
        .put_begin = put_begin,
        .put_text = put_text,
        .put_call = put_call,
        .put_call_end = put_call_end,
        .put_finish = put_finish,
        .put_end = put_end,
        .put_error = put_error,
        .put_whole = put_whole,
    };
    generation_start(server, x, &format);
}
