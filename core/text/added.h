/* Added tokens: texts that become one token wherever they stand, found before anything else looks at the text. */
#ifndef CORE_TEXT_ADDED_H
#define CORE_TEXT_ADDED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "llama4/error.h"

/* The longest text: what bounds the work at one position. */
enum { ADDED_MAX_BYTES = 512 };

/* A node of a trie over bytes; children are a list of siblings. */
struct added_node {
    uint32_t first_child, next_sibling; /* 0 = none */
    int32_t id;                         /* -1 = no token ends here */
    unsigned char byte;
    bool special;
};

/* All zero is an empty set. */
struct added {
    struct added_node *nodes; /* nodes[0] is never used */
    size_t n_nodes, cap_nodes;
    uint32_t roots[256]; /* by first byte */
};

void added_fini(struct added *added);

/* added_insert - Errors: L4_E_FORMAT (empty or longer than ADDED_MAX_BYTES, there already), L4_E_NOMEM. */
int added_insert(struct added *added, const char *text, size_t len_bytes, int32_t id, bool special,
                 struct l4_err *err) L4_MUST_CHECK;

/* added_match - the length of the longest token that text [len_bytes] begins with, and its id; 0 for none.  Special
 * tokens count only with with_special. */
size_t added_match(const struct added *added, const char *text, size_t len_bytes, bool with_special, int32_t *id);

/* added_find - the id of exactly this text, -1 for none. */
int32_t added_find(const struct added *added, const char *text, size_t len_bytes);

#endif
