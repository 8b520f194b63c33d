#include "core/text/utf8.h"

#include <string.h>

size_t utf8_encode(uint32_t code, char out[4]) {
    if (code < 0x80) {
        out[0] = (char)code;
        return 1;
    }
    size_t len_bytes = code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
    for (size_t i = len_bytes - 1; i > 0; i--) {
        out[i] = (char)(0x80u | (code & 0x3Fu));
        code >>= 6;
    }
    out[0] = (char)((0xF00u >> len_bytes) | code);
    return len_bytes;
}

/* The number of leading bytes that are ASCII, in whole words of eight: most text is. */
static size_t ascii_run(const char *text, size_t len_bytes) {
    size_t i = 0;
    for (uint64_t word; i + 8 <= len_bytes; i += 8) {
        memcpy(&word, text + i, 8);
        if (word & UINT64_C(0x8080808080808080))
            break;
    }
    return i;
}

/* The number of leading bytes that are valid UTF-8. */
static size_t valid_run(const char *text, size_t len_bytes) {
    size_t i = 0, n;
    while (i < len_bytes) {
        i += ascii_run(text + i, len_bytes - i);
        if (i == len_bytes)
            break;
        if (utf8_next(text + i, len_bytes - i, &n) != UTF8_CHAR)
            break;
        i += n;
    }
    return i;
}

bool utf8_valid(const char *text, size_t len_bytes) {
    return valid_run(text, len_bytes) == len_bytes;
}

void utf8_append_valid(struct l4_buf *out, const char *text, size_t len_bytes) {
    for (;;) {
        size_t n = valid_run(text, len_bytes);
        l4_buf_append(out, text, n);
        text += n;
        len_bytes -= n;
        if (!len_bytes)
            return;
        utf8_next(text, len_bytes, &n);
        l4_buf_puts(out, UTF8_REPLACEMENT);
        text += n;
        len_bytes -= n;
    }
}
