#include "core/grammar/mask.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

#include "core/base/checked.h"

/* A frame of the stack below the automaton's state. */
struct frame {
    uint32_t element, count;
};

/* What a mask depends on. */
struct mask_key {
    uint32_t view;     /* state */
    uint16_t n_frames; /* from the top of the stack down */
    bool bottom;       /* and that there are no more */
    struct frame frames[L4_GRAMMAR_MAX_DEPTH];
};

struct kept_mask {
    uint64_t hash, used;
    uint64_t *bits; /* NULL = an empty place */
    int32_t n_allowed;
    uint32_t reach; /* frames that its tokens take, at most, on top of the stack ... */
    int32_t depth;  /* ... or the only depth of the stack at which it holds, where that was the limit; -1 = any */
    struct mask_key key;
};

/* A grammar in use. */
struct active {
    struct active *prev, *next; /* most recently used first (utlist) */
    struct automaton *automaton;
    int n_matchers;
    struct kept_mask kept[MASK_MAX_MASKS];
};

/* A frame of the stack while tokens are walked: a tree, since tokens part. */
struct walk_frame {
    struct frame frame;
    uint32_t below, depth;
};

struct grammar_masks {
    const struct trie_vocab *vocab;
    struct active *actives;
    int n_actives;
    uint64_t clock;
    struct grammar_masks_stats stats;
    struct walk_frame *frames; /* of the walk; 0 is the bottom */
    size_t n_frames, cap_frames;
    struct mask_key key;
};

struct grammar_matcher {
    struct grammar_masks *masks;
    struct active *active;
    uint32_t generation; /* of the automaton, when state was valid */
    uint32_t state;
    uint32_t depth;
    struct frame stack[L4_GRAMMAR_MAX_DEPTH + 1];
    struct l4_buf text; /* so far: to find the way again when the automaton has forgotten its states */
};

/* ---- grammars in use --------------------------------------------------------------------------------------------- */

static void active_free(struct active *active) {
    automaton_close(active->automaton);
    for (int i = 0; i < MASK_MAX_MASKS; i++)
        free(active->kept[i].bits);
    free(active);
}

static bool same_text(const struct l4_grammar *a, const struct l4_grammar *b) {
    return a == b || (a->text_hash == b->text_hash && a->text_bytes == b->text_bytes &&
                      memcmp(a->text, b->text, a->text_bytes) == 0);
}

/* Least recently used first, those that nobody uses. */
static void drop_actives(struct grammar_masks *masks) {
    struct active *active, *next;
    int n = 0;
    DL_FOREACH_SAFE(masks->actives, active, next) {
        if (++n <= MASK_MAX_GRAMMARS || active->n_matchers > 0)
            continue;
        DL_DELETE(masks->actives, active);
        masks->n_actives--;
        active_free(active);
    }
}

static int find_active(struct grammar_masks *masks, struct l4_grammar *grammar, struct active **out) {
    struct active *active;
    DL_FOREACH(masks->actives, active) {
        if (same_text(active->automaton->grammar, grammar)) {
            DL_DELETE(masks->actives, active);
            DL_PREPEND(masks->actives, active);
            *out = active;
            return 0;
        }
    }
    active = calloc(1, sizeof *active);
    if (!active)
        return L4_E_NOMEM;
    if (automaton_open(&active->automaton, grammar, masks->vocab->max_text)) {
        free(active);
        return L4_E_NOMEM;
    }
    DL_PREPEND(masks->actives, active);
    masks->n_actives++;
    *out = active;
    return 0;
}

int grammar_masks_open(struct grammar_masks **out, const struct trie_vocab *vocab) {
    struct grammar_masks *masks = calloc(1, sizeof *masks);
    if (!masks)
        return L4_E_NOMEM;
    masks->vocab = vocab;
    *out = masks;
    return 0;
}

void grammar_masks_close(struct grammar_masks *masks) {
    if (!masks)
        return;
    struct active *active, *next;
    DL_FOREACH_SAFE(masks->actives, active, next) {
        assert(active->n_matchers == 0);
        active_free(active);
    }
    free(masks->frames);
    free(masks);
}

void grammar_masks_stats(const struct grammar_masks *masks, struct grammar_masks_stats *stats) {
    *stats = masks->stats;
}

/* ---- going over text --------------------------------------------------------------------------------------------- */

static int no_memory(struct l4_err *err) {
    return l4_err_set(err, L4_E_NOMEM, "no memory to follow a grammar");
}

/* Onto the stack with a chain of frames, its bottom first.  False: it would be too deep. */
static bool push_chain(struct grammar_matcher *m, uint32_t chain) {
    const struct automaton_frame *frames = m->active->automaton->frames;
    uint32_t n = frames[chain].depth;
    if (m->depth + n > L4_GRAMMAR_MAX_DEPTH)
        return false;
    m->depth += n;
    for (uint32_t at = m->depth; n-- > 0; chain = frames[chain].parent)
        m->stack[--at] = (struct frame){frames[chain].element, frames[chain].count};
    return true;
}

/* Follow an edge.  *alive false: it leads nowhere. */
static int follow(struct grammar_matcher *m, struct automaton_edge edge, bool *alive) {
    struct automaton *a = m->active->automaton;
    for (;;) {
        *alive = edge.state != AUTOMATON_DEAD && push_chain(m, edge.push);
        m->state = edge.state;
        if (!*alive || !a->states[edge.state].pending || m->depth == 0)
            break;
        struct frame top = m->stack[--m->depth];
        int rc = automaton_extend(a, m->state, top.element, top.count, &edge);
        if (rc)
            return rc;
    }
    *alive = *alive && m->depth + a->states[m->state].need <= L4_GRAMMAR_MAX_DEPTH;
    return 0;
}

static int go_over(struct grammar_matcher *m, const char *text, size_t len_bytes, bool *alive) {
    struct automaton *a = m->active->automaton;
    struct automaton_edge edge;
    *alive = true;
    for (size_t i = 0; i < len_bytes && *alive; i++) {
        int rc = automaton_step(a, m->state, a->class_of[(unsigned char)text[i]], &edge);
        if (rc == 0)
            rc = follow(m, edge, alive);
        if (rc)
            return rc;
    }
    return 0;
}

static int start(struct grammar_matcher *m, bool *alive) {
    struct automaton_edge edge;
    int rc = automaton_start(m->active->automaton, &edge);
    m->depth = 0;
    m->generation = m->active->automaton->generation;
    return rc ? rc : follow(m, edge, alive);
}

/* The matcher's state, found again if the automaton has forgotten it. */
static int restore(struct grammar_matcher *m) {
    bool alive;
    if (m->generation == m->active->automaton->generation)
        return 0;
    int rc = start(m, &alive);
    return rc ? rc : go_over(m, m->text.data, m->text.len, &alive);
}

int grammar_matcher_open(struct grammar_matcher **out, struct grammar_masks *masks, struct l4_grammar *grammar) {
    struct grammar_matcher *m = calloc(1, sizeof *m);
    bool alive;
    if (!m)
        return L4_E_NOMEM;
    m->masks = masks;
    if (find_active(masks, grammar, &m->active)) {
        free(m);
        return L4_E_NOMEM;
    }
    m->active->n_matchers++;
    drop_actives(masks);
    if (start(m, &alive)) {
        grammar_matcher_close(m);
        return L4_E_NOMEM;
    }
    *out = m;
    return 0;
}

void grammar_matcher_close(struct grammar_matcher *m) {
    if (!m)
        return;
    m->active->n_matchers--;
    drop_actives(m->masks);
    l4_buf_free(&m->text);
    free(m);
}

int grammar_matcher_accept(struct grammar_matcher *m, const char *text, size_t len_bytes, struct l4_err *err) {
    bool alive;
    int rc = restore(m);
    if (rc == 0)
        rc = go_over(m, text, len_bytes, &alive);
    l4_buf_append(&m->text, text, len_bytes);
    if (rc || m->text.failed)
        return no_memory(err);
    return alive ? 0 : l4_err_set(err, L4_E_INVALID, "the grammar does not allow this text");
}

/* ---- the walk ---------------------------------------------------------------------------------------------------- */

/* A state that an edge leads back to, and the kinds of bytes that all have this edge. */
struct walk_loop {
    uint32_t state;
    struct automaton_edge edge;
    uint16_t kinds;
};
enum { WALK_LOOPS = 64 };

struct walk {
    struct grammar_masks *masks;
    struct automaton *a;
    uint64_t *bits;
    uint32_t base_depth; /* of the stack that the walk begins with */
    uint32_t lowest;     /* depth down to which the stack was looked at */
    bool saw_bottom;
    uint32_t reach;
    bool limited; /* something was left out for its depth */
    uint64_t work_limit;
    bool too_much;
    struct walk_loop loops[WALK_LOOPS]; /* by state; a later one takes the place */
};

static int walk_push(struct grammar_masks *masks, struct frame frame, uint32_t below, uint32_t *out) {
    if (!checked_grow((void **)&masks->frames, &masks->cap_frames, masks->n_frames + 1, sizeof *masks->frames))
        return L4_E_NOMEM;
    masks->frames[masks->n_frames] =
        (struct walk_frame){.frame = frame, .below = below, .depth = masks->frames[below].depth + 1};
    *out = (uint32_t)masks->n_frames++;
    return 0;
}

static int walk_push_chain(struct walk *w, uint32_t chain, uint32_t *stack) {
    uint32_t path[L4_GRAMMAR_MAX_DEPTH + 1], n = 0;
    for (; chain; chain = w->a->frames[chain].parent)
        path[n++] = chain;
    while (n-- > 0) {
        const struct automaton_frame *f = &w->a->frames[path[n]];
        int rc = walk_push(w->masks, (struct frame){f->element, f->count}, *stack, stack);
        if (rc)
            return rc;
    }
    return 0;
}

/* Where an edge leads: *state and *stack; AUTOMATON_DEAD where it leads nowhere. */
static int walk_follow(struct walk *w, struct automaton_edge edge, uint32_t *state, uint32_t *stack) {
    struct automaton *a = w->a;
    for (;;) {
        int rc = walk_push_chain(w, edge.push, stack);
        *state = edge.state;
        if (rc || edge.state == AUTOMATON_DEAD || !a->states[edge.state].pending)
            return rc;
        const struct walk_frame top = w->masks->frames[*stack];
        if (top.depth == 0) {
            w->saw_bottom = true;
            return 0;
        }
        if (top.depth - 1 < w->lowest)
            w->lowest = top.depth - 1;
        rc = automaton_extend(a, edge.state, top.frame.element,
                              automaton_view_count(a, top.frame.element, top.frame.count), &edge);
        if (rc)
            return rc;
        *stack = top.below;
    }
}

/* Whether an end can be reached from there without too deep a stack. */
static bool walk_fits(struct walk *w, uint32_t state, uint32_t stack) {
    uint32_t depth = w->masks->frames[stack].depth + w->a->states[state].need;
    if (depth > L4_GRAMMAR_MAX_DEPTH) {
        w->limited = true;
        return false;
    }
    if (depth > w->base_depth + w->reach)
        w->reach = depth - w->base_depth;
    return true;
}

static void allow(struct walk *w, int32_t token) {
    for (; token >= 0; token = w->masks->vocab->same[token])
        w->bits[token / 64] |= UINT64_C(1) << token % 64;
}

static int find_loop(struct walk *w, uint32_t state, struct automaton_edge edge, uint16_t *kinds) {
    struct walk_loop *loop = &w->loops[state % WALK_LOOPS];
    if (loop->state != state || loop->edge.state != edge.state || loop->edge.push != edge.push) {
        *loop = (struct walk_loop){.state = state, .edge = edge, .kinds = (1 << TRIE_OTHER_KIND) - 1};
        for (int byte = 0; byte < 0x80; byte++) {
            struct automaton_edge other = automaton_known_edge(w->a, state, (unsigned char)byte);
            int rc = other.state ? 0 : automaton_step(w->a, state, w->a->class_of[byte], &other);
            if (rc)
                return rc;
            if (other.state != edge.state || other.push != edge.push)
                loop->kinds &= (uint16_t) ~(1 << trie_kind((uint8_t)byte));
        }
    }
    *kinds = loop->kinds;
    return 0;
}

static void allow_below(struct walk *w, const struct trie *trie, size_t node) {
    for (size_t i = node; i < trie->nodes[node].skip; i++)
        allow(w, trie->nodes[i].token);
}

static int walk_trie(struct walk *w, const struct trie *trie, uint32_t state, uint32_t stack) {
    uint32_t states[TRIE_MAX_TEXT + 1] = {state}, stacks[TRIE_MAX_TEXT + 1] = {stack};
    size_t n_frames[TRIE_MAX_TEXT + 1] = {w->masks->n_frames};
    for (size_t i = 0; i < trie->n_nodes;) {
        const struct trie_node node = trie->nodes[i];
        uint32_t above = states[node.depth - 1];
        struct automaton_edge edge = automaton_known_edge(w->a, above, node.byte);
        if (edge.state == 0) {
            if (w->a->work > w->work_limit || automaton_bytes(w->a) > AUTOMATON_HARD_BYTES) {
                w->too_much = true;
                return 0;
            }
            int rc = automaton_step(w->a, above, w->a->class_of[node.byte], &edge);
            if (rc)
                return rc;
        }
        if (edge.state == AUTOMATON_DEAD) {
            i = node.skip;
            continue;
        }
        uint32_t *to = &states[node.depth], *to_stack = &stacks[node.depth];
        *to = edge.state;
        *to_stack = stacks[node.depth - 1];
        w->masks->n_frames = n_frames[node.depth - 1];
        if (edge.push || w->a->states[edge.state].pending) {
            int rc = walk_follow(w, edge, to, to_stack);
            if (rc)
                return rc;
        }
        n_frames[node.depth] = w->masks->n_frames;
        if (*to == AUTOMATON_DEAD || !walk_fits(w, *to, *to_stack)) {
            i = node.skip;
            continue;
        }
        if (*to == above && *to_stack == stacks[node.depth - 1]) { /* [a-z]+ and the like: words stay inside */
            uint16_t kinds;
            int rc = find_loop(w, above, edge, &kinds);
            if (rc)
                return rc;
            if ((node.kinds & ~kinds) == 0) {
                allow_below(w, trie, i);
                i = node.skip;
                continue;
            }
        }
        allow(w, node.token);
        i++;
    }
    return 0;
}

/* automaton_plain of the state, or with the frame on top of the stack where it takes that: a string that has to go on
 * is nothing but a repetition.  *need: frames on top of the stack. */
static int find_plain(struct walk *w, uint32_t state, uint32_t stack, int16_t *n, uint32_t *need) {
    int rc = automaton_plain(w->a, state, n);
    const struct walk_frame top = w->masks->frames[stack];
    *need = w->a->states[state].plain_need;
    if (rc || *n > 0 || top.depth == 0)
        return rc;
    rc = automaton_lower(w->a, state, top.frame.element, automaton_view_count(w->a, top.frame.element, top.frame.count),
                         &state);
    if (rc == 0)
        rc = automaton_plain(w->a, state, n);
    *need = w->a->states[state].plain_need;
    if (top.depth - 1 < w->lowest)
        w->lowest = top.depth - 1;
    return rc;
}

/* Plain text: all of it up to a length where that is what the state says, else walked. */
static int walk_plain(struct walk *w, uint32_t state, uint32_t stack) {
    const struct trie_vocab *vocab = w->masks->vocab;
    uint32_t need;
    int16_t n;
    int rc = find_plain(w, state, stack, &n, &need);
    if (rc)
        return rc;
    if (n == 0 || w->base_depth + need > L4_GRAMMAR_MAX_DEPTH)
        return walk_trie(w, &vocab->plain, state, stack);
    if (need > w->reach)
        w->reach = need;
    for (size_t i = 0; i < vocab->n_words; i++)
        w->bits[i] |= vocab->plain_bits[i];
    for (int32_t i = 0; i < vocab->n_plain && vocab->n_chars[vocab->plain_ids[i]] > n; i++) {
        int32_t id = vocab->plain_ids[i];
        w->bits[id / 64] &= ~(UINT64_C(1) << id % 64);
    }
    return 0;
}

/* ---- masks that are kept ------------------------------------------------------------------------------------------
 */

/* The key with so many frames of the matcher's stack; one more than there are stands for the bottom. */
static uint64_t make_key(const struct grammar_matcher *m, uint32_t view, uint32_t lookahead, struct mask_key *key) {
    const struct automaton *a = m->active->automaton;
    key->view = view;
    key->bottom = lookahead > m->depth;
    key->n_frames = (uint16_t)(key->bottom ? m->depth : lookahead);
    for (uint32_t i = 0; i < key->n_frames; i++) {
        struct frame frame = m->stack[m->depth - 1 - i];
        key->frames[i] = (struct frame){frame.element, automaton_view_count(a, frame.element, frame.count)};
    }
    uint64_t seed = (uint64_t)view << 32 | (uint32_t)key->n_frames << 1 | key->bottom;
    return XXH3_64bits_withSeed(key->frames, key->n_frames * sizeof *key->frames, seed);
}

static struct kept_mask *find_kept(struct grammar_matcher *m, const struct mask_key *key, uint64_t hash) {
    for (int i = 0; i < MASK_MAX_MASKS; i++) {
        struct kept_mask *kept = &m->active->kept[i];
        if (kept->hash == hash && kept->bits && kept->key.view == key->view && kept->key.n_frames == key->n_frames &&
            kept->key.bottom == key->bottom &&
            memcmp(kept->key.frames, key->frames, key->n_frames * sizeof *key->frames) == 0 &&
            (kept->depth < 0 ? m->depth + kept->reach <= L4_GRAMMAR_MAX_DEPTH : (uint32_t)kept->depth == m->depth))
            return kept;
    }
    return NULL;
}

/* A place for another mask: an empty one, or that of the least recently used. */
static struct kept_mask *take_place(struct grammar_matcher *m) {
    struct kept_mask *place = &m->active->kept[0];
    for (int i = 0; i < MASK_MAX_MASKS && place->bits; i++)
        if (!m->active->kept[i].bits || m->active->kept[i].used < place->used)
            place = &m->active->kept[i];
    if (!place->bits)
        place->bits = malloc(m->masks->vocab->n_words * sizeof *place->bits);
    place->hash = 0;
    place->key.view = 0; /* no mask's */
    return place->bits ? place : NULL;
}

/* Put the matcher's stack where the walk begins. */
static int lay_stack(struct grammar_matcher *m, uint32_t *stack) {
    struct grammar_masks *masks = m->masks;
    if (!checked_grow((void **)&masks->frames, &masks->cap_frames, 1, sizeof *masks->frames))
        return L4_E_NOMEM;
    masks->frames[0] = (struct walk_frame){0};
    masks->n_frames = 1;
    *stack = 0;
    for (uint32_t i = 0; i < m->depth; i++) {
        int rc = walk_push(masks, m->stack[i], *stack, stack);
        if (rc)
            return rc;
    }
    return 0;
}

static int too_ambiguous(struct l4_err *err) {
    return l4_err_set(
        err, L4_E_INVALID,
        "the grammar is too ambiguous here: the tokens that may follow cannot be told within %d steps and "
        "%d readings at a time",
        MASK_MAX_WORK, AUTOMATON_MAX_HEADS);
}

static int compute(struct grammar_matcher *m, uint32_t view, struct kept_mask *place, struct l4_err *err) {
    struct automaton *a = m->active->automaton;
    const struct trie_vocab *vocab = m->masks->vocab;
    struct walk w = {.masks = m->masks,
                     .a = a,
                     .bits = place->bits,
                     .base_depth = m->depth,
                     .lowest = m->depth,
                     .work_limit = a->work + MASK_MAX_WORK};
    uint32_t stack;
    memset(place->bits, 0, vocab->n_words * sizeof *place->bits);
    int rc = lay_stack(m, &stack);
    if (rc == 0)
        rc = walk_plain(&w, view, stack);
    if (rc == 0 && !w.too_much)
        rc = walk_trie(&w, &vocab->rest, view, stack);
    if (rc)
        return no_memory(err);
    if (w.too_much)
        return too_ambiguous(err);
    uint32_t lookahead = m->depth - w.lowest + w.saw_bottom;
    if (lookahead > a->states[view].lookahead)
        a->states[view].lookahead = (uint8_t)lookahead;
    place->n_allowed = 0;
    for (size_t i = 0; i < vocab->n_words; i++)
        place->n_allowed += __builtin_popcountll(place->bits[i]);
    place->reach = w.reach;
    place->depth = w.limited ? (int32_t)m->depth : -1;
    place->hash = make_key(m, view, a->states[view].lookahead, &place->key);
    return 0;
}

/* Too much is remembered: begin again. */
static void forget(struct active *active) {
    automaton_reset(active->automaton);
    for (int i = 0; i < MASK_MAX_MASKS; i++) {
        active->kept[i].hash = active->kept[i].used = 0;
        active->kept[i].key.view = 0;
    }
}

int grammar_matcher_mask(struct grammar_matcher *m, struct grammar_mask *mask, struct l4_err *err) {
    struct grammar_masks *masks = m->masks;
    struct automaton *a = m->active->automaton;
    uint32_t view;
    if (automaton_bytes(a) > AUTOMATON_SOFT_BYTES)
        forget(m->active);
    int rc = restore(m);
    if (rc == 0)
        rc = automaton_view(a, m->state, &view);
    if (rc)
        return no_memory(err);
    uint64_t hash = make_key(m, view, a->states[view].lookahead, &masks->key);
    struct kept_mask *kept = find_kept(m, &masks->key, hash);
    masks->stats.n_found += kept != NULL;
    if (!kept) {
        masks->stats.n_computed++;
        kept = take_place(m);
        if (!kept)
            return no_memory(err);
        rc = compute(m, view, kept, err);
        if (rc)
            return rc;
    }
    kept->used = ++masks->clock;
    *mask = (struct grammar_mask){
        .bits = kept->bits,
        .n_allowed = kept->n_allowed,
        .may_end = m->depth == 0 && a->states[m->state].pending,
    };
    return mask->n_allowed == 0 && !mask->may_end && a->gave_up ? too_ambiguous(err) : 0;
}
