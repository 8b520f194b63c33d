#include <stdlib.h>
#include <string.h>

#include "core/base/checked.h"
#include "core/text/bpe.h"
#include "core/text/tokenizer.h"
#include "core/text/utf8.h"

void l4_tokens_free(struct l4_tokens *tokens) {
    free(tokens->ids);
    *tokens = (struct l4_tokens){0};
}

int l4_tokens_push(struct l4_tokens *tokens, int32_t id) {
    if (!checked_grow((void **)&tokens->ids, &tokens->cap, tokens->len + 1, sizeof *tokens->ids))
        return L4_E_NOMEM;
    tokens->ids[tokens->len++] = id;
    return 0;
}

/* One call of l4_encode. */
struct encoding {
    const struct l4_tokenizer *tokenizer;
    struct l4_tokens *tokens;
    struct pretoken_scan scan;
    struct bpe bpe;
};

static int push_id(struct encoding *encoding, int32_t id, struct l4_err *err) {
    return l4_tokens_push(encoding->tokens, id) < 0 ? l4_err_set(err, L4_E_NOMEM, "out of memory for the token ids")
                                                    : 0;
}

static int encode_word(struct encoding *encoding, const char *word, size_t len_bytes, struct l4_err *err) {
    const struct l4_tokenizer *tokenizer = encoding->tokenizer;
    if (len_bytes == 1)
        return push_id(encoding, tokenizer->byte_ids[(unsigned char)word[0]], err);
    int32_t whole = tokenizer->ignore_merges ? vocab_find_piece(&tokenizer->vocab, word, len_bytes) : -1;
    if (whole >= 0)
        return push_id(encoding, whole, err);
    struct l4_tokens *tokens = encoding->tokens;
    size_t need, n_merged;
    if (!checked_add_size(tokens->len, len_bytes, &need) ||
        !checked_grow((void **)&tokens->ids, &tokens->cap, need, sizeof *tokens->ids))
        return l4_err_set(err, L4_E_NOMEM, "out of memory for the token ids");
    int32_t *ids = tokens->ids + tokens->len;
    for (size_t i = 0; i < len_bytes; i++)
        ids[i] = tokenizer->byte_ids[(unsigned char)word[i]];
    int rc = bpe_word(&encoding->bpe, &tokenizer->vocab, ids, len_bytes, &n_merged, err);
    if (rc == 0)
        tokens->len += n_merged;
    return rc;
}

/* Text between added tokens. */
static int encode_plain(struct encoding *encoding, const char *text, size_t len_bytes, struct l4_err *err) {
    size_t start = 0, end = 0;
    int rc;
    pretoken_scan_begin(&encoding->scan, text, len_bytes);
    while ((rc = pretoken_scan_next(&encoding->scan, &start, &end, err)) > 0) {
        rc = encode_word(encoding, text + start, end - start, err);
        if (rc < 0)
            return rc;
    }
    return rc;
}

static int encode_text(struct encoding *encoding, const char *text, size_t len_bytes, bool with_special,
                       struct l4_err *err) {
    const struct added *added = &encoding->tokenizer->added;
    size_t plain = 0, at = 0;
    int rc = 0;
    while (at < len_bytes) {
        int32_t id = -1;
        size_t n = added_match(added, text + at, len_bytes - at, with_special, &id);
        if (n == 0) {
            at++;
            continue;
        }
        rc = encode_plain(encoding, text + plain, at - plain, err);
        if (rc == 0)
            rc = push_id(encoding, id, err);
        if (rc < 0)
            return rc;
        at += n;
        plain = at;
    }
    return encode_plain(encoding, text + plain, at - plain, err);
}

/* Put bos in front of what was appended from `from` on, unless it stands there already. */
static int prepend_bos(struct encoding *encoding, size_t from, struct l4_err *err) {
    struct l4_tokens *tokens = encoding->tokens;
    int32_t bos = encoding->tokenizer->bos;
    if (bos < 0 || (tokens->len > from && tokens->ids[from] == bos))
        return 0;
    int rc = push_id(encoding, bos, err);
    if (rc < 0)
        return rc;
    memmove(tokens->ids + from + 1, tokens->ids + from, (tokens->len - 1 - from) * sizeof *tokens->ids);
    tokens->ids[from] = bos;
    return 0;
}

int l4_encode(const struct l4_tokenizer *tokenizer, const char *text, size_t len_bytes, unsigned flags,
              struct l4_tokens *tokens, struct l4_err *err) {
    struct encoding encoding = {.tokenizer = tokenizer, .tokens = tokens};
    struct l4_buf valid = {0};
    size_t from = tokens->len;
    int rc = pretoken_scan_init(&encoding.scan, tokenizer->pretokenizer, err);
    if (rc < 0)
        return rc;
    if (!utf8_valid(text, len_bytes)) {
        utf8_append_valid(&valid, text, len_bytes);
        text = valid.data;
        len_bytes = valid.len;
    }
    rc = valid.failed ? l4_err_set(err, L4_E_NOMEM, "out of memory for the text")
                      : encode_text(&encoding, text, len_bytes, flags & L4_ENCODE_SPECIAL, err);
    if (rc == 0 && (flags & L4_ENCODE_BOS))
        rc = prepend_bos(&encoding, from, err);
    if (rc < 0)
        tokens->len = from;
    pretoken_scan_fini(&encoding.scan);
    bpe_fini(&encoding.bpe);
    l4_buf_free(&valid);
    return rc;
}
