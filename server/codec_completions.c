#include "server/codec_completions.h"

#include <stdlib.h>
#include <string.h>

static int decode_ids(const cJSON *array, const struct codec_limits *limits, struct completions_prompt *prompt,
                      struct codec_err *err) {
    size_t n = (size_t)cJSON_GetArraySize(array);
    const cJSON *item;
    if (n == 0)
        return codec_fail(err, "", "a prompt of token ids must hold at least one id");
    prompt->ids = calloc(n, sizeof *prompt->ids);
    if (!prompt->ids)
        return codec_no_memory(err);
    cJSON_ArrayForEach(item, array) {
        int64_t id;
        if (!codec_to_int(item, 0, limits->vocab_size - 1, &id)) {
            codec_fail(err, "", "a prompt of token ids must hold integers from 0 to %d", (int)limits->vocab_size - 1);
            return codec_within(err, "[%zu]", prompt->n_ids);
        }
        prompt->ids[prompt->n_ids++] = (int32_t)id;
    }
    return 0;
}

/* Four forms: a string, an array of strings, an array of ids, an array of arrays of ids. */
static int decode_prompts(const cJSON *root, const struct codec_limits *limits, struct completions_request *request,
                          struct codec_err *err) {
    const cJSON *prompt = codec_get(root, "prompt"), *item;
    if (!prompt)
        return codec_fail(err, "prompt", "'prompt' is missing");
    bool is_list = cJSON_IsArray(prompt) && !cJSON_IsNumber(prompt->child);
    size_t n = is_list ? (size_t)cJSON_GetArraySize(prompt) : 1;
    if (!cJSON_IsArray(prompt) && !cJSON_IsString(prompt))
        return codec_fail(err, "prompt", "'prompt' must be a string or an array, not %s", codec_kind(prompt));
    if (n == 0)
        return codec_fail(err, "prompt", "'prompt' must not be an empty array");
    request->prompts = calloc(n, sizeof *request->prompts);
    if (!request->prompts)
        return codec_no_memory(err);
    for (item = is_list ? prompt->child : prompt; item && request->n_prompts < n; item = item->next) {
        struct completions_prompt *at = &request->prompts[request->n_prompts++];
        int rc = 0;
        if (cJSON_IsString(item))
            at->text = codec_text(item);
        else if (cJSON_IsArray(item))
            rc = decode_ids(item, limits, at, err);
        else
            rc = codec_fail(err, "", "'prompt' must hold strings or arrays of token ids, not %s", codec_kind(item));
        if (rc && is_list)
            rc = codec_within(err, "[%zu]", request->n_prompts - 1);
        if (rc)
            return codec_within(err, "prompt");
        if (cJSON_IsString(item) != cJSON_IsString(is_list ? prompt->child : prompt))
            return codec_fail(err, "prompt", "'prompt' mixes strings and arrays of token ids");
    }
    return 0;
}

static int decode_own(const cJSON *root, const struct codec_limits *limits, struct completions_request *request,
                      struct codec_err *err) {
    struct gen_params *params = &request->params;
    int64_t n_top = -1, best_of = params->n;
    int rc;
    params->max_tokens = 16;
    if ((rc = codec_get_int(root, "max_tokens", 0, INT32_MAX, &params->max_tokens, err)) ||
        (rc = codec_get_int(root, "logprobs", 0, L4_MAX_TOP_LOGPROBS, &n_top, err)) ||
        (rc = codec_get_bool(root, "echo", &params->echo, err)) ||
        (rc = codec_get_int(root, "best_of", 1, PARAMS_MAX_N, &best_of, err)))
        return rc;
    params->logprobs = n_top >= 0;
    params->n_top_logprobs = n_top > 0 ? (int)n_top : 0;
    if (best_of < params->n)
        return codec_fail(err, "best_of", "'best_of' must be at least 'n' (%d), not %d", params->n, (int)best_of);
    if (best_of > params->n && params->stream)
        return codec_fail(err, "best_of", "'best_of' greater than 'n' cannot be streamed");
    params->best_of = (int)best_of;
    if (codec_get(root, "suffix"))
        return codec_fail(err, "suffix", "'suffix' is not served: the model completes at the end only");
    return params_check_choices(params, limits, request->n_prompts, err);
}

int completions_decode(const char *text, size_t len_bytes, const struct codec_limits *limits,
                       struct completions_request *request, struct codec_err *err) {
    *request = (struct completions_request){0};
    int rc;
    if ((rc = codec_body_parse(&request->body, text, len_bytes, err)) ||
        (rc = params_decode(&request->body, limits, &request->params, err)) ||
        (rc = decode_prompts(request->body.root, limits, request, err)))
        return rc;
    return decode_own(request->body.root, limits, request, err);
}

void completions_request_free(struct completions_request *request) {
    for (size_t i = 0; i < request->n_prompts; i++)
        free(request->prompts[i].ids);
    free(request->prompts);
    params_free(&request->params);
    codec_body_free(&request->body);
    *request = (struct completions_request){0};
}

static void put_choice(struct l4_buf *out, const struct answer_choice *choice) {
    l4_buf_puts(out, "{\"index\":");
    codec_put_int(out, choice->index);
    l4_buf_puts(out, ",\"text\":");
    codec_put_string(out, choice->text.data, choice->text.len_bytes);
    l4_buf_puts(out, ",\"logprobs\":");
    if (choice->logprobs)
        logprob_list_put(out, LOGPROBS_LEGACY, choice->logprobs);
    else
        l4_buf_puts(out, "null");
    l4_buf_puts(out, ",\"finish_reason\":");
    if (choice->finish_reason)
        codec_put_string(out, choice->finish_reason, strlen(choice->finish_reason));
    else
        l4_buf_puts(out, "null");
    l4_buf_puts(out, "}");
}

void completions_put_chunk(struct l4_buf *out, const struct answer_head *head, const struct answer_choice *choice,
                           bool usage_null) {
    l4_buf_append(out, head->text.data, head->text.len);
    put_choice(out, choice);
    l4_buf_puts(out, usage_null ? "],\"usage\":null}" : "]}");
}

void completions_put_whole(struct l4_buf *out, const struct answer_head *head, const struct answer_choice *choices,
                           size_t n_choices, const struct answer_usage *usage) {
    l4_buf_append(out, head->text.data, head->text.len);
    for (size_t i = 0; i < n_choices; i++) {
        if (i)
            l4_buf_puts(out, ",");
        put_choice(out, &choices[i]);
    }
    l4_buf_puts(out, "],\"usage\":");
    answer_put_usage(out, usage);
    l4_buf_puts(out, "}");
}
