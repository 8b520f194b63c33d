#include "core/text/tokenizer.h"

#include <stdlib.h>
#include <string.h>

#include "core/base/checked.h"
#include "core/format/gguf.h"
#include "core/text/byte_level.h"

const char TOKENIZER_LLAMA4_PATTERN[] =
    "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}"
    "\\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
    "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm}\\p{Lo}"
    "\\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
    "\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";

int tokenizer_new(struct l4_tokenizer **out, struct l4_err *err) {
    *out = calloc(1, sizeof **out);
    if (!*out)
        return l4_err_set(err, L4_E_NOMEM, "out of memory for the tokenizer");
    (*out)->bos = -1;
    return 0;
}

int l4_tokenizer_open(struct l4_tokenizer **out, const char *path, struct l4_err *err) {
    struct l4_tokenizer *tokenizer;
    *out = NULL;
    int rc = tokenizer_new(&tokenizer, err);
    if (rc == 0)
        rc = gguf_is_file(path) ? tokenizer_read_gguf(tokenizer, path, err) : tokenizer_read_json(tokenizer, path, err);
    if (rc < 0)
        l4_tokenizer_close(tokenizer);
    else
        *out = tokenizer;
    return rc;
}

void l4_tokenizer_close(struct l4_tokenizer *tokenizer) {
    if (!tokenizer)
        return;
    vocab_fini(&tokenizer->vocab);
    added_fini(&tokenizer->added);
    pretokenizer_close(tokenizer->pretokenizer);
    free(tokenizer);
}

int tokenizer_add_token(struct l4_tokenizer *tokenizer, int64_t id, const char *text, size_t len_bytes,
                        struct l4_err *err) {
    char *bytes = checked_array(len_bytes, 1);
    if (!bytes)
        return l4_err_set(err, L4_E_NOMEM, "out of memory for the vocabulary");
    size_t n_bytes = 0;
    int rc = byte_level_decode(text, len_bytes, bytes, &n_bytes)
                 ? vocab_add(&tokenizer->vocab, id, bytes, n_bytes, TOKEN_PIECE, err)
                 : vocab_add(&tokenizer->vocab, id, text, len_bytes, TOKEN_OPAQUE, err);
    free(bytes);
    return rc;
}

/* Is text, spelled in the byte-level alphabet where it can be, the vocabulary's token `id`? */
static bool is_token(const struct l4_tokenizer *tokenizer, int32_t id, const char *text, size_t len_bytes,
                     const char *bytes, size_t n_bytes) {
    size_t have_bytes;
    const char *have = vocab_bytes(&tokenizer->vocab, id, &have_bytes);
    switch (vocab_kind(&tokenizer->vocab, id)) {
    case TOKEN_PIECE:
        return n_bytes > 0 && have_bytes == n_bytes && memcmp(have, bytes, n_bytes) == 0;
    case TOKEN_OPAQUE:
        return have_bytes == len_bytes && memcmp(have, text, len_bytes) == 0;
    default:
        return false;
    }
}

int tokenizer_add_added(struct l4_tokenizer *tokenizer, int64_t id, const char *text, size_t len_bytes, bool special,
                        struct l4_err *err) {
    struct vocab *vocab = &tokenizer->vocab;
    enum token_kind kind = special ? TOKEN_SPECIAL : TOKEN_ADDED;
    char bytes[ADDED_MAX_BYTES];
    size_t n_bytes = 0;
    if (len_bytes <= sizeof bytes && !byte_level_decode(text, len_bytes, bytes, &n_bytes))
        n_bytes = 0;
    int32_t piece = n_bytes ? vocab_find_piece(vocab, bytes, n_bytes) : -1;
    if (piece >= 0 && piece != id)
        return l4_err_set(err, L4_E_FORMAT, "the added token %lld has the text of token %d", (long long)id, piece);
    if (vocab_kind(vocab, id) == TOKEN_GAP) {
        int rc = vocab_add(vocab, id, text, len_bytes, kind, err);
        if (rc < 0)
            return rc;
    } else if (is_token(tokenizer, (int32_t)id, text, len_bytes, bytes, n_bytes)) {
        vocab_promote(vocab, (int32_t)id, kind);
    } else {
        return l4_err_set(err, L4_E_FORMAT, "two tokens have the id %lld", (long long)id);
    }
    return added_insert(&tokenizer->added, text, len_bytes, (int32_t)id, special, err);
}

int tokenizer_add_merge(struct l4_tokenizer *tokenizer, const char *left, size_t left_bytes, const char *right,
                        size_t right_bytes, struct l4_err *err) {
    char small[256], *bytes = small;
    size_t need;
    if (!checked_add_size(left_bytes, right_bytes, &need) || (need > sizeof small && !(bytes = malloc(need))))
        return l4_err_set(err, L4_E_NOMEM, "out of memory for a merge");
    size_t n_left = 0, n_right = 0;
    int rc = byte_level_decode(left, left_bytes, bytes, &n_left) &&
                     byte_level_decode(right, right_bytes, bytes + n_left, &n_right)
                 ? vocab_add_merge(&tokenizer->vocab, bytes, n_left, bytes + n_left, n_right, err)
                 : l4_err_set(err, L4_E_FORMAT, "it is not spelled in the byte-level alphabet");
    if (bytes != small)
        free(bytes);
    return rc;
}

int tokenizer_finish(struct l4_tokenizer *tokenizer, const char *pattern, size_t len_bytes, struct l4_err *err) {
    for (int byte = 0; byte < 256; byte++) {
        char c = (char)byte;
        tokenizer->byte_ids[byte] = vocab_find_piece(&tokenizer->vocab, &c, 1);
        if (tokenizer->byte_ids[byte] < 0)
            return l4_err_set(err, L4_E_UNSUPPORTED, "the vocabulary has no token for the byte 0x%02X", (unsigned)byte);
    }
    tokenizer->is_llama4 =
        len_bytes == strlen(TOKENIZER_LLAMA4_PATTERN) && memcmp(pattern, TOKENIZER_LLAMA4_PATTERN, len_bytes) == 0;
    return pretokenizer_open(&tokenizer->pretokenizer, pattern, len_bytes, err);
}

/* ---- public look-ups ----------------------------------------------------------------------------------------------
 */

int32_t l4_tokenizer_vocab_size(const struct l4_tokenizer *tokenizer) {
    return (int32_t)tokenizer->vocab.n_ids;
}

int32_t l4_tokenizer_find(const struct l4_tokenizer *tokenizer, const char *text) {
    size_t len_bytes = strlen(text);
    int32_t id = added_find(&tokenizer->added, text, len_bytes);
    return id >= 0 ? id : vocab_find_piece(&tokenizer->vocab, text, len_bytes);
}

int32_t l4_tokenizer_bos(const struct l4_tokenizer *tokenizer) {
    return tokenizer->bos;
}

const char *l4_tokenizer_bytes(const struct l4_tokenizer *tokenizer, int32_t id, size_t *len_bytes) {
    *len_bytes = 0;
    return vocab_kind(&tokenizer->vocab, id) == TOKEN_GAP ? NULL : vocab_bytes(&tokenizer->vocab, id, len_bytes);
}

bool l4_tokenizer_is_special(const struct l4_tokenizer *tokenizer, int32_t id) {
    return vocab_kind(&tokenizer->vocab, id) == TOKEN_SPECIAL;
}
