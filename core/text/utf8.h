/* UTF-8, one character at a time, with the error rules of Python's bytes.decode(errors="replace"): each maximal part
 * that could still have become a character counts as one error (Unicode 3.9, "U+FFFD substitution of maximal
 * subparts"). */
#ifndef CORE_TEXT_UTF8_H
#define CORE_TEXT_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "llama4/buf.h"

#define UTF8_REPLACEMENT "\xEF\xBF\xBD"

enum utf8_kind {
    UTF8_CHAR,    /* *len_bytes bytes are one character */
    UTF8_INVALID, /* *len_bytes bytes are to be replaced by one U+FFFD */
    UTF8_PARTIAL, /* all n bytes are the beginning of a character that goes on past them; *len_bytes = n */
};

/* utf8_next - what stands at text[0..n), n >= 1. */
static inline enum utf8_kind utf8_next(const char *text, size_t n, size_t *len_bytes) {
    unsigned char lead = (unsigned char)text[0];
    *len_bytes = 1;
    if (lead < 0x80)
        return UTF8_CHAR;
    if (lead < 0xC2 || lead > 0xF4)
        return UTF8_INVALID;
    /* The second byte's range keeps out overlong forms, surrogates and what is past U+10FFFF. */
    unsigned char low = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
    unsigned char high = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
    size_t need = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
    for (size_t i = 1; i < need; i++) {
        *len_bytes = i;
        if (i == n)
            return UTF8_PARTIAL;
        unsigned char byte = (unsigned char)text[i];
        if (byte < low || byte > high)
            return UTF8_INVALID;
        low = 0x80;
        high = 0xBF;
    }
    *len_bytes = need;
    return UTF8_CHAR;
}

/* utf8_decode - the code point of a character for which utf8_next said UTF8_CHAR. */
static inline uint32_t utf8_decode(const char *text, size_t len_bytes) {
    uint32_t code = (unsigned char)text[0];
    if (len_bytes > 1)
        code &= 0x7Fu >> len_bytes;
    for (size_t i = 1; i < len_bytes; i++)
        code = code << 6 | ((unsigned char)text[i] & 0x3Fu);
    return code;
}

/* utf8_encode - write code (not a surrogate, at most 0x10FFFF) to out; returns the number of bytes. */
size_t utf8_encode(uint32_t code, char out[4]);

bool utf8_valid(const char *text, size_t len_bytes);

/* utf8_append_valid - append text with every error replaced by U+FFFD. */
void utf8_append_valid(struct l4_buf *out, const char *text, size_t len_bytes);

#endif
