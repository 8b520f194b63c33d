/* A compiled grammar: rules of alternatives of elements, in flat arrays, immutable once open.
 *
 * Elements lie one after another: an alternative is its elements up to the GRAMMAR_END.  Groups of the source are rules
 * without a name. */
#ifndef CORE_GRAMMAR_GRAMMAR_H
#define CORE_GRAMMAR_GRAMMAR_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "llama4/grammar.h"

#define GRAMMAR_INF UINT32_MAX

enum grammar_kind {
    GRAMMAR_END,
    GRAMMAR_CHARS, /* min to max characters of charsets[arg] */
    GRAMMAR_CALL,  /* min to max times rules[arg] */
};

struct grammar_element {
    uint32_t kind; /* enum grammar_kind */
    uint32_t arg;
    uint32_t min, max; /* max GRAMMAR_INF = without end */
    uint32_t height;   /* frames that are needed to get from here to the end of the alternative */
};

struct grammar_range {
    uint32_t low, high; /* code points, inclusive */
};

struct grammar_charset {
    uint32_t first_range, n_ranges; /* ascending, apart from each other, no surrogates */
    uint64_t ascii[2];
    uint64_t hash;
    bool uniform;     /* beyond ASCII: all or nothing */
    bool has_plain;   /* all of GRAMMAR_PLAIN ... */
    bool meets_plain; /* ... some of it */
};

struct grammar_rule {
    uint32_t name, name_bytes; /* in text; of a group name_bytes is 0 */
    uint32_t first_alt, n_alts;
    uint32_t height; /* frames that the shortest derivation needs */
    bool defined, nullable;
    uint32_t used_at; /* byte of the text where it is first named, for messages */
};

struct l4_grammar {
    atomic_int refs;
    char *text; /* the source, which tells equal grammars */
    size_t text_bytes;
    uint64_t text_hash;
    struct grammar_element *elements;
    size_t n_elements, cap_elements;
    struct grammar_rule *rules;
    size_t n_rules, cap_rules;
    uint32_t *alts; /* first elements */
    size_t n_alts, cap_alts;
    struct grammar_charset *charsets;
    size_t n_charsets, cap_charsets;
    struct grammar_range *ranges;
    size_t n_ranges, cap_ranges;
    uint32_t root;
};

/* A call that ends its alternative needs no frame: what it returns to would only return. */
static inline bool grammar_is_tail(const struct l4_grammar *grammar, uint32_t element) {
    return grammar->elements[element].max == 1 && grammar->elements[element + 1].kind == GRAMMAR_END;
}
static inline uint32_t grammar_call_height(const struct l4_grammar *grammar, uint32_t element) {
    return grammar_is_tail(grammar, element) ? 0 : 1;
}

/* ---- charset.c ---- */

/* Characters of plain text: no control character, quotation mark or backslash.  Most tokens are made of them only, and
 * inside a JSON string all of those are allowed. */
bool grammar_is_plain(uint32_t code);

/* grammar_charset_add - intern the set of ranges[n] (any order, may overlap; is sorted), negated or not.
 *   Errors: L4_E_NOMEM. */
int grammar_charset_add(struct l4_grammar *grammar, struct grammar_range *ranges, size_t n, bool negated,
                        uint32_t *charset, struct l4_err *err) L4_MUST_CHECK;
/* Whether the set holds a code point of low..high. */
bool grammar_charset_meets(const struct l4_grammar *grammar, uint32_t charset, uint32_t low, uint32_t high);

/* ---- analyse.c ---- */

/* grammar_analyse - fill nullable and height; refuse what cannot be run: rules that can never end, left recursion,
 * long repetitions of what may be empty, needs of more than L4_GRAMMAR_MAX_DEPTH frames. */
int grammar_analyse(struct l4_grammar *grammar, struct l4_err *err) L4_MUST_CHECK;

#endif
