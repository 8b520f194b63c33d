/* Stop strings, found in streamed text.
 *
 * The match that is complete first wins (of those that end together, the longest), so the result does not depend on
 * how the text was cut into tokens.  Text that may be the beginning of a match is held back.  Each string is followed
 * by its own Knuth-Morris-Pratt automaton: time is linear in the text, memory in the strings. */
#ifndef CORE_SCHED_STOP_H
#define CORE_SCHED_STOP_H

#include <stddef.h>

#include "llama4/buf.h"
#include "llama4/text.h"

struct stop_pattern;

/* Caller's storage. */
struct stop_matcher {
    struct stop_pattern *patterns;
    size_t n_patterns;
    struct l4_buf held; /* text that may be the beginning of a match */
    int matched;        /* which string was found, -1 = none */
};

/* stop_init - copies the strings; each must be at least one byte.  Errors: L4_E_NOMEM (nothing to free). */
int stop_init(struct stop_matcher *matcher, const struct l4_text *strings, size_t n_strings) L4_MUST_CHECK;
void stop_fini(struct stop_matcher *matcher);

/* stop_push - take more text; append to *out what may be shown now.
 *   Once a string is found, matcher->matched says which; what came before it is in *out, the rest is dropped, and
 *   further text is ignored.  Out of memory: out->failed or matcher->held.failed. */
void stop_push(struct stop_matcher *matcher, const char *text, size_t n_bytes, struct l4_buf *out);

/* stop_flush - the text is over: append to *out what was held back. */
void stop_flush(struct stop_matcher *matcher, struct l4_buf *out);

#endif
