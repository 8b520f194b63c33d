#include "core/text/bpe.h"

#include <stdbool.h>
#include <stdlib.h>

#include "core/base/checked.h"

#define NONE UINT32_MAX

void bpe_fini(struct bpe *bpe) {
    free(bpe->symbols);
    free(bpe->heap);
    *bpe = (struct bpe){0};
}

static void heap_sift_down(uint64_t *heap, size_t n, size_t at) {
    uint64_t key = heap[at];
    for (size_t child; (child = 2 * at + 1) < n; at = child) {
        if (child + 1 < n && heap[child + 1] < heap[child])
            child++;
        if (key <= heap[child])
            break;
        heap[at] = heap[child];
    }
    heap[at] = key;
}

static bool heap_push(struct bpe *bpe, uint64_t key) {
    if (!checked_grow((void **)&bpe->heap, &bpe->cap_heap, bpe->n_heap + 1, sizeof *bpe->heap))
        return false;
    size_t at = bpe->n_heap++;
    for (size_t parent; at > 0 && bpe->heap[parent = (at - 1) / 2] > key; at = parent)
        bpe->heap[at] = bpe->heap[parent];
    bpe->heap[at] = key;
    return true;
}

static uint64_t heap_pop(struct bpe *bpe) {
    uint64_t top = bpe->heap[0];
    bpe->heap[0] = bpe->heap[--bpe->n_heap];
    if (bpe->n_heap)
        heap_sift_down(bpe->heap, bpe->n_heap, 0);
    return top;
}

/* Look up what the symbol at `at` makes with its right neighbour; true when there is such a merge. */
static bool pair_update(struct bpe *bpe, const struct vocab *vocab, uint32_t at) {
    struct bpe_symbol *symbol = &bpe->symbols[at];
    const struct vocab_merge *merge =
        symbol->next == NONE ? NULL : vocab_find_merge(vocab, symbol->id, bpe->symbols[symbol->next].id);
    symbol->rank = merge ? merge->rank : NONE;
    symbol->merged = merge ? merge->merged : -1;
    return merge;
}

static bool pair_push(struct bpe *bpe, const struct vocab *vocab, uint32_t at) {
    return !pair_update(bpe, vocab, at) || heap_push(bpe, (uint64_t)bpe->symbols[at].rank << 32 | at);
}

static bool symbols_init(struct bpe *bpe, const struct vocab *vocab, const int32_t *ids, size_t n_ids) {
    if (!checked_grow((void **)&bpe->symbols, &bpe->cap_symbols, n_ids, sizeof *bpe->symbols) ||
        !checked_grow((void **)&bpe->heap, &bpe->cap_heap, n_ids, sizeof *bpe->heap))
        return false;
    for (uint32_t i = 0; i < n_ids; i++)
        bpe->symbols[i] =
            (struct bpe_symbol){.id = ids[i], .prev = i ? i - 1 : NONE, .next = i + 1 < n_ids ? i + 1 : NONE};
    bpe->n_heap = 0;
    for (uint32_t i = 0; i < n_ids; i++)
        if (pair_update(bpe, vocab, i))
            bpe->heap[bpe->n_heap++] = (uint64_t)bpe->symbols[i].rank << 32 | i;
    for (size_t i = bpe->n_heap / 2; i-- > 0;)
        heap_sift_down(bpe->heap, bpe->n_heap, i);
    return true;
}

int bpe_word(struct bpe *bpe, const struct vocab *vocab, int32_t *ids, size_t n_ids, size_t *n_merged,
             struct l4_err *err) {
    *n_merged = n_ids;
    if (n_ids < 2)
        return 0;
    if (n_ids >= NONE)
        return l4_err_set(err, L4_E_INVALID, "a word of %zu bytes: at most %u are allowed", n_ids, NONE - 1);
    if (!symbols_init(bpe, vocab, ids, n_ids))
        return l4_err_set(err, L4_E_NOMEM, "out of memory for a word of %zu bytes", n_ids);
    while (bpe->n_heap) {
        uint64_t key = heap_pop(bpe);
        uint32_t at = (uint32_t)key;
        struct bpe_symbol *left = &bpe->symbols[at];
        if (left->rank != (uint32_t)(key >> 32))
            continue; /* one of the two was merged away since */
        struct bpe_symbol *right = &bpe->symbols[left->next];
        left->id = left->merged;
        left->next = right->next;
        right->rank = NONE;
        if (left->next != NONE)
            bpe->symbols[left->next].prev = at;
        if (!pair_push(bpe, vocab, at) || (left->prev != NONE && !pair_push(bpe, vocab, left->prev)))
            return l4_err_set(err, L4_E_NOMEM, "out of memory for a word of %zu bytes", n_ids);
    }
    size_t n = 0;
    for (uint32_t at = 0; at != NONE; at = bpe->symbols[at].next)
        ids[n++] = bpe->symbols[at].id;
    *n_merged = n;
    return 0;
}
