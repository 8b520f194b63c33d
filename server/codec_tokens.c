#include "server/codec_tokens.h"

#include "server/codec_prompts.h"

/* The text, under one of the names that clients of other servers use. */
static int decode_text(const cJSON *root, struct tokenize_request *request, struct codec_err *err) {
    static const char *const names[] = {"content", "prompt", "text"};
    const char *found = request->is_chat ? "messages" : NULL;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        int rc = codec_get_text(root, names[i], &request->text, err);
        if (rc)
            return rc;
        if (!codec_get(root, names[i]))
            continue;
        if (found)
            return codec_fail(err, names[i], "'%s' and '%s' exclude each other", found, names[i]);
        found = names[i];
    }
    if (!found)
        return codec_fail(err, "content",
                          "there is nothing to tokenize: 'content', 'prompt', 'text' or 'messages' is "
                          "needed");
    return 0;
}

int tokenize_decode(const char *text, size_t len_bytes, const struct codec_limits *limits,
                    struct tokenize_request *request, struct codec_err *err) {
    int rc;
    *request = (struct tokenize_request){.parse_special = true};
    if ((rc = codec_body_parse(&request->body, text, len_bytes, err)))
        return rc;
    const cJSON *root = request->body.root;
    request->is_chat = codec_get(root, "messages");
    if ((rc = params_check_model(root, limits, err)) || (rc = decode_text(root, request, err)) ||
        (rc = codec_get_bool(root, "add_special_tokens", &request->add_special, err)) ||
        (rc = codec_get_bool(root, "add_special", &request->add_special, err)) ||
        (rc = codec_get_bool(root, "parse_special", &request->parse_special, err)))
        return rc;
    return codec_get_bool(root, "with_pieces", &request->with_pieces, err);
}

void tokenize_request_free(struct tokenize_request *request) {
    codec_body_free(&request->body);
}

static void put_piece(struct l4_buf *out, const struct l4_tokenizer *tokenizer, int32_t id) {
    size_t len = 0;
    const char *bytes = l4_tokenizer_bytes(tokenizer, id, &len);
    l4_buf_puts(out, "{\"id\":");
    codec_put_int(out, id);
    l4_buf_puts(out, ",\"piece\":");
    if (codec_utf8_is_valid(bytes, len)) {
        codec_put_string(out, bytes, len);
    } else {
        for (size_t i = 0; i < len; i++) {
            l4_buf_puts(out, i ? "," : "[");
            codec_put_int(out, (unsigned char)bytes[i]);
        }
        l4_buf_puts(out, "]");
    }
    l4_buf_puts(out, "}");
}

void tokenize_put(struct l4_buf *out, const struct l4_tokenizer *tokenizer, const struct l4_tokens *tokens,
                  bool with_pieces, int64_t max_context_tokens) {
    l4_buf_printf(out, "{\"count\":%zu,\"max_model_len\":%lld,\"tokens\":[", tokens->len,
                  (long long)max_context_tokens);
    for (size_t i = 0; i < tokens->len; i++) {
        if (i)
            l4_buf_append(out, ",", 1);
        if (with_pieces)
            put_piece(out, tokenizer, tokens->ids[i]);
        else
            codec_put_int(out, tokens->ids[i]);
    }
    l4_buf_puts(out, "]}");
}

int detokenize_decode(const char *text, size_t len_bytes, const struct codec_limits *limits, int32_t **ids,
                      size_t *n_ids, struct codec_err *err) {
    struct codec_body body;
    const cJSON *tokens = NULL;
    *ids = NULL;
    int rc = codec_body_parse(&body, text, len_bytes, err);
    if (rc)
        return rc;
    if ((rc = params_check_model(body.root, limits, err)) == 0 &&
        (rc = codec_get_array(body.root, "tokens", &tokens, err)) == 0 && !tokens)
        rc = codec_fail(err, "tokens", "'tokens' is missing");
    if (rc == 0 && (rc = prompts_decode_ids(tokens, limits->vocab_size, ids, n_ids, err)))
        rc = codec_within(err, "tokens");
    codec_body_free(&body);
    return rc;
}

void detokenize_put(struct l4_buf *out, const struct l4_tokenizer *tokenizer, const int32_t *ids, size_t n_ids) {
    struct l4_buf text = {0};
    struct l4_detok detok;
    l4_detok_init(&detok, tokenizer, true);
    for (size_t i = 0; i < n_ids; i++)
        l4_detok_push(&detok, ids[i], &text);
    l4_detok_finish(&detok, &text);
    l4_buf_puts(out, "{\"content\":");
    codec_put_string(out, text.data ? text.data : "", text.len);
    l4_buf_puts(out, ",\"prompt\":");
    codec_put_string(out, text.data ? text.data : "", text.len);
    l4_buf_puts(out, "}");
    out->failed |= text.failed;
    l4_buf_free(&text);
}
