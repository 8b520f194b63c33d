/* The tables of byte-level BPE: token bytes by id, id by bytes, merges by pair.  Filled by a loader (tokenizer.json,
 * GGUF metadata), read-only afterwards.
 *
 * Compact on purpose: a Llama 4 vocabulary is 200,000 tokens and 440,000 merges.  All bytes lie in one block, both
 * hash tables are flat arrays with linear probing. */
#ifndef CORE_TEXT_VOCAB_H
#define CORE_TEXT_VOCAB_H

#include <stddef.h>
#include <stdint.h>

#include "llama4/error.h"

enum { VOCAB_MAX_IDS = 1 << 22 };

enum token_kind {
    TOKEN_GAP = 0, /* no token has this id */
    TOKEN_PIECE,   /* made by BPE */
    TOKEN_OPAQUE,  /* in the vocabulary, but spelled outside the byte alphabet: BPE never makes it */
    TOKEN_ADDED,   /* found in the text as it stands, before BPE */
    TOKEN_SPECIAL, /* the same, never visible, and only where the caller asks for specials */
};

struct vocab_token {
    uint32_t offset, len_bytes; /* in vocab.bytes */
    uint32_t kind;              /* enum token_kind */
};

struct vocab_merge {
    int32_t left, right, merged; /* merged = -1: an empty slot */
    uint32_t rank;
};

/* All zero is an empty vocabulary. */
struct vocab {
    char *bytes;
    size_t n_bytes, cap_bytes;
    struct vocab_token *tokens; /* [n_ids] */
    size_t n_ids, cap_ids;
    int32_t *pieces; /* [n_piece_slots] id, -1 = empty; slots are a power of two */
    size_t n_piece_slots, n_pieces;
    struct vocab_merge *merges; /* [n_merge_slots] */
    size_t n_merge_slots, n_merges;
    uint32_t next_rank;
};

void vocab_fini(struct vocab *vocab);

/* vocab_add - give id a token of len_bytes > 0 bytes.
 *   Errors: L4_E_FORMAT (id outside 0..VOCAB_MAX_IDS-1 or taken, empty token, a piece of the same bytes), L4_E_NOMEM.
 */
int vocab_add(struct vocab *vocab, int64_t id, const char *bytes, size_t len_bytes, enum token_kind kind,
              struct l4_err *err) L4_MUST_CHECK;

/* vocab_promote - the token of id, already there as TOKEN_PIECE or TOKEN_OPAQUE, becomes an added or special one.  To
 * be done before the merges are added. */
void vocab_promote(struct vocab *vocab, int32_t id, enum token_kind kind);

/* vocab_add_merge - left and right (bytes) become one token; merges rank in the order of the calls, and of two merges
 * of the same pair the later counts.
 *   Errors: L4_E_FORMAT (left, right or their concatenation is not a piece), L4_E_NOMEM. */
int vocab_add_merge(struct vocab *vocab, const char *left, size_t left_bytes, const char *right, size_t right_bytes,
                    struct l4_err *err) L4_MUST_CHECK;

/* vocab_find_piece - the token that BPE makes of these bytes, -1 for none.  A special token is never one: no merge may
 * lead to it. */
int32_t vocab_find_piece(const struct vocab *vocab, const char *bytes, size_t len_bytes);

/* vocab_find_merge - the merge of a pair of ids, NULL for none. */
const struct vocab_merge *vocab_find_merge(const struct vocab *vocab, int32_t left, int32_t right);

static inline enum token_kind vocab_kind(const struct vocab *vocab, int64_t id) {
    return id < 0 || (uint64_t)id >= vocab->n_ids ? TOKEN_GAP : (enum token_kind)vocab->tokens[id].kind;
}

static inline const char *vocab_bytes(const struct vocab *vocab, int32_t id, size_t *len_bytes) {
    *len_bytes = vocab->tokens[id].len_bytes;
    return vocab->bytes + vocab->tokens[id].offset;
}

#endif
