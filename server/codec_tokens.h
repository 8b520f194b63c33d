/* POST /tokenize and /detokenize: request JSON to a struct, tokens to answer JSON.  Pure functions.  Thread: any. */
#ifndef SERVER_CODEC_TOKENS_H
#define SERVER_CODEC_TOKENS_H

#include "server/codec_params.h"

struct tokenize_request {
    struct codec_body body;
    bool is_chat;        /* it has `messages`: the rest is chat_decode's, with_pieces aside */
    struct l4_text text; /* else this; borrowed from the body */
    bool add_special;    /* begin with the token that begins every prompt */
    bool parse_special;  /* markers in the text become special tokens */
    bool with_pieces;    /* the answer says what each token stands for */
};

/* tokenize_decode - text [len_bytes] is borrowed and must outlive *request.  Free with tokenize_request_free whatever
 * comes back.  Errors: L4_E_INVALID (a model that is not served is a 404), L4_E_NOMEM; *err filled. */
int tokenize_decode(const char *text, size_t len_bytes, const struct codec_limits *limits,
                    struct tokenize_request *request, struct codec_err *err) L4_MUST_CHECK;
void tokenize_request_free(struct tokenize_request *request);

/* {"count", "max_model_len", "tokens"}: the shapes of vLLM and, with pieces, of llama.cpp in one.  A piece that is no
 * UTF-8 by itself is an array of its bytes. */
void tokenize_put(struct l4_buf *out, const struct l4_tokenizer *tokenizer, const struct l4_tokens *tokens,
                  bool with_pieces, int64_t max_context_tokens);

/* detokenize_decode - the ids of `tokens`, which may be none; *ids is the caller's whatever comes back.
 * Errors: as tokenize_decode. */
int detokenize_decode(const char *text, size_t len_bytes, const struct codec_limits *limits, int32_t **ids,
                      size_t *n_ids, struct codec_err *err) L4_MUST_CHECK;
/* {"content", "prompt"}: the same text under the names that llama.cpp and vLLM give it. */
void detokenize_put(struct l4_buf *out, const struct l4_tokenizer *tokenizer, const int32_t *ids, size_t n_ids);

#endif
