#include "core/grammar/automaton.h"

#include <stdlib.h>
#include <string.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

#include "core/base/checked.h"

/* automaton_state.plain, where it is no number of characters. */
enum { PLAIN_UNKNOWN = -1, PLAIN_DEPENDS = -2 };

/* ---- hash tables of indices ---------------------------------------------------------------------------------------
 */

static bool table_init(struct automaton_table *table) {
    table->n_slots = 256;
    table->slots = calloc(table->n_slots, sizeof *table->slots);
    return table->slots != NULL;
}

static void table_clear(struct automaton_table *table) {
    memset(table->slots, 0, table->n_slots * sizeof *table->slots);
    table->n_used = 0;
}

typedef uint64_t item_hash(const struct automaton *a, uint32_t index);

/* Make room for one more. */
static bool table_reserve(struct automaton *a, struct automaton_table *table, item_hash *hash) {
    if (2 * (table->n_used + 1) <= table->n_slots)
        return true;
    size_t n_slots = 2 * table->n_slots;
    uint32_t *slots = calloc(n_slots, sizeof *slots);
    if (!slots)
        return false;
    for (size_t i = 0; i < table->n_slots; i++)
        if (table->slots[i]) {
            size_t slot = hash(a, table->slots[i] - 1) & (n_slots - 1);
            while (slots[slot])
                slot = (slot + 1) & (n_slots - 1);
            slots[slot] = table->slots[i];
        }
    free(table->slots);
    table->slots = slots;
    table->n_slots = n_slots;
    return true;
}

static uint64_t mix(uint64_t a, uint64_t b) {
    uint64_t x = a * UINT64_C(0x9e3779b97f4a7c15) ^ (b + UINT64_C(0x7f4a7c15)) * UINT64_C(0xbf58476d1ce4e5b9);
    x ^= x >> 29;
    x *= UINT64_C(0x94d049bb133111eb);
    return x ^ x >> 32;
}

static uint64_t head_hash(const struct automaton_head *head) {
    return mix((uint64_t)head->element << 32 | head->count, (uint64_t)head->parent << 32 | head->partial);
}

static bool head_equal(const struct automaton_head *a, const struct automaton_head *b) {
    return a->element == b->element && a->count == b->count && a->parent == b->parent && a->partial == b->partial;
}

static uint64_t frame_hash(const struct automaton *a, uint32_t i) {
    const struct automaton_frame *f = &a->frames[i];
    return mix((uint64_t)f->element << 32 | f->count, f->parent);
}
static uint64_t seen_hash(const struct automaton *a, uint32_t i) {
    return head_hash(&a->seen[i]);
}
static uint64_t state_hash(const struct automaton *a, uint32_t i) {
    return a->states[i].hash;
}
static uint64_t extension_hash(const struct automaton *a, uint32_t i) {
    const struct automaton_extension *e = &a->extensions[i];
    return mix((uint64_t)e->element << 32 | e->count, e->state);
}

/* ---- frames ------------------------------------------------------------------------------------------------------ */

/* In views: a count below the minimum, or from it on, and further than any token from where that changes.  It stays so
 * as long as the token goes on. */
#define FAR_BELOW (UINT32_MAX - 1)
#define FAR_ABOVE (UINT32_MAX - 2)

static bool may_go_on(const struct grammar_element *element, uint32_t count) {
    return count >= FAR_ABOVE || count < element->max;
}

static bool may_leave(const struct grammar_element *element, uint32_t count) {
    return count == FAR_ABOVE || (count != FAR_BELOW && count >= element->min);
}

/* Times done: beyond the minimum of a repetition without end, all are alike. */
static uint32_t one_more(const struct grammar_element *element, uint32_t count) {
    if (count >= FAR_ABOVE)
        return count;
    return element->max == GRAMMAR_INF && count >= element->min ? element->min : count + 1;
}

/* Frames that the rest of the alternative needs once one more repetition is done. */
static uint32_t rest_height(const struct automaton *a, uint32_t element, uint32_t count) {
    const struct grammar_element *e = &a->grammar->elements[element];
    return may_leave(e, one_more(e, count)) ? e[1].height : e->height;
}

static int frame_intern(struct automaton *a, uint32_t element, uint32_t count, uint32_t parent, uint32_t *frame) {
    struct automaton_frame f = {.element = element, .count = count, .parent = parent};
    uint64_t hash = mix((uint64_t)element << 32 | count, parent);
    if (!table_reserve(a, &a->frame_table, frame_hash))
        return L4_E_NOMEM;
    size_t mask = a->frame_table.n_slots - 1, slot = hash & mask;
    for (uint32_t i; (i = a->frame_table.slots[slot]); slot = (slot + 1) & mask) {
        const struct automaton_frame *same = &a->frames[i - 1];
        if (same->element == element && same->count == count && same->parent == parent) {
            *frame = i - 1;
            return 0;
        }
    }
    if (!checked_grow((void **)&a->frames, &a->cap_frames, a->n_frames + 1, sizeof *a->frames))
        return L4_E_NOMEM;
    const struct automaton_frame *below = &a->frames[parent];
    uint32_t need = below->depth + rest_height(a, element, count);
    f.depth = (uint16_t)(below->depth + 1);
    f.need = (uint16_t)(need > below->need ? need : below->need);
    *frame = (uint32_t)a->n_frames;
    a->frames[a->n_frames++] = f;
    a->frame_table.slots[slot] = *frame + 1;
    a->frame_table.n_used++;
    return 0;
}

/* The frames of a chain above its lowest `drop`, put on top of the chain `onto`; with their counts as a view has them.
 */
static int chain_copy(struct automaton *a, uint32_t chain, uint32_t drop, uint32_t onto, bool view, uint32_t *out) {
    uint32_t path[L4_GRAMMAR_MAX_DEPTH + 1], n = 0;
    for (; a->frames[chain].depth > drop; chain = a->frames[chain].parent)
        path[n++] = chain;
    *out = onto;
    while (n-- > 0) {
        uint32_t element = a->frames[path[n]].element, count = a->frames[path[n]].count;
        int rc = frame_intern(a, element, view ? automaton_view_count(a, element, count) : count, *out, out);
        if (rc)
            return rc;
    }
    return 0;
}

/* ---- states ------------------------------------------------------------------------------------------------------ */

static int compare_heads(const void *x, const void *y) {
    const struct automaton_head *a = x, *b = y;
    if (a->element != b->element)
        return a->element < b->element ? -1 : 1;
    if (a->count != b->count)
        return a->count < b->count ? -1 : 1;
    if (a->parent != b->parent)
        return a->parent < b->parent ? -1 : 1;
    return a->partial < b->partial ? -1 : a->partial > b->partial;
}

static bool is_end(const struct automaton *a, const struct automaton_head *head) {
    return a->grammar->elements[head->element].kind == GRAMMAR_END;
}

static uint32_t head_need(const struct automaton *a, const struct automaton_head *head) {
    const struct automaton_frame *below = &a->frames[head->parent];
    uint32_t need = is_end(a, head) ? 0 : below->depth + a->grammar->elements[head->element + 1].height;
    return need > below->need ? need : below->need;
}

static int state_add(struct automaton *a, const struct automaton_head *heads, size_t n, uint64_t hash, size_t slot) {
    struct automaton_state s = {
        .first_head = (uint32_t)a->n_heads, .n_heads = (uint32_t)n, .plain = PLAIN_UNKNOWN, .hash = hash};
    if (!checked_grow((void **)&a->states, &a->cap_states, a->n_states + 1, sizeof *a->states) ||
        !checked_grow((void **)&a->edges, &a->cap_edges, (a->n_states + 1) * a->n_classes, sizeof *a->edges) ||
        !checked_grow((void **)&a->heads, &a->cap_heads, a->n_heads + n, sizeof *a->heads))
        return L4_E_NOMEM;
    uint32_t need = UINT16_MAX;
    for (size_t i = 0; i < n; i++) {
        uint32_t of_head = head_need(a, &heads[i]);
        need = of_head < need ? of_head : need;
        s.pending |= is_end(a, &heads[i]);
    }
    s.need = (uint16_t)need;
    if (n > 0)
        memcpy(a->heads + a->n_heads, heads, n * sizeof *heads);
    a->n_heads += n;
    memset(a->edges + a->n_states * a->n_classes, 0, a->n_classes * sizeof *a->edges);
    a->state_table.slots[slot] = (uint32_t)++a->n_states;
    a->state_table.n_used++;
    a->states[a->n_states - 1] = s;
    return 0;
}

/* The state of these heads, which are put in order. */
static int state_intern(struct automaton *a, struct automaton_head *heads, size_t n, uint32_t *state) {
    if (n > 1)
        qsort(heads, n, sizeof *heads, compare_heads);
    size_t n_kept = 0;
    for (size_t i = 0; i < n; i++)
        if (i == 0 || !head_equal(&heads[n_kept - 1], &heads[i]))
            heads[n_kept++] = heads[i];
    n = n_kept;
    if (n == 0 || n > AUTOMATON_MAX_HEADS) {
        a->gave_up |= n > 0;
        *state = AUTOMATON_DEAD;
        return 0;
    }
    if (!table_reserve(a, &a->state_table, state_hash))
        return L4_E_NOMEM;
    uint64_t hash = XXH3_64bits(heads, n * sizeof *heads);
    size_t mask = a->state_table.n_slots - 1, slot = hash & mask;
    for (uint32_t i; (i = a->state_table.slots[slot]); slot = (slot + 1) & mask) {
        const struct automaton_state *same = &a->states[i - 1];
        if (same->hash == hash && same->n_heads == n &&
            memcmp(a->heads + same->first_head, heads, n * sizeof *heads) == 0) {
            *state = i - 1;
            return 0;
        }
    }
    *state = (uint32_t)a->n_states;
    return state_add(a, heads, n, hash, slot);
}

/* The frames that two chains have in common from the bottom up. */
static uint32_t common(const struct automaton *a, uint32_t x, uint32_t y) {
    while (a->frames[x].depth > a->frames[y].depth)
        x = a->frames[x].parent;
    while (a->frames[y].depth > a->frames[x].depth)
        y = a->frames[y].parent;
    for (; x != y; y = a->frames[y].parent)
        x = a->frames[x].parent;
    return x;
}

/* The edge to the heads that were found: what all their chains share goes to the caller's stack. */
static int edge_make(struct automaton *a, struct automaton_edge *edge) {
    *edge = (struct automaton_edge){.state = AUTOMATON_DEAD};
    if (a->too_many || a->n_found == 0)
        return 0;
    uint32_t shared = a->found[0].parent;
    for (size_t i = 1; i < a->n_found && shared; i++)
        shared = common(a, shared, a->found[i].parent);
    uint32_t drop = a->frames[shared].depth;
    for (size_t i = 0; i < a->n_found && drop > 0; i++) {
        uint32_t chain;
        int rc = chain_copy(a, a->found[i].parent, drop, 0, false, &chain);
        if (rc)
            return rc;
        a->found[i].parent = chain;
    }
    edge->push = shared;
    return state_intern(a, a->found, a->n_found, &edge->state);
}

/* ---- closure: from elements to those that take a character --------------------------------------------------------
 */

static int found_add(struct automaton *a, struct automaton_head head) {
    if (!checked_grow((void **)&a->found, &a->cap_found, a->n_found + 1, sizeof *a->found))
        return L4_E_NOMEM;
    a->found[a->n_found++] = head;
    return 0;
}

static int todo_add(struct automaton *a, uint32_t element, uint32_t count, uint32_t parent) {
    struct automaton_head head = {.element = element, .count = count, .parent = parent};
    if (!table_reserve(a, &a->visited, seen_hash))
        return L4_E_NOMEM;
    size_t mask = a->visited.n_slots - 1, slot = head_hash(&head) & mask;
    for (uint32_t i; (i = a->visited.slots[slot]); slot = (slot + 1) & mask)
        if (head_equal(&a->seen[i - 1], &head))
            return 0;
    if (a->n_seen >= 16 * AUTOMATON_MAX_HEADS) {
        a->too_many = a->gave_up = true;
        return 0;
    }
    if (!checked_grow((void **)&a->seen, &a->cap_seen, a->n_seen + 1, sizeof *a->seen) ||
        !checked_grow((void **)&a->todo, &a->cap_todo, a->n_todo + 1, sizeof *a->todo))
        return L4_E_NOMEM;
    a->seen[a->n_seen++] = head;
    a->visited.slots[slot] = (uint32_t)a->n_seen;
    a->visited.n_used++;
    a->todo[a->n_todo++] = head;
    return 0;
}

static int enter_rule(struct automaton *a, uint32_t rule, uint32_t parent) {
    const struct grammar_rule *r = &a->grammar->rules[rule];
    int rc = 0;
    for (uint32_t k = 0; k < r->n_alts && rc == 0; k++)
        rc = todo_add(a, a->grammar->alts[r->first_alt + k], 0, parent);
    return rc;
}

static int close_one(struct automaton *a, struct automaton_head at) {
    const struct grammar_element *e = &a->grammar->elements[at.element];
    int rc = 0;
    if (e->kind == GRAMMAR_END) {
        const struct automaton_frame f = a->frames[at.parent];
        if (f.depth == 0)
            return found_add(a, at);
        return todo_add(a, f.element, one_more(&a->grammar->elements[f.element], f.count), f.parent);
    }
    if (may_go_on(e, at.count)) {
        if (e->kind == GRAMMAR_CHARS) {
            rc = found_add(a, at);
        } else if (grammar_is_tail(a->grammar, at.element)) {
            rc = enter_rule(a, e->arg, at.parent);
        } else if (a->frames[at.parent].depth < L4_GRAMMAR_MAX_DEPTH) {
            uint32_t frame;
            rc = frame_intern(a, at.element, at.count, at.parent, &frame);
            if (rc == 0)
                rc = enter_rule(a, e->arg, frame);
        }
    }
    if (rc == 0 && may_leave(e, at.count))
        rc = todo_add(a, at.element + 1, 0, at.parent);
    return rc;
}

static void closure_begin(struct automaton *a) {
    a->n_todo = a->n_found = 0;
    a->too_many = false;
    if (a->n_seen > 0)
        table_clear(&a->visited);
    a->n_seen = 0;
}

static int closure_run(struct automaton *a) {
    while (a->n_todo > 0 && !a->too_many) {
        int rc = close_one(a, a->todo[--a->n_todo]);
        if (rc)
            return rc;
    }
    a->work += a->n_seen + a->n_found + 1;
    return 0;
}

/* ---- steps ------------------------------------------------------------------------------------------------------- */

static bool takes(const struct automaton *a, uint32_t charset, uint32_t low, uint32_t high) {
    if (high < 0x80 && low == high)
        return a->grammar->charsets[charset].ascii[low / 64] >> low % 64 & 1;
    return grammar_charset_meets(a->grammar, charset, low, high);
}

/* One byte of a character.  False: not in the set, whatever follows.  *partial 0: the character is complete. */
static bool take_byte(const struct automaton *a, uint32_t charset, uint32_t *partial, unsigned char byte) {
    static const uint32_t least[] = {0, 0x80, 0x800, 0x10000};
    uint32_t missing = *partial >> 24, code = *partial & 0xFFFFFF, n_bytes;
    if (missing == 0) {
        if (byte < 0x80)
            return takes(a, charset, byte, byte);
        if (byte < 0xC2 || byte > 0xF4)
            return false;
        missing = byte < 0xE0 ? 1 : byte < 0xF0 ? 2 : 3;
        code = byte & (0x3Fu >> missing);
        n_bytes = missing;
        code |= n_bytes << 21; /* how long the character is: for its least value */
    } else {
        if ((byte & 0xC0) != 0x80)
            return false;
        n_bytes = code >> 21 & 3;
        code = n_bytes << 21 | (((code & 0x1FFFFF) << 6 | (byte & 0x3Fu)) & 0x1FFFFF);
        missing--;
    }
    uint32_t low = (code & 0x1FFFFF) << 6 * missing, high = low | ((1u << 6 * missing) - 1);
    *partial = missing ? missing << 24 | code : 0;
    if (low < least[n_bytes])
        low = least[n_bytes];
    return low <= high && takes(a, charset, low, high);
}

int automaton_step(struct automaton *a, uint32_t state, uint32_t byte_class, struct automaton_edge *edge) {
    const size_t at = (size_t)state * a->n_classes + byte_class;
    if (a->edges[at].state) {
        *edge = a->edges[at];
        return 0;
    }
    const struct automaton_state s = a->states[state];
    int rc = 0;
    closure_begin(a);
    for (uint32_t i = 0; i < s.n_heads && rc == 0; i++) {
        struct automaton_head head = a->heads[s.first_head + i];
        const struct grammar_element *e = &a->grammar->elements[head.element];
        if (e->kind != GRAMMAR_CHARS || !take_byte(a, e->arg, &head.partial, a->byte_of[byte_class]))
            continue;
        if (head.partial)
            rc = found_add(a, head);
        else
            rc = todo_add(a, head.element, one_more(e, head.count), head.parent);
    }
    if (rc == 0)
        rc = closure_run(a);
    a->work += s.n_heads;
    if (rc == 0)
        rc = edge_make(a, edge);
    if (rc == 0)
        a->edges[at] = *edge;
    return rc;
}

int automaton_start(struct automaton *a, struct automaton_edge *edge) {
    closure_begin(a);
    int rc = enter_rule(a, a->grammar->root, 0);
    if (rc == 0)
        rc = closure_run(a);
    return rc ? rc : edge_make(a, edge);
}

int automaton_extend(struct automaton *a, uint32_t state, uint32_t element, uint32_t count,
                     struct automaton_edge *edge) {
    uint64_t hash = mix((uint64_t)element << 32 | count, state);
    if (!table_reserve(a, &a->extension_table, extension_hash) ||
        !checked_grow((void **)&a->extensions, &a->cap_extensions, a->n_extensions + 1, sizeof *a->extensions))
        return L4_E_NOMEM;
    size_t mask = a->extension_table.n_slots - 1, slot = hash & mask;
    for (uint32_t i; (i = a->extension_table.slots[slot]); slot = (slot + 1) & mask) {
        const struct automaton_extension *same = &a->extensions[i - 1];
        if (same->state == state && same->element == element && same->count == count) {
            *edge = same->edge;
            return 0;
        }
    }
    const struct automaton_state s = a->states[state];
    uint32_t bottom;
    int rc = frame_intern(a, element, count, 0, &bottom);
    closure_begin(a);
    for (uint32_t i = 0; i < s.n_heads && rc == 0; i++) {
        struct automaton_head head = a->heads[s.first_head + i];
        if (is_end(a, &head)) {
            rc = todo_add(a, element, one_more(&a->grammar->elements[element], count), 0);
        } else if (a->frames[head.parent].depth < L4_GRAMMAR_MAX_DEPTH) {
            rc = chain_copy(a, head.parent, 0, bottom, false, &head.parent);
            if (rc == 0)
                rc = found_add(a, head);
        }
    }
    if (rc == 0)
        rc = closure_run(a);
    a->work += s.n_heads;
    if (rc == 0)
        rc = edge_make(a, edge);
    if (rc)
        return rc;
    a->extensions[a->n_extensions++] =
        (struct automaton_extension){.state = state, .element = element, .count = count, .edge = *edge};
    a->extension_table.slots[slot] = (uint32_t)a->n_extensions;
    a->extension_table.n_used++;
    return 0;
}

/* ---- views ------------------------------------------------------------------------------------------------------- */

uint32_t automaton_view_count(const struct automaton *a, uint32_t element, uint32_t count) {
    const struct grammar_element *e = &a->grammar->elements[element];
    if (count >= FAR_ABOVE)
        return count;
    if (count < e->min)
        return e->min - count > a->max_text ? FAR_BELOW : count;
    return e->max != GRAMMAR_INF && e->max - count > a->max_text ? FAR_ABOVE : count;
}

int automaton_view(struct automaton *a, uint32_t state, uint32_t *view) {
    const struct automaton_state s = a->states[state];
    *view = s.view;
    if (s.view)
        return 0;
    int rc = 0;
    closure_begin(a);
    for (uint32_t i = 0; i < s.n_heads && rc == 0; i++) {
        struct automaton_head head = a->heads[s.first_head + i];
        head.count = automaton_view_count(a, head.element, head.count);
        rc = chain_copy(a, head.parent, 0, 0, true, &head.parent);
        if (rc == 0)
            rc = found_add(a, head);
    }
    if (rc == 0)
        rc = state_intern(a, a->found, a->n_found, view);
    if (rc == 0)
        a->states[state].view = a->states[*view].view = *view;
    return rc;
}

/* ---- plain text -------------------------------------------------------------------------------------------------- */

/* What may follow a character of plain text, left in found; false where that depends on the character, or on the
 * frames below. */
static int plain_step(struct automaton *a, const struct automaton_head *heads, size_t n, bool *clear) {
    int rc = 0;
    closure_begin(a);
    *clear = true;
    for (size_t i = 0; i < n && rc == 0; i++) {
        const struct grammar_element *e = &a->grammar->elements[heads[i].element];
        if (heads[i].partial) /* plain text does not begin inside a character */
            continue;
        if (e->kind != GRAMMAR_CHARS) {
            *clear = false;
            continue;
        }
        const struct grammar_charset *set = &a->grammar->charsets[e->arg];
        if (set->has_plain)
            rc = todo_add(a, heads[i].element, one_more(e, heads[i].count), heads[i].parent);
        else if (set->meets_plain)
            *clear = false;
    }
    return rc ? rc : closure_run(a);
}

/* The state after a character of plain text: AUTOMATON_DEAD = none may come. */
static int plain_next(struct automaton *a, uint32_t state, uint32_t *next, bool *clear) {
    const struct automaton_state s = a->states[state];
    struct automaton_head *heads = checked_array(s.n_heads, sizeof *heads); /* theirs may move meanwhile */
    if (!heads)
        return L4_E_NOMEM;
    memcpy(heads, a->heads + s.first_head, s.n_heads * sizeof *heads);
    int rc = plain_step(a, heads, s.n_heads, clear);
    free(heads);
    *next = AUTOMATON_DEAD;
    return rc || a->too_many ? rc : state_intern(a, a->found, a->n_found, next);
}

/* From what holds for the state after a character to what holds for the one before it. */
static int16_t plain_before(int16_t after, bool dead, bool clear) {
    if (after == INT16_MAX && !dead)
        return INT16_MAX;
    if (!clear || (!dead && after == PLAIN_DEPENDS))
        return PLAIN_DEPENDS;
    return dead ? 0 : (int16_t)(after + 1);
}

int automaton_plain(struct automaton *a, uint32_t state, int16_t *n) {
    uint32_t way[UINT8_MAX + 1], n_way = 0, next = state;
    bool clear[UINT8_MAX + 1];
    while (next != AUTOMATON_DEAD && a->states[next].plain == PLAIN_UNKNOWN && n_way <= a->max_text) {
        uint32_t now = way[n_way] = next;
        int rc = plain_next(a, now, &next, &clear[n_way++]);
        if (rc)
            return rc;
        if (next == now) { /* it goes on, whatever else there is */
            a->states[now].plain = INT16_MAX;
            a->states[now].plain_need = a->states[now].need;
            n_way--;
        }
    }
    bool dead = next == AUTOMATON_DEAD, endless = !dead && a->states[next].plain == PLAIN_UNKNOWN;
    int16_t plain = endless ? INT16_MAX : a->states[next].plain;
    uint16_t need = dead ? 0 : a->states[next].plain_need;
    for (uint32_t i = n_way; i-- > 0; dead = false) {
        struct automaton_state *s = &a->states[way[i]];
        plain = plain_before(plain, dead, clear[i]);
        need = s->need > need ? s->need : need;
        if (!endless || i == 0) { /* for those further on, what comes later is not known */
            s->plain = plain;
            s->plain_need = need;
        }
    }
    *n = a->states[state].plain == PLAIN_DEPENDS ? 0 : a->states[state].plain;
    return 0;
}

int automaton_lower(struct automaton *a, uint32_t state, uint32_t element, uint32_t count, uint32_t *lowered) {
    const struct automaton_state s = a->states[state];
    uint32_t bottom;
    int rc = frame_intern(a, element, count, 0, &bottom);
    closure_begin(a);
    for (uint32_t i = 0; i < s.n_heads && rc == 0; i++) {
        struct automaton_head head = a->heads[s.first_head + i];
        if (a->frames[head.parent].depth >= L4_GRAMMAR_MAX_DEPTH)
            continue;
        rc = chain_copy(a, head.parent, 0, bottom, false, &head.parent);
        if (rc == 0)
            rc = found_add(a, head);
    }
    return rc ? rc : state_intern(a, a->found, a->n_found, lowered);
}

/* ---- open and close ---------------------------------------------------------------------------------------------- */

/* Bytes between which no set of the grammar makes a difference are one class.  Beyond ASCII that is told apart only
 * where some set holds part of it. */
static void find_classes(struct automaton *a) {
    static const unsigned char utf8_begins[] = {0x80, 0x90, 0xA0, 0xC0, 0xC2, 0xE0, 0xE1,
                                                0xED, 0xEE, 0xF0, 0xF1, 0xF4, 0xF5};
    const struct l4_grammar *g = a->grammar;
    bool begins[256] = {[0] = true};
    bool uniform = true;
    for (size_t i = 0; i < g->n_charsets; i++) {
        const struct grammar_charset *set = &g->charsets[i];
        uniform &= set->uniform;
        for (uint32_t k = 0; k < set->n_ranges; k++) {
            struct grammar_range range = g->ranges[set->first_range + k];
            if (range.low < 0x80)
                begins[range.low] = true;
            if (range.high < 0x7F)
                begins[range.high + 1] = true;
        }
    }
    for (size_t i = 0; i < sizeof utf8_begins; i++)
        begins[utf8_begins[i]] = true;
    for (int byte = 0; byte < 256; byte++) {
        if (begins[byte] || (byte >= 0x80 && !uniform))
            a->byte_of[a->n_classes++] = (uint8_t)byte;
        a->class_of[byte] = (uint8_t)(a->n_classes - 1);
    }
}

/* Frame 0 is the bottom, state 0 no state, state 1 the dead one. */
static bool init_states(struct automaton *a) {
    static const struct automaton_state dead = {.need = UINT16_MAX, .view = AUTOMATON_DEAD};
    if (!checked_grow((void **)&a->states, &a->cap_states, 2, sizeof *a->states) ||
        !checked_grow((void **)&a->edges, &a->cap_edges, 2 * (size_t)a->n_classes, sizeof *a->edges) ||
        !checked_grow((void **)&a->frames, &a->cap_frames, 1, sizeof *a->frames))
        return false;
    a->states[0] = a->states[AUTOMATON_DEAD] = dead;
    for (size_t i = 0; i < 2 * (size_t)a->n_classes; i++)
        a->edges[i] = (struct automaton_edge){.state = AUTOMATON_DEAD};
    a->frames[0] = (struct automaton_frame){0};
    a->n_states = 2;
    a->n_frames = 1;
    a->n_heads = a->n_extensions = 0;
    return true;
}

void automaton_reset(struct automaton *a) {
    a->generation++;
    table_clear(&a->state_table);
    table_clear(&a->frame_table);
    table_clear(&a->extension_table);
    (void)init_states(a); /* the room is there */
}

size_t automaton_bytes(const struct automaton *a) {
    return a->n_states * (sizeof *a->states + a->n_classes * sizeof *a->edges) + a->n_heads * sizeof *a->heads +
           a->n_frames * sizeof *a->frames + a->n_extensions * sizeof *a->extensions;
}

int automaton_open(struct automaton **out, struct l4_grammar *grammar, uint32_t max_text) {
    struct automaton *a = calloc(1, sizeof *a);
    if (!a)
        return L4_E_NOMEM;
    a->grammar = l4_grammar_ref(grammar);
    a->max_text = max_text;
    find_classes(a);
    if (!table_init(&a->state_table) || !table_init(&a->frame_table) || !table_init(&a->extension_table) ||
        !table_init(&a->visited) || !init_states(a)) {
        automaton_close(a);
        return L4_E_NOMEM;
    }
    *out = a;
    return 0;
}

void automaton_close(struct automaton *a) {
    if (!a)
        return;
    l4_grammar_close(a->grammar);
    free(a->states);
    free(a->edges);
    free(a->heads);
    free(a->frames);
    free(a->extensions);
    free(a->state_table.slots);
    free(a->frame_table.slots);
    free(a->extension_table.slots);
    free(a->visited.slots);
    free(a->todo);
    free(a->found);
    free(a->seen);
    free(a);
}
