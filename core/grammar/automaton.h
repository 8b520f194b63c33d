/* A grammar run over bytes, as a deterministic automaton with a stack whose states are made when they are first met.
 *
 * What the grammar is in the middle of is a set of heads: an element, how often it was repeated, a character begun, and
 * the frames of unfinished calls.  The frames that all heads have at the bottom in common are taken off and lie on a
 * stack of the caller's, so that a state says what is going on locally and is the same at whatever depth.  A state that
 * has come to the end of what it knows is `pending`: it has to be extended by the frame on top of the caller's stack,
 * or, where that is empty, the text may end here.
 *
 * Thread: one at a time. */
#ifndef CORE_GRAMMAR_AUTOMATON_H
#define CORE_GRAMMAR_AUTOMATON_H

#include "core/grammar/grammar.h"

enum {
    AUTOMATON_DEAD = 1, /* the state without heads */
    AUTOMATON_MAX_HEADS = 4096,
    AUTOMATON_SOFT_BYTES = 8 << 20,  /* above it, start afresh before the next mask */
    AUTOMATON_HARD_BYTES = 64 << 20, /* a single mask that needs more fails */
};

/* A call that is not finished: where to go on.  In chains (automaton->frames) 0 is the bottom. */
struct automaton_frame {
    uint32_t element, count; /* count: times done before the current one */
    uint32_t parent;
    uint16_t depth; /* frames from here to the bottom, itself included */
    uint16_t need;  /* frames to finish it and those below */
};

struct automaton_head {
    uint32_t element, count;
    uint32_t parent;  /* frame */
    uint32_t partial; /* of a character: bytes missing << 24 | bits so far; 0 = between characters */
};

struct automaton_state {
    uint32_t first_head, n_heads;
    uint32_t view; /* automaton_view; 0 = not yet known */
    uint16_t need; /* frames on top of the caller's that it takes to finish, along the shallowest head */
    bool pending;
    uint8_t lookahead;   /* for the user: frames that masks of it have looked at */
    int16_t plain;       /* automaton_plain */
    uint16_t plain_need; /* the largest need on the way through plain text */
    uint64_t hash;
};

/* Where a step leads: to a state, with frames for the caller's stack (a chain, 0 = none). */
struct automaton_edge {
    uint32_t state; /* 0 = not yet known */
    uint32_t push;
};

struct automaton;

struct automaton_table {
    uint32_t *slots; /* index + 1, 0 = empty */
    size_t n_slots, n_used;
};

struct automaton_extension {
    uint32_t state, element, count;
    struct automaton_edge edge;
};

struct automaton {
    struct l4_grammar *grammar;          /* a reference */
    uint32_t max_text;                   /* longest text that is looked ahead, in bytes */
    uint8_t class_of[256], byte_of[256]; /* bytes that no set of the grammar tells apart, and one of each */
    uint32_t n_classes;
    uint32_t generation; /* grows when all states are forgotten */
    uint64_t work;       /* heads that were moved so far */

    struct automaton_state *states;
    size_t n_states, cap_states;
    struct automaton_edge *edges; /* [n_states][n_classes] */
    size_t cap_edges;
    struct automaton_head *heads;
    size_t n_heads, cap_heads;
    struct automaton_frame *frames;
    size_t n_frames, cap_frames;
    struct automaton_extension *extensions;
    size_t n_extensions, cap_extensions;
    struct automaton_table state_table, frame_table, extension_table;

    struct automaton_head *todo, *found; /* working storage */
    size_t n_todo, cap_todo, n_found, cap_found;
    struct automaton_table visited; /* of todo items, in seen */
    struct automaton_head *seen;
    size_t n_seen, cap_seen;
    bool too_many; /* in the closure at hand */
    bool gave_up;  /* some edge leads to AUTOMATON_DEAD for its many heads alone */
};

/* automaton_open - grammar: a reference is taken.  max_text: longest token in bytes.  Errors: L4_E_NOMEM. */
int automaton_open(struct automaton **out, struct l4_grammar *grammar, uint32_t max_text) L4_MUST_CHECK;
void automaton_close(struct automaton *automaton); /* NULL is allowed */

/* automaton_reset - forget all states; the generation changes. */
void automaton_reset(struct automaton *automaton);
size_t automaton_bytes(const struct automaton *automaton);

/* All of the following return 0 or L4_E_NOMEM.  More heads than AUTOMATON_MAX_HEADS lead to AUTOMATON_DEAD. */
int automaton_start(struct automaton *automaton, struct automaton_edge *edge) L4_MUST_CHECK;
/* automaton_step - the edge of a state for a class of bytes; known ones are read from `edges` directly. */
int automaton_step(struct automaton *automaton, uint32_t state, uint32_t byte_class,
                   struct automaton_edge *edge) L4_MUST_CHECK;
/* automaton_extend - the state with the frame (element, count) below it. */
int automaton_extend(struct automaton *automaton, uint32_t state, uint32_t element, uint32_t count,
                     struct automaton_edge *edge) L4_MUST_CHECK;
/* automaton_view - a state that takes the same texts of up to max_text bytes: counts far from their bounds are one. */
int automaton_view(struct automaton *automaton, uint32_t state, uint32_t *view) L4_MUST_CHECK;
uint32_t automaton_view_count(const struct automaton *automaton, uint32_t element, uint32_t count);

/* automaton_plain - how many characters of plain text may follow, whichever they are: INT16_MAX = any number up to
 * max_text bytes, n >= 1 = at most n and no text of more than n, 0 = it depends on which.  The state's plain_need is
 * known from then on. */
int automaton_plain(struct automaton *automaton, uint32_t state, int16_t *n) L4_MUST_CHECK;

/* automaton_lower - a state with the frame (element, count) put below all of its heads, for automaton_plain alone: what
 * is common to all heads is not taken off. */
int automaton_lower(struct automaton *automaton, uint32_t state, uint32_t element, uint32_t count,
                    uint32_t *lowered) L4_MUST_CHECK;

static inline struct automaton_edge automaton_known_edge(const struct automaton *automaton, uint32_t state,
                                                         unsigned char byte) {
    return automaton->edges[(size_t)state * automaton->n_classes + automaton->class_of[byte]];
}

#endif
