#include "core/text/byte_level.h"

#include "core/text/utf8.h"

/* The byte that a character stands for, -1 for none.  The bytes that have no printable character of their own (0..32,
 * 127..160, 173) take U+0100 and on, in that order. */
static int byte_of(uint32_t code) {
    if ((code >= 33 && code <= 126) || (code >= 161 && code <= 172) || (code >= 174 && code <= 255))
        return (int)code;
    if (code < 256)
        return -1;
    uint32_t k = code - 256;
    if (k <= 32)
        return (int)k;
    if (k <= 66)
        return (int)(127 + k - 33);
    return k == 67 ? 173 : -1;
}

bool byte_level_decode(const char *text, size_t len_bytes, char *out, size_t *out_len_bytes) {
    size_t n_out = 0, n;
    for (size_t i = 0; i < len_bytes; i += n) {
        if (utf8_next(text + i, len_bytes - i, &n) != UTF8_CHAR)
            return false;
        int byte = byte_of(utf8_decode(text + i, n));
        if (byte < 0)
            return false;
        out[n_out++] = (char)byte;
    }
    *out_len_bytes = n_out;
    return true;
}

size_t byte_level_encode(const char *bytes, size_t len_bytes, char *out) {
    enum { END = 256 + 68 };
    uint16_t codes[256];
    for (uint16_t code = 0; code < END; code++)
        if (byte_of(code) >= 0)
            codes[byte_of(code)] = code;
    size_t n = 0;
    for (size_t i = 0; i < len_bytes; i++) {
        const uint16_t code = codes[(unsigned char)bytes[i]];
        if (code >= 0x80)
            out[n++] = (char)(0xc0 | code >> 6);
        out[n++] = (char)(code >= 0x80 ? 0x80 | (code & 0x3f) : code);
    }
    return n;
}
