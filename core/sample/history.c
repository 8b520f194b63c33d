#include "core/sample/history.h"

#include <stdlib.h>

#include "core/base/checked.h"

enum { FIRST_CAP = 64 };

static struct history_entry *new_entries(size_t cap) {
    struct history_entry *entries = checked_array(cap, sizeof *entries);
    for (size_t i = 0; entries != NULL && i < cap; i++)
        entries[i] = (struct history_entry){.id = -1};
    return entries;
}

/* The entry of id, or the free one where it belongs. */
static struct history_entry *find(struct history_entry *entries, size_t cap, int32_t id) {
    size_t at = (uint32_t)id * 2654435769U & (cap - 1); /* 2^32 / golden ratio */
    while (entries[at].id != -1 && entries[at].id != id)
        at = (at + 1) & (cap - 1);
    return &entries[at];
}

int sample_history_open(struct sample_history **out) {
    struct sample_history *history = calloc(1, sizeof *history);
    if (history == NULL || (history->entries = new_entries(FIRST_CAP)) == NULL) {
        free(history);
        return L4_E_NOMEM;
    }
    history->cap = FIRST_CAP;
    *out = history;
    return 0;
}

void sample_history_close(struct sample_history *history) {
    if (history == NULL)
        return;
    free(history->entries);
    free(history);
}

int sample_history_add(struct sample_history *history, int32_t id, bool is_answer) {
    struct history_entry *entry = find(history->entries, history->cap, id);
    if (entry->id == -1 && history->used * 2 >= history->cap) {
        struct history_entry *entries = new_entries(history->cap * 2);
        if (entries == NULL)
            return L4_E_NOMEM;
        for (size_t i = 0; i < history->cap; i++)
            if (history->entries[i].id != -1)
                *find(entries, history->cap * 2, history->entries[i].id) = history->entries[i];
        free(history->entries);
        history->entries = entries;
        history->cap *= 2;
        entry = find(entries, history->cap, id);
    }
    history->used += entry->id == -1;
    entry->id = id;
    entry->n_answer += is_answer;
    return 0;
}
