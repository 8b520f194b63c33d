/* The tokens of a vocabulary as two tries, in the order in which they are walked: those of plain text, which are
 * allowed or not by their length in most places, and the rest. */
#ifndef CORE_GRAMMAR_TRIE_H
#define CORE_GRAMMAR_TRIE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "llama4/error.h"

enum { TRIE_MAX_TEXT = 128 }; /* longer tokens are left out: their text can be made of others */

/* Nodes lie in preorder: a child follows its parent, and `skip` is the first node that is not below this one. */
struct trie_node {
    uint32_t skip;
    int32_t token; /* -1 = none; others of the same bytes in same[token] */
    uint8_t byte;
    uint8_t depth;  /* 1 = first byte */
    uint16_t kinds; /* of the bytes from here down: 1 << trie_kind */
};

/* Bytes that grammars tend to treat alike.  All that are not ASCII are of the last kind. */
enum { TRIE_OTHER_KIND = 8 };
static inline int trie_kind(uint8_t byte) {
    return byte >= 0x80                  ? TRIE_OTHER_KIND
           : byte >= 'a' && byte <= 'z'  ? 0
           : byte >= 'A' && byte <= 'Z'  ? 1
           : byte >= '0' && byte <= '9'  ? 2
           : byte == ' '                 ? 3
           : byte < ' '                  ? 4
           : byte == '"' || byte == '\\' ? 5
           : byte == '-' || byte == '_'  ? 6
                                         : 7;
}

struct trie {
    struct trie_node *nodes;
    size_t n_nodes, cap_nodes;
};

struct trie_vocab {
    int32_t vocab_size;
    size_t n_words; /* 64-bit words of a mask */
    uint32_t max_text;
    struct trie plain, rest;
    int32_t *same;        /* [vocab_size] -1 = no other */
    uint64_t *plain_bits; /* [n_words] */
    int32_t *plain_ids;   /* [n_plain] by length in characters, longest first */
    uint8_t *n_chars;     /* [vocab_size] of plain tokens */
    int32_t n_plain;
};

/* The bytes of a token, NULL where it has no place in a grammar (special, or not there). */
typedef const char *trie_bytes(const void *ctx, int32_t id, size_t *len_bytes);

/* trie_open - the bytes are not needed afterwards.  Errors: L4_E_NOMEM. */
int trie_open(struct trie_vocab **out, int32_t vocab_size, trie_bytes *bytes, const void *ctx) L4_MUST_CHECK;
void trie_close(struct trie_vocab *vocab); /* NULL is allowed */

#endif
