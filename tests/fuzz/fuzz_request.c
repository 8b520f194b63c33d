/* Any bytes as the body of a completions, chat, messages, responses, embeddings or tokenize request: decoded or refused
 * with a status, a message and, inside accepted requests, bounds that hold. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "server/codec_chat.h"
#include "server/codec_completions.h"
#include "server/codec_embeddings.h"
#include "server/codec_messages.h"
#include "server/codec_responses.h"
#include "server/codec_tokens.h"

static const struct codec_limits limits = {
    .model_name = "demo", .vocab_size = 2048, .max_choices = PARAMS_MAX_CHOICES, .defaults = {.temperature = 1}};

static void require(int ok) {
    if (!ok)
        abort();
}

static void check_error(const struct codec_err *err) {
    require(err->status >= 400 && err->status <= 503 && err->message[0] != '\0');
    require(memchr(err->param, '\0', sizeof err->param) != NULL);
}

static void check_params(const struct gen_params *p, size_t n_prompts) {
    require(p->n >= 1 && p->best_of >= p->n && (size_t)p->best_of * n_prompts <= PARAMS_MAX_CHOICES);
    require(p->n_stop <= PARAMS_MAX_STOP && p->n_stop_ids <= PARAMS_MAX_STOP_IDS);
    for (size_t i = 0; i < p->n_stop; i++)
        require(p->stop[i].len_bytes > 0 && p->stop[i].len_bytes <= PARAMS_MAX_STOP_BYTES);
    for (size_t i = 0; i < p->n_stop_ids; i++)
        require(p->stop_ids[i] >= 0 && p->stop_ids[i] < limits.vocab_size);
    for (size_t i = 0; i < p->sampling.n_logit_bias; i++)
        require(p->sampling.logit_bias[i].id >= 0 && p->sampling.logit_bias[i].id < limits.vocab_size);
    require(p->max_tokens >= -1 && p->n_top_logprobs >= 0 && p->n_top_logprobs <= L4_MAX_TOP_LOGPROBS);
    require(p->sampling.temperature >= 0 && p->sampling.temperature <= 2);
}

/* A slice of the body must be one JSON value. */
static void check_slice(struct l4_text text) {
    const char *end = NULL;
    cJSON *item = cJSON_ParseWithLengthOpts(text.data, text.len_bytes, &end, 0);
    require(cJSON_IsObject(item) && end == text.data + text.len_bytes);
    cJSON_Delete(item);
}

static void check_responses(const struct responses_request *responses) {
    struct l4_buf echo = {0};
    check_params(&responses->params, 1);
    require(responses->params.n == 1 && responses->chat.n_messages > 0);
    for (size_t i = 0; i < responses->chat.n_tools; i++)
        check_slice(responses->chat.tools_json[i]);
    l4_buf_printf(&echo, "{%s}", responses->echo.data);
    check_slice((struct l4_text){echo.data, echo.len});
    require(strpbrk(echo.data, "\r\n") == NULL); /* it goes into one line of a stream */
    l4_buf_free(&echo);
}

static void check_ids(const int32_t *ids, size_t n_ids) {
    for (size_t i = 0; i < n_ids; i++)
        require(ids[i] >= 0 && ids[i] < limits.vocab_size);
}

static void decode_embeddings(const char *text, size_t size) {
    struct embeddings_request request;
    struct codec_err err = {0};
    if (embeddings_decode(text, size, &limits, 16, &request, &err))
        check_error(&err);
    else
        require(request.n_inputs >= 1 && request.n_inputs <= EMBEDDINGS_MAX_INPUTS);
    for (size_t i = 0; i < request.n_inputs; i++)
        check_ids(request.inputs[i].ids, request.inputs[i].n_ids);
    embeddings_request_free(&request);
}

static void decode_tokens(const char *text, size_t size) {
    struct tokenize_request request;
    struct codec_err err = {0};
    int32_t *ids;
    size_t n_ids = 0;
    if (tokenize_decode(text, size, &limits, &request, &err))
        check_error(&err);
    else
        require(request.is_chat != (request.text.data != NULL));
    tokenize_request_free(&request);
    if (detokenize_decode(text, size, &limits, &ids, &n_ids, &err))
        check_error(&err);
    else
        check_ids(ids, n_ids);
    free(ids);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct codec_err err = {0};
    struct completions_request completions;
    struct chat_request chat;
    struct messages_request messages;
    struct responses_request responses;
    char *text = malloc(size ? size : 1); /* of its own, so that reading past the end is seen */
    if (!text)
        return 0;
    memcpy(text, data, size);
    if (completions_decode(text, size, &limits, &completions, &err))
        check_error(&err);
    else
        check_params(&completions.params, completions.n_prompts);
    completions_request_free(&completions);
    if (chat_decode(text, size, &limits, &chat, &err)) {
        check_error(&err);
    } else {
        check_params(&chat.params, 1);
        require(chat.chat.n_messages > 0);
        for (size_t i = 0; i < chat.chat.n_tools; i++)
            check_slice(chat.chat.tools_json[i]);
    }
    chat_request_free(&chat);
    if (messages_decode(text, size, MESSAGES_ANSWER, &limits, &messages, &err)) {
        check_error(&err);
    } else {
        check_params(&messages.params, 1);
        require(messages.chat.n_messages > 0 && messages.params.max_tokens > 0);
        for (size_t i = 0; i < messages.chat.n_tools; i++)
            check_slice(messages.chat.tools_json[i]);
        for (size_t i = 0; i < messages.chat.n_messages; i++)
            for (size_t k = 0; k < messages.chat.messages[i].n_tool_calls; k++)
                check_slice(messages.chat.messages[i].tool_calls[k].arguments_json);
    }
    messages_request_free(&messages);
    if (responses_decode(text, size, &limits, &responses, &err))
        check_error(&err);
    else
        check_responses(&responses);
    responses_request_free(&responses);
    decode_embeddings(text, size);
    decode_tokens(text, size);
    free(text);
    return 0;
}
