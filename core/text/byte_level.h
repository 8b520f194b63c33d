/* The byte-level alphabet of GPT-2: every byte is written as one printable character, so that a vocabulary of bytes can
 * live in JSON.  0x20 is U+0120, 0x0A is U+010A; printable Latin-1 stands for itself. */
#ifndef CORE_TEXT_BYTE_LEVEL_H
#define CORE_TEXT_BYTE_LEVEL_H

#include <stdbool.h>
#include <stddef.h>

/* byte_level_decode - the bytes that text spells, into out [len_bytes]; false when text is not UTF-8 or holds a
 * character outside the alphabet. */
bool byte_level_decode(const char *text, size_t len_bytes, char *out, size_t *out_len_bytes);

/* byte_level_encode - the spelling of bytes, into out [2 * len_bytes]; returns its length. */
size_t byte_level_encode(const char *bytes, size_t len_bytes, char *out);

#endif
