#include "core/sched/stop.h"

#include <stdlib.h>
#include <string.h>

#include "core/base/checked.h"

struct stop_pattern {
    unsigned char *bytes; /* [len] */
    size_t *border;       /* [len]: length of the longest proper border of bytes[0..i] */
    size_t len;
    size_t state; /* how many of its bytes the text ends with */
};

static size_t pattern_step(const struct stop_pattern *p, size_t state, unsigned char byte) {
    while (state > 0 && p->bytes[state] != byte)
        state = p->border[state - 1];
    return p->bytes[state] == byte ? state + 1 : 0;
}

static int pattern_init(struct stop_pattern *p, const struct l4_text *string) {
    p->len = string->len_bytes;
    p->bytes = checked_array(p->len, sizeof *p->bytes);
    p->border = checked_array(p->len, sizeof *p->border);
    if (!p->bytes || !p->border)
        return L4_E_NOMEM;
    memcpy(p->bytes, string->data, p->len);
    p->border[0] = 0;
    for (size_t i = 1; i < p->len; i++)
        p->border[i] = pattern_step(p, p->border[i - 1], p->bytes[i]);
    return 0;
}

int stop_init(struct stop_matcher *matcher, const struct l4_text *strings, size_t n_strings) {
    *matcher = (struct stop_matcher){.matched = -1};
    if (n_strings == 0)
        return 0;
    matcher->patterns = calloc(n_strings, sizeof *matcher->patterns);
    if (!matcher->patterns)
        return L4_E_NOMEM;
    matcher->n_patterns = n_strings;
    for (size_t i = 0; i < n_strings; i++)
        if (pattern_init(&matcher->patterns[i], &strings[i]) != 0) {
            stop_fini(matcher);
            return L4_E_NOMEM;
        }
    return 0;
}

void stop_fini(struct stop_matcher *matcher) {
    for (size_t i = 0; i < matcher->n_patterns; i++) {
        free(matcher->patterns[i].bytes);
        free(matcher->patterns[i].border);
    }
    free(matcher->patterns);
    l4_buf_free(&matcher->held);
    *matcher = (struct stop_matcher){.matched = -1};
}

/* One byte for every automaton; returns the longest beginning of a string that the text now ends with. */
static size_t step(struct stop_matcher *matcher, unsigned char byte) {
    size_t depth = 0, longest = 0;
    for (size_t i = 0; i < matcher->n_patterns; i++) {
        struct stop_pattern *p = &matcher->patterns[i];
        p->state = pattern_step(p, p->state, byte);
        if (p->state > depth)
            depth = p->state;
        if (p->state == p->len && p->len > longest) {
            longest = p->len;
            matcher->matched = (int)i;
        }
    }
    return depth;
}

/* Move the first n bytes of what is held to *out. */
static void release(struct stop_matcher *matcher, size_t n, struct l4_buf *out) {
    struct l4_buf *held = &matcher->held;
    l4_buf_append(out, held->data ? held->data : "", n);
    held->len -= n;
    if (held->len > 0)
        memmove(held->data, held->data + n, held->len);
}

void stop_push(struct stop_matcher *matcher, const char *text, size_t n_bytes, struct l4_buf *out) {
    if (matcher->matched >= 0)
        return;
    if (matcher->n_patterns == 0) {
        l4_buf_append(out, text, n_bytes);
        return;
    }
    struct l4_buf *held = &matcher->held;
    size_t before = held->len, depth = 0;
    l4_buf_append(held, text, n_bytes);
    if (held->failed)
        return;
    for (size_t i = 0; i < n_bytes; i++) {
        depth = step(matcher, (unsigned char)text[i]);
        if (matcher->matched >= 0) {
            release(matcher, before + i + 1 - matcher->patterns[matcher->matched].len, out);
            l4_buf_clear(held);
            return;
        }
    }
    if (n_bytes > 0)
        release(matcher, held->len - depth, out);
}

void stop_flush(struct stop_matcher *matcher, struct l4_buf *out) {
    release(matcher, matcher->held.len, out);
}
