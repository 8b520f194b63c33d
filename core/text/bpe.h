/* Byte-pair encoding of one word. */
#ifndef CORE_TEXT_BPE_H
#define CORE_TEXT_BPE_H

#include <stddef.h>
#include <stdint.h>

#include "core/text/vocab.h"

struct bpe_symbol {
    int32_t id, merged;  /* merged: what it makes with the next symbol */
    uint32_t prev, next; /* UINT32_MAX = none */
    uint32_t rank;       /* of that merge; UINT32_MAX = none, or the symbol is gone */
};

/* Scratch kept from word to word; all zero is fresh. */
struct bpe {
    struct bpe_symbol *symbols;
    size_t cap_symbols;
    uint64_t *heap; /* rank << 32 | index of the left symbol: the lowest rank first, the leftmost among equals */
    size_t n_heap, cap_heap;
};

void bpe_fini(struct bpe *bpe);

/* bpe_word - merge ids [n_ids], the tokens of a word's single bytes, in place; *n_merged is what is left.
 *   Always the merge of the lowest rank, the leftmost first.  O(n log n), no recursion.
 *   Errors: L4_E_NOMEM, L4_E_INVALID (2^32 - 1 bytes and more).  Source: Sennrich et al. 2016; the queue as in Hugging
 *   Face tokenizers. */
int bpe_word(struct bpe *bpe, const struct vocab *vocab, int32_t *ids, size_t n_ids, size_t *n_merged,
             struct l4_err *err) L4_MUST_CHECK;

#endif
