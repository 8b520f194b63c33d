#include <string.h>

#include "core/text/utf8.h"
#include "llama4/text.h"

void l4_detok_init(struct l4_detok *detok, const struct l4_tokenizer *tokenizer, bool show_special) {
    *detok = (struct l4_detok){.tokenizer = tokenizer, .show_special = show_special};
}

/* One byte more: writes what it completes or breaks. */
static void push_byte(struct l4_detok *detok, char byte, struct l4_buf *out) {
    char *held = (char *)detok->held;
    held[detok->n_held++] = byte;
    size_t n;
    while (detok->n_held) {
        enum utf8_kind kind = utf8_next(held, detok->n_held, &n);
        if (kind == UTF8_PARTIAL)
            return;
        if (kind == UTF8_CHAR)
            l4_buf_append(out, held, n);
        else
            l4_buf_puts(out, UTF8_REPLACEMENT);
        detok->n_held -= (unsigned)n;
        memmove(held, held + n, detok->n_held);
    }
}

void l4_detok_push(struct l4_detok *detok, int32_t id, struct l4_buf *out) {
    size_t n = 0, whole;
    const char *bytes = l4_tokenizer_bytes(detok->tokenizer, id, &n);
    if (!bytes || (!detok->show_special && l4_tokenizer_is_special(detok->tokenizer, id)))
        return;
    for (size_t i = 0; i < n; i++) {
        /* Characters that lie in this token whole need not pass through `held`. */
        size_t run = i;
        while (!detok->n_held && run < n && utf8_next(bytes + run, n - run, &whole) == UTF8_CHAR)
            run += whole;
        if (run > i)
            l4_buf_append(out, bytes + i, run - i);
        i = run;
        if (i < n)
            push_byte(detok, bytes[i], out);
    }
}

void l4_detok_finish(struct l4_detok *detok, struct l4_buf *out) {
    if (detok->n_held)
        l4_buf_puts(out, UTF8_REPLACEMENT);
    detok->n_held = 0;
}
