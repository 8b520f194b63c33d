#include "server/codec_completions.h"

#include <stdlib.h>
#include <string.h>

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
        (rc = prompts_decode(request->body.root, "prompt", limits->vocab_size, &request->prompts, &request->n_prompts,
                             err)))
        return rc;
    return decode_own(request->body.root, limits, request, err);
}

void completions_request_free(struct completions_request *request) {
    prompts_free(request->prompts, request->n_prompts);
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
