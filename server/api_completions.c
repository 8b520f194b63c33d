/* POST /v1/completions */
#include <stdlib.h>
#include <string.h>

#include "server/codec_completions.h"
#include "server/generation.h"
#include "server/route.h"
#include "server/sse.h"

/* Text becomes ids, and stays for echo and offsets. */
static int encode_text(struct l4_text text, const struct generation_input *input, struct generation_prompt *out,
                       struct codec_err *err) {
    const struct l4_tokenizer *tokenizer = input->tokenizer;
    int32_t bos = l4_tokenizer_bos(tokenizer);
    size_t bos_bytes = 0;
    int rc = generation_encode_text(input, "prompt", text, &out->tokens, err);
    if (rc)
        return rc;
    const char *marker = bos >= 0 ? l4_tokenizer_bytes(tokenizer, bos, &bos_bytes) : NULL;
    out->has_implicit_bos = marker && out->tokens.ids[0] == bos &&
                            (text.len_bytes < bos_bytes || memcmp(text.data, marker, bos_bytes) != 0);
    l4_buf_append(&out->text, text.data, text.len_bytes);
    return 0;
}

/* Ids are taken as they are; their text is wanted only for echo and offsets, without the token that begins each prompt,
 * as a prompt of text would not have it. */
static int copy_ids(const struct codec_prompt *prompt, const struct generation_input *input,
                    struct generation_prompt *out, struct codec_err *err) {
    struct l4_detok detok;
    l4_detok_init(&detok, input->tokenizer, true);
    out->has_implicit_bos = prompt->ids[0] == l4_tokenizer_bos(input->tokenizer);
    for (size_t i = 0; i < prompt->n_ids; i++) {
        if (l4_tokens_push(&out->tokens, prompt->ids[i]))
            return codec_no_memory(err);
        if (i > 0 || !out->has_implicit_bos)
            l4_detok_push(&detok, prompt->ids[i], &out->text);
    }
    l4_detok_finish(&detok, &out->text);
    return 0;
}

static int prepare(struct generation_input *input, struct codec_err *err) {
    struct completions_request *request = malloc(sizeof *request);
    if (!request)
        return codec_no_memory(err);
    int rc = completions_decode(input->body, input->body_bytes, &input->limits, request, err);
    input->request = request;
    input->params = request->params;
    if (rc || (rc = generation_add_prompts(input, request->n_prompts, err)))
        return rc;
    for (size_t i = 0; i < request->n_prompts; i++) {
        const struct codec_prompt *prompt = &request->prompts[i];
        struct generation_prompt *out = &input->prompts[i];
        if ((rc = prompt->ids ? copy_ids(prompt, input, out, err) : encode_text(prompt->text, input, out, err)))
            return rc;
        if (out->text.failed)
            return codec_no_memory(err);
    }
    return 0;
}

static void free_request(void *request) {
    if (request)
        completions_request_free(request);
    free(request);
}

static void put_chunk(const struct generation_output *to, const struct answer_choice *choice) {
    sse_open(to->out);
    completions_put_chunk(to->out, to->head, choice, to->params->include_usage);
    sse_close(to->out);
}

static void put_whole(const struct generation_output *to, const struct answer_choice *choices, size_t n_choices) {
    completions_put_whole(to->out, to->head, choices, n_choices, to->usage);
}

void api_completions(struct server *server, struct http_exchange *x) {
    static const struct generation_format format = {
        .id_prefix = "cmpl-",
        .object = "text_completion",
        .chunk_object = "text_completion",
        .prompt_field = "prompt",
        .logprobs_shape = LOGPROBS_LEGACY,
        .prepare = prepare,
        .free_request = free_request,
        .put_text = put_chunk,
        .put_finish = put_chunk,
        .put_whole = put_whole,
    };
    generation_start(server, x, &format);
}
