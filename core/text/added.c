#include "core/text/added.h"

#include <stdlib.h>

#include "core/base/checked.h"

void added_fini(struct added *added) {
    free(added->nodes);
    *added = (struct added){0};
}

/* The child of `node` (0: the roots) for a byte; 0 for none. */
static uint32_t child_of(const struct added *added, uint32_t node, unsigned char byte) {
    if (!node)
        return added->roots[byte];
    uint32_t child = added->nodes[node].first_child;
    while (child && added->nodes[child].byte != byte)
        child = added->nodes[child].next_sibling;
    return child;
}

static uint32_t child_add(struct added *added, uint32_t node, unsigned char byte) {
    uint32_t child = added->n_nodes ? (uint32_t)added->n_nodes : 1;
    added->nodes[child] = (struct added_node){.id = -1, .byte = byte};
    added->n_nodes = child + 1u;
    if (!node) {
        added->roots[byte] = child;
    } else {
        added->nodes[child].next_sibling = added->nodes[node].first_child;
        added->nodes[node].first_child = child;
    }
    return child;
}

int added_insert(struct added *added, const char *text, size_t len_bytes, int32_t id, bool special,
                 struct l4_err *err) {
    if (len_bytes == 0 || len_bytes > ADDED_MAX_BYTES)
        return l4_err_set(err, L4_E_FORMAT, "an added token has 1..%d bytes, not %zu", ADDED_MAX_BYTES, len_bytes);
    if (added->n_nodes > INT32_MAX - ADDED_MAX_BYTES - 1 ||
        !checked_grow((void **)&added->nodes, &added->cap_nodes, added->n_nodes + len_bytes + 1, sizeof *added->nodes))
        return l4_err_set(err, L4_E_NOMEM, "out of memory for the added tokens");
    uint32_t node = 0;
    for (size_t i = 0; i < len_bytes; i++) {
        unsigned char byte = (unsigned char)text[i];
        uint32_t child = child_of(added, node, byte);
        node = child ? child : child_add(added, node, byte);
    }
    if (added->nodes[node].id >= 0)
        return l4_err_set(err, L4_E_FORMAT, "the added tokens %d and %d have the same text", added->nodes[node].id, id);
    added->nodes[node].id = id;
    added->nodes[node].special = special;
    return 0;
}

size_t added_match(const struct added *added, const char *text, size_t len_bytes, bool with_special, int32_t *id) {
    size_t best = 0;
    uint32_t node = 0;
    for (size_t i = 0; i < len_bytes; i++) {
        node = child_of(added, node, (unsigned char)text[i]);
        if (!node)
            break;
        const struct added_node *at = &added->nodes[node];
        if (at->id >= 0 && (with_special || !at->special)) {
            best = i + 1;
            *id = at->id;
        }
    }
    return best;
}

int32_t added_find(const struct added *added, const char *text, size_t len_bytes) {
    int32_t id = -1;
    return added_match(added, text, len_bytes, true, &id) == len_bytes ? id : -1;
}
