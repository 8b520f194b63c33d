/* POST /v1/chat/completions */
#include <stdlib.h>

#include "server/codec_chat.h"
#include "server/generation.h"
#include "server/route.h"
#include "server/sse.h"

static int prepare(struct generation_input *input, struct codec_err *err) {
    struct chat_request *request = malloc(sizeof *request);
    if (!request)
        return codec_no_memory(err);
    int rc = chat_decode(input->body, input->body_bytes, &input->limits, request, err);
    input->request = request;
    input->params = request->params;
    input->tools = request->tools; /* longer than the request lives */
    request->tools = NULL;
    input->max_calls = request->parallel_tool_calls ? 0 : 1;
    return rc ? rc : generation_add_chat(input, &request->chat, err);
}

static void free_request(void *request) {
    if (request)
        chat_request_free(request);
    free(request);
}

static void put_chunk(const struct generation_output *to, enum chat_delta delta, const struct answer_choice *choice) {
    sse_open(to->out);
    chat_put_chunk(to->out, to->head, delta, choice, to->params->include_usage);
    sse_close(to->out);
}

static void put_begin(const struct generation_output *to, const struct answer_choice *choice) {
    put_chunk(to, CHAT_DELTA_ROLE, choice);
}

static void put_text(const struct generation_output *to, const struct answer_choice *choice) {
    put_chunk(to, CHAT_DELTA_TEXT, choice);
}

static void put_call(const struct generation_output *to, const struct answer_choice *choice) {
    put_chunk(to, CHAT_DELTA_CALL, choice);
}

static void put_finish(const struct generation_output *to, const struct answer_choice *choice) {
    put_chunk(to, CHAT_DELTA_FINISH, choice);
}

static void put_whole(const struct generation_output *to, const struct answer_choice *choices, size_t n_choices) {
    chat_put_whole(to->out, to->head, choices, n_choices, to->usage);
}

void api_chat_completions(struct server *server, struct http_exchange *x) {
    static const struct generation_format format = {
        .id_prefix = "chatcmpl-",
        .object = "chat.completion",
        .chunk_object = "chat.completion.chunk",
        .prompt_field = "messages",
        .logprobs_shape = LOGPROBS_CHAT,
        .prepare = prepare,
        .free_request = free_request,
        .put_begin = put_begin,
        .put_text = put_text,
        .put_call = put_call,
        .put_finish = put_finish,
        .put_whole = put_whole,
    };
    generation_start(server, x, &format);
}
