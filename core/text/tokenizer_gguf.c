/* Reads the tokenizer of a GGUF file: the vocabulary and merges of a byte-level BPE, special tokens by their type. */
#include <string.h>

#include "core/format/gguf.h"
#include "core/text/tokenizer.h"

enum {
    NORMAL = TOKENIZER_GGUF_NORMAL,
    CONTROL = TOKENIZER_GGUF_CONTROL,
    USER_DEFINED = TOKENIZER_GGUF_USER_DEFINED,
    BYTE = TOKENIZER_GGUF_BYTE
};

static const char TOKENS[] = "tokenizer.ggml.tokens", TYPES[] = "tokenizer.ggml.token_type",
                  MERGES[] = "tokenizer.ggml.merges", BOS[] = "tokenizer.ggml.bos_token_id";

static void require_string(struct gguf_reader *reader, const char *key, const char *wanted) {
    struct gguf_text found;
    if (gguf_string(reader, key, GGUF_REQUIRED, &found) && !gguf_text_is(found, wanted))
        gguf_fail(reader, key, L4_E_UNSUPPORTED, "\"%s\"", wanted);
}

/* The tokens of the vocabulary proper, or those that are found in the text before it (added = true). */
static int add_tokens(struct l4_tokenizer *tokenizer, struct gguf_array tokens, struct gguf_array types, bool added,
                      struct l4_err *err) {
    struct gguf_text text;
    int32_t type;
    for (int64_t id = 0; gguf_next_string(&tokens, &text) && gguf_next_i32(&types, &type); id++) {
        int rc = 0;
        if (type < NORMAL || type > BYTE)
            return l4_err_set(err, L4_E_FORMAT, "%s[%lld]: expected %d..%d, found %d", TYPES, (long long)id, NORMAL,
                              BYTE, type);
        if (!added && (type == NORMAL || type == BYTE))
            rc = tokenizer_add_token(tokenizer, id, text.data, text.len_bytes, err);
        else if (added && (type == CONTROL || type == USER_DEFINED))
            rc = tokenizer_add_added(tokenizer, id, text.data, text.len_bytes, type == CONTROL, err);
        if (rc != 0) {
            l4_err_context(err, "%s[%lld]", TOKENS, (long long)id);
            return rc;
        }
    }
    return 0;
}

/* A merge is "a b": the alphabet has no space. */
static int add_merges(struct l4_tokenizer *tokenizer, struct gguf_array merges, struct l4_err *err) {
    struct gguf_text text;
    for (uint64_t i = 0; gguf_next_string(&merges, &text); i++) {
        const char *space = text.len_bytes > 0 ? memchr(text.data, ' ', text.len_bytes) : NULL;
        const size_t left_bytes = space ? (size_t)(space - text.data) : 0;
        const size_t right_bytes = space ? text.len_bytes - left_bytes - 1 : 0;
        int rc = left_bytes == 0 || right_bytes == 0 || memchr(space + 1, ' ', right_bytes)
                     ? l4_err_set(err, L4_E_FORMAT, "expected two parts with a space between them")
                     : tokenizer_add_merge(tokenizer, text.data, left_bytes, space + 1, right_bytes, err);
        if (rc != 0) {
            l4_err_context(err, "%s[%llu]", MERGES, (unsigned long long)i);
            return rc;
        }
    }
    return 0;
}

static int read_bos(struct l4_tokenizer *tokenizer, struct gguf_reader *reader) {
    int64_t bos = -1;
    bool wanted = true;
    (void)gguf_bool(reader, "tokenizer.ggml.add_bos_token", GGUF_OPTIONAL, &wanted);
    if (wanted && gguf_integer(reader, BOS, GGUF_OPTIONAL, 0, VOCAB_MAX_IDS - 1, &bos) &&
        vocab_kind(&tokenizer->vocab, bos) == TOKEN_GAP)
        gguf_fail(reader, BOS, L4_E_FORMAT, "the id of a token");
    tokenizer->bos = (int32_t)bos;
    return reader->rc;
}

int tokenizer_read_metadata(struct l4_tokenizer *tokenizer, const struct gguf *gguf, const char *path,
                            struct l4_err *err) {
    struct gguf_reader reader = {.gguf = gguf, .err = err};
    struct gguf_array tokens = {0}, types = {0}, merges = {0};
    require_string(&reader, "tokenizer.ggml.model", "gpt2");
    require_string(&reader, "tokenizer.ggml.pre", "llama4");
    (void)gguf_read_array(&reader, TOKENS, GGUF_REQUIRED, GGUF_STRING, &tokens);
    (void)gguf_read_array(&reader, TYPES, GGUF_REQUIRED, GGUF_INT32, &types);
    (void)gguf_read_array(&reader, MERGES, GGUF_REQUIRED, GGUF_STRING, &merges);
    if (tokens.n != types.n)
        gguf_fail(&reader, TYPES, L4_E_FORMAT, "as many as there are tokens, %llu", (unsigned long long)tokens.n);
    if (reader.rc != 0)
        return reader.rc;
    int rc = add_tokens(tokenizer, tokens, types, false, err);
    if (rc == 0)
        rc = add_tokens(tokenizer, tokens, types, true, err);
    if (rc == 0)
        rc = add_merges(tokenizer, merges, err);
    if (rc == 0)
        rc = tokenizer_finish(tokenizer, TOKENIZER_LLAMA4_PATTERN, strlen(TOKENIZER_LLAMA4_PATTERN), err);
    if (rc != 0) {
        l4_err_context(err, "%s", path);
        return rc;
    }
    tokenizer->ignore_merges = true;
    return read_bos(tokenizer, &reader);
}

int tokenizer_read_gguf(struct l4_tokenizer *tokenizer, const char *path, struct l4_err *err) {
    struct gguf *gguf;
    int rc = gguf_open(&gguf, path, err);
    if (rc != 0)
        return rc;
    rc = tokenizer_read_metadata(tokenizer, gguf, path, err);
    gguf_close(gguf);
    return rc;
}
