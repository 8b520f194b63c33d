/* A caller of the engine for tests and benchmarks: opens one, waits for its events. */
#ifndef TESTS_LIB_SESSION_H
#define TESTS_LIB_SESSION_H

#include "core/engine_internal.h"
#include "llama4/engine.h"

struct session {
    struct l4_engine *engine;
    int wake; /* eventfd */
};

/* session_open - options->wakeup and user are set here; overrides may be NULL.
 *   Errors: as l4_engine_open; nothing to close then. */
int session_open(struct session *session, struct l4_engine_options *options, const struct engine_overrides *overrides,
                 struct l4_err *err) L4_MUST_CHECK;
void session_close(struct session *session);

/* session_wait - sleep until there are events, then on_event(event->user, event) for each, which is freed after. */
void session_wait(struct session *session, void (*on_event)(void *user, const struct l4_event *event));

#endif
