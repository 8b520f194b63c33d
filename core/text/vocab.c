#include "core/text/vocab.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

#include "core/base/checked.h"

void vocab_fini(struct vocab *vocab) {
    free(vocab->bytes);
    free(vocab->tokens);
    free(vocab->pieces);
    free(vocab->merges);
    *vocab = (struct vocab){0};
}

/* The slot that holds a piece with these bytes, or the empty slot where it belongs. */
static size_t piece_slot(const struct vocab *vocab, const char *bytes, size_t len_bytes) {
    size_t mask = vocab->n_piece_slots - 1;
    size_t slot = (size_t)XXH3_64bits(bytes, len_bytes) & mask;
    for (; vocab->pieces[slot] >= 0; slot = (slot + 1) & mask) {
        const struct vocab_token *token = &vocab->tokens[vocab->pieces[slot]];
        if (token->len_bytes == len_bytes && memcmp(vocab->bytes + token->offset, bytes, len_bytes) == 0)
            break;
    }
    return slot;
}

static size_t merge_slot(const struct vocab *vocab, int32_t left, int32_t right) {
    size_t mask = vocab->n_merge_slots - 1;
    uint64_t key = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    /* Fibonacci hashing: the high bits of the product depend on every bit of the key. */
    size_t slot = (size_t)((key ^ key >> 29) * UINT64_C(0x9E3779B97F4A7C15) >> 32) & mask;
    while (vocab->merges[slot].merged >= 0 && (vocab->merges[slot].left != left || vocab->merges[slot].right != right))
        slot = (slot + 1) & mask;
    return slot;
}

/* Room for one more entry in a table of *n_slots slots kept at most half full: the new number of slots, 0 when it is
 * big enough as it is. */
static size_t grown_slots(size_t n_slots, size_t n_used) {
    if (2 * (n_used + 1) <= n_slots)
        return 0;
    return n_slots ? 2 * n_slots : 1024;
}

static bool pieces_reserve(struct vocab *vocab) {
    size_t n_old = vocab->n_piece_slots, n_slots = grown_slots(n_old, vocab->n_pieces);
    if (!n_slots)
        return true;
    int32_t *old = vocab->pieces, *slots = checked_array(n_slots, sizeof *slots);
    if (!slots)
        return false;
    memset(slots, 0xFF, n_slots * sizeof *slots);
    vocab->pieces = slots;
    vocab->n_piece_slots = n_slots;
    for (size_t i = 0; i < n_old; i++) {
        if (old[i] < 0)
            continue;
        const struct vocab_token *token = &vocab->tokens[old[i]];
        slots[piece_slot(vocab, vocab->bytes + token->offset, token->len_bytes)] = old[i];
    }
    free(old);
    return true;
}

static bool merges_reserve(struct vocab *vocab) {
    size_t n_old = vocab->n_merge_slots, n_slots = grown_slots(n_old, vocab->n_merges);
    if (!n_slots)
        return true;
    struct vocab_merge *old = vocab->merges, *slots = checked_array(n_slots, sizeof *slots);
    if (!slots)
        return false;
    memset(slots, 0xFF, n_slots * sizeof *slots);
    vocab->merges = slots;
    vocab->n_merge_slots = n_slots;
    for (size_t i = 0; i < n_old; i++)
        if (old[i].merged >= 0)
            slots[merge_slot(vocab, old[i].left, old[i].right)] = old[i];
    free(old);
    return true;
}

static bool ids_reserve(struct vocab *vocab, size_t n_ids) {
    if (n_ids <= vocab->n_ids)
        return true;
    if (!checked_grow((void **)&vocab->tokens, &vocab->cap_ids, n_ids, sizeof *vocab->tokens))
        return false;
    memset(vocab->tokens + vocab->n_ids, 0, (n_ids - vocab->n_ids) * sizeof *vocab->tokens);
    vocab->n_ids = n_ids;
    return true;
}

int vocab_add(struct vocab *vocab, int64_t id, const char *bytes, size_t len_bytes, enum token_kind kind,
              struct l4_err *err) {
    if (id < 0 || id >= VOCAB_MAX_IDS)
        return l4_err_set(err, L4_E_FORMAT, "token id %lld is not in 0..%d", (long long)id, VOCAB_MAX_IDS - 1);
    if (len_bytes == 0)
        return l4_err_set(err, L4_E_FORMAT, "token %lld is empty", (long long)id);
    if (vocab_kind(vocab, id) != TOKEN_GAP)
        return l4_err_set(err, L4_E_FORMAT, "two tokens have the id %lld", (long long)id);
    size_t need;
    if (!checked_add_size(vocab->n_bytes, len_bytes, &need) || need > UINT32_MAX)
        return l4_err_set(err, L4_E_FORMAT, "the tokens are longer than 4 GiB together");
    if (!ids_reserve(vocab, (size_t)id + 1) || !checked_grow((void **)&vocab->bytes, &vocab->cap_bytes, need, 1) ||
        !pieces_reserve(vocab))
        return l4_err_set(err, L4_E_NOMEM, "out of memory for the vocabulary");
    size_t slot = kind == TOKEN_PIECE ? piece_slot(vocab, bytes, len_bytes) : 0;
    if (kind == TOKEN_PIECE && vocab->pieces[slot] >= 0)
        return l4_err_set(err, L4_E_FORMAT, "the ids %d and %lld have the same text", vocab->pieces[slot],
                          (long long)id);
    memcpy(vocab->bytes + vocab->n_bytes, bytes, len_bytes);
    vocab->tokens[id] = (struct vocab_token){(uint32_t)vocab->n_bytes, (uint32_t)len_bytes, kind};
    vocab->n_bytes = need;
    if (kind == TOKEN_PIECE) {
        vocab->pieces[slot] = (int32_t)id;
        vocab->n_pieces++;
    }
    return 0;
}

void vocab_promote(struct vocab *vocab, int32_t id, enum token_kind kind) {
    vocab->tokens[id].kind = kind;
}

int vocab_add_merge(struct vocab *vocab, const char *left, size_t left_bytes, const char *right, size_t right_bytes,
                    struct l4_err *err) {
    struct vocab_merge merge = {.rank = vocab->next_rank};
    merge.left = vocab_find_piece(vocab, left, left_bytes);
    merge.right = vocab_find_piece(vocab, right, right_bytes);
    if (merge.left < 0 || merge.right < 0)
        return l4_err_set(err, L4_E_FORMAT, "the %s part is not in the vocabulary",
                          merge.left < 0 ? "first" : "second");
    /* The three pieces lie in one block; the joined text is built in its free tail. */
    size_t joined = left_bytes + right_bytes, need;
    if (!checked_add_size(vocab->n_bytes, joined, &need) ||
        !checked_grow((void **)&vocab->bytes, &vocab->cap_bytes, need, 1) || !merges_reserve(vocab))
        return l4_err_set(err, L4_E_NOMEM, "out of memory for the merges");
    char *tail = vocab->bytes + vocab->n_bytes;
    memcpy(tail, left, left_bytes);
    memcpy(tail + left_bytes, right, right_bytes);
    merge.merged = vocab_find_piece(vocab, tail, joined);
    if (merge.merged < 0)
        return l4_err_set(err, L4_E_FORMAT, "what it makes is not in the vocabulary");
    struct vocab_merge *slot = &vocab->merges[merge_slot(vocab, merge.left, merge.right)];
    if (slot->merged < 0)
        vocab->n_merges++;
    *slot = merge;
    vocab->next_rank++;
    return 0;
}

int32_t vocab_find_piece(const struct vocab *vocab, const char *bytes, size_t len_bytes) {
    if (!vocab->n_piece_slots)
        return -1;
    int32_t id = vocab->pieces[piece_slot(vocab, bytes, len_bytes)];
    return id >= 0 && vocab->tokens[id].kind != TOKEN_SPECIAL ? id : -1;
}

const struct vocab_merge *vocab_find_merge(const struct vocab *vocab, int32_t left, int32_t right) {
    if (!vocab->n_merge_slots)
        return NULL;
    const struct vocab_merge *merge = &vocab->merges[merge_slot(vocab, left, right)];
    return merge->merged >= 0 ? merge : NULL;
}
