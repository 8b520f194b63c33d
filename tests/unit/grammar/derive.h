/* For tests: whether a grammar derives a text, asked of a matcher over a vocabulary of single bytes. */
#ifndef TESTS_UNIT_GRAMMAR_DERIVE_H
#define TESTS_UNIT_GRAMMAR_DERIVE_H

#include <string.h>

#include "core/grammar/mask.h"

static inline const char *derive_byte(const void *bytes, int32_t id, size_t *len_bytes) {
    *len_bytes = 1;
    return (const char *)bytes + id;
}

/* 1 or 0; below 0 an error. */
static inline int derive(struct l4_grammar *grammar, const char *text, size_t len_bytes) {
    static char bytes[256];
    struct trie_vocab *vocab;
    struct grammar_masks *masks;
    struct grammar_matcher *m;
    struct grammar_mask mask = {0};
    for (int i = 0; i < 256; i++)
        bytes[i] = (char)i;
    if (trie_open(&vocab, 256, derive_byte, bytes) || grammar_masks_open(&masks, vocab) ||
        grammar_matcher_open(&m, masks, grammar))
        return L4_E_NOMEM;
    int rc = grammar_matcher_accept(m, text, len_bytes, NULL);
    int answer = rc == L4_E_INVALID ? 0 : rc;
    if (rc == 0) {
        rc = grammar_matcher_mask(m, &mask, NULL);
        answer = rc ? rc : mask.may_end;
    }
    grammar_matcher_close(m);
    grammar_masks_close(masks);
    trie_close(vocab);
    return answer;
}

#endif
