/* Any text is encoded; decoded again, token by token, it is the same with every error replaced by U+FFFD, and no
 * special token comes out of ordinary text. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "core/text/utf8.h"
#include "llama4/text.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct l4_tokenizer *demo(void) {
    static struct l4_tokenizer *tokenizer;
    if (!tokenizer && l4_tokenizer_open(&tokenizer, "tests/models/demo/tokenizer.json", NULL) != 0)
        abort();
    return tokenizer;
}

static void check(const char *text, size_t len_bytes, unsigned flags, const struct l4_buf *want) {
    const struct l4_tokenizer *tokenizer = demo();
    struct l4_tokens tokens = {0};
    struct l4_buf out = {0};
    struct l4_detok detok;
    if (l4_encode(tokenizer, text, len_bytes, flags, &tokens, NULL) != 0)
        abort();
    l4_detok_init(&detok, tokenizer, true);
    for (size_t i = 0; i < tokens.len; i++) {
        if (!flags && l4_tokenizer_is_special(tokenizer, tokens.ids[i]))
            abort();
        l4_detok_push(&detok, tokens.ids[i], &out);
        if (!utf8_valid(out.data ? out.data : "", out.len))
            abort();
    }
    l4_detok_finish(&detok, &out);
    if (out.len != want->len || (out.len && memcmp(out.data, want->data, out.len) != 0))
        abort();
    l4_tokens_free(&tokens);
    l4_buf_free(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct l4_buf want = {0};
    if (size > 4096) /* the check above is quadratic */
        size = 4096;
    utf8_append_valid(&want, (const char *)data, size);
    check((const char *)data, size, 0, &want);
    check((const char *)data, size, L4_ENCODE_SPECIAL, &want);
    l4_buf_free(&want);
    return 0;
}
