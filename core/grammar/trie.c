#include "core/grammar/trie.h"

#include <stdlib.h>
#include <string.h>

#include "core/base/checked.h"
#include "core/grammar/grammar.h"
#include "core/text/utf8.h"

struct item {
    const char *bytes;
    int32_t id;
    uint8_t len;
    bool plain;
};

static int compare_items(const void *a, const void *b) {
    const struct item *x = a, *y = b;
    if (x->plain != y->plain)
        return x->plain ? -1 : 1;
    size_t n = x->len < y->len ? x->len : y->len;
    int order = memcmp(x->bytes, y->bytes, n);
    if (order == 0)
        order = x->len - y->len;
    return order ? order : (x->id > y->id) - (x->id < y->id);
}

static bool is_plain(const char *bytes, size_t len, uint8_t *n_chars) {
    size_t n;
    for (*n_chars = 0; len > 0; bytes += n, len -= n, ++*n_chars)
        if (utf8_next(bytes, len, &n) != UTF8_CHAR || !grammar_is_plain(utf8_decode(bytes, n)))
            return false;
    return true;
}

static void note_kinds(struct trie *trie, const uint32_t *open, size_t n_open) {
    uint16_t kinds = 0;
    while (n_open-- > 0) {
        struct trie_node *node = &trie->nodes[open[n_open]];
        kinds |= (uint16_t)(1 << trie_kind(node->byte));
        node->kinds |= kinds;
    }
}

/* Put a token behind those that sort before it.  open[d]: the node at depth d on the way to the one before. */
static bool trie_put(struct trie *trie, const struct item *item, uint32_t *open, size_t *n_open) {
    size_t shared = 0;
    while (shared < *n_open && shared < item->len && trie->nodes[open[shared]].byte == (uint8_t)item->bytes[shared])
        shared++;
    while (*n_open > shared)
        trie->nodes[open[--*n_open]].skip = (uint32_t)trie->n_nodes;
    if (!checked_grow((void **)&trie->nodes, &trie->cap_nodes, trie->n_nodes + item->len, sizeof *trie->nodes))
        return false;
    while (*n_open < item->len) {
        struct trie_node node = {.token = -1, .byte = (uint8_t)item->bytes[*n_open], .depth = (uint8_t)(*n_open + 1)};
        open[(*n_open)++] = (uint32_t)trie->n_nodes;
        trie->nodes[trie->n_nodes++] = node;
    }
    note_kinds(trie, open, *n_open);
    return true;
}

static bool build(struct trie_vocab *vocab, struct trie *trie, const struct item *items, size_t n_items) {
    uint32_t open[TRIE_MAX_TEXT];
    size_t n_open = 0;
    for (size_t i = 0; i < n_items; i++) {
        if (!trie_put(trie, &items[i], open, &n_open))
            return false;
        struct trie_node *node = &trie->nodes[open[n_open - 1]];
        vocab->same[items[i].id] = node->token;
        node->token = items[i].id;
    }
    while (n_open > 0)
        trie->nodes[open[--n_open]].skip = (uint32_t)trie->n_nodes;
    return true;
}

static size_t collect(struct trie_vocab *vocab, struct item *items, trie_bytes *bytes, const void *ctx) {
    size_t n = 0;
    for (int32_t id = 0; id < vocab->vocab_size; id++) {
        size_t len = 0;
        const char *text = bytes(ctx, id, &len);
        vocab->same[id] = -1;
        if (!text || len == 0 || len > TRIE_MAX_TEXT)
            continue;
        if (len > vocab->max_text)
            vocab->max_text = (uint32_t)len;
        items[n] = (struct item){.bytes = text, .id = id, .len = (uint8_t)len};
        items[n].plain = is_plain(text, len, &vocab->n_chars[id]);
        if (items[n].plain) {
            vocab->plain_bits[id / 64] |= UINT64_C(1) << id % 64;
            vocab->n_plain++;
        }
        n++;
    }
    return n;
}

/* By length, counted: longest first. */
static void sort_plain(struct trie_vocab *vocab, const struct item *items) {
    int32_t begin[TRIE_MAX_TEXT + 2] = {0};
    for (int32_t i = 0; i < vocab->n_plain; i++)
        begin[TRIE_MAX_TEXT - vocab->n_chars[items[i].id] + 1]++;
    for (int i = 1; i <= TRIE_MAX_TEXT + 1; i++)
        begin[i] += begin[i - 1];
    for (int32_t i = 0; i < vocab->n_plain; i++)
        vocab->plain_ids[begin[TRIE_MAX_TEXT - vocab->n_chars[items[i].id]]++] = items[i].id;
}

int trie_open(struct trie_vocab **out, int32_t vocab_size, trie_bytes *bytes, const void *ctx) {
    struct trie_vocab *vocab = calloc(1, sizeof *vocab);
    size_t n = (size_t)vocab_size;
    struct item *items = checked_array(n, sizeof *items);
    int rc = vocab && items ? 0 : L4_E_NOMEM;
    if (rc == 0) {
        vocab->vocab_size = vocab_size;
        vocab->n_words = (n + 63) / 64;
        vocab->max_text = 1;
        vocab->same = checked_array(n, sizeof *vocab->same);
        vocab->plain_bits = calloc(vocab->n_words + 1, sizeof *vocab->plain_bits);
        vocab->n_chars = calloc(n + 1, sizeof *vocab->n_chars);
        vocab->plain_ids = checked_array(n, sizeof *vocab->plain_ids);
        if (!vocab->same || !vocab->plain_bits || !vocab->n_chars || !vocab->plain_ids)
            rc = L4_E_NOMEM;
    }
    if (rc == 0) {
        size_t n_items = collect(vocab, items, bytes, ctx), n_plain = (size_t)vocab->n_plain;
        qsort(items, n_items, sizeof *items, compare_items);
        sort_plain(vocab, items);
        if (!build(vocab, &vocab->plain, items, n_plain) ||
            !build(vocab, &vocab->rest, items + n_plain, n_items - n_plain))
            rc = L4_E_NOMEM;
    }
    free(items);
    if (rc == 0)
        *out = vocab;
    else
        trie_close(vocab);
    return rc;
}

void trie_close(struct trie_vocab *vocab) {
    if (!vocab)
        return;
    free(vocab->plain.nodes);
    free(vocab->rest.nodes);
    free(vocab->same);
    free(vocab->plain_bits);
    free(vocab->plain_ids);
    free(vocab->n_chars);
    free(vocab);
}
