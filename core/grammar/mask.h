/* Which tokens may come next: a grammar's automaton walked together with the tries of the vocabulary.
 *
 * A mask depends on the automaton's state and on those frames below it that some token reaches.  It is computed when it
 * is first asked for and kept under exactly that; of the kept ones the least recently used go first.  What was computed
 * for one request serves every other one of an equal grammar.
 *
 * Thread: engine. */
#ifndef CORE_GRAMMAR_MASK_H
#define CORE_GRAMMAR_MASK_H

#include "core/grammar/automaton.h"
#include "core/grammar/trie.h"

enum {
    MASK_MAX_GRAMMARS = 16,  /* kept while no request uses them */
    MASK_MAX_MASKS = 256,    /* kept of each grammar */
    MASK_MAX_WORK = 1 << 23, /* heads that may be moved for one mask */
};

struct grammar_masks;
/* vocab is borrowed until close. */
int grammar_masks_open(struct grammar_masks **out, const struct trie_vocab *vocab) L4_MUST_CHECK;
void grammar_masks_close(struct grammar_masks *masks); /* after its matchers; NULL is allowed */

/* One answer on its way through a grammar. */
struct grammar_matcher;
/* grammar_matcher_open - at the beginning of the grammar, which is kept alive.  Errors: L4_E_NOMEM. */
int grammar_matcher_open(struct grammar_matcher **out, struct grammar_masks *masks,
                         struct l4_grammar *grammar) L4_MUST_CHECK;
void grammar_matcher_close(struct grammar_matcher *matcher); /* NULL is allowed */

struct grammar_mask {
    const uint64_t *bits; /* id i is bit i % 64 of bits[i / 64]; borrowed until the next call for any matcher */
    int32_t n_allowed;
    bool may_end; /* the text so far is one that the grammar derives */
};

/* grammar_matcher_mask - the tokens that may come next, never one that leads where no end can be reached.
 *   Errors: L4_E_NOMEM, L4_E_INVALID (the grammar is so ambiguous that the mask takes more than MASK_MAX_WORK, or that
 *   it leaves nothing). */
int grammar_matcher_mask(struct grammar_matcher *matcher, struct grammar_mask *mask, struct l4_err *err) L4_MUST_CHECK;

/* grammar_matcher_accept - go on over text.  Errors: L4_E_INVALID (the grammar does not allow it; the matcher may only
 * be closed), L4_E_NOMEM. */
int grammar_matcher_accept(struct grammar_matcher *matcher, const char *text, size_t len_bytes,
                           struct l4_err *err) L4_MUST_CHECK;

/* Counters, for tests and the benchmark. */
struct grammar_masks_stats {
    uint64_t n_computed, n_found;
};
void grammar_masks_stats(const struct grammar_masks *masks, struct grammar_masks_stats *stats);

#endif
