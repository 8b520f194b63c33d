/* Between the loop thread and the engine: submit, cancel, and events back over uv_async.  Thread: the loop's, where
 * nothing else is said. */
#ifndef SERVER_BRIDGE_H
#define SERVER_BRIDGE_H

#include <stddef.h>
#include <stdint.h>

#include "llama4/engine.h"

struct bridge;
struct uv_loop_s;

/* Receives the events of one request, in order, the last one a DONE or an ERROR.  The event is borrowed. */
typedef void bridge_event_fn(void *user, const struct l4_event *event);

/* bridge_submit - as l4_engine_submit; request->user is ignored, events go to on_event(user, event), never from inside
 * this call.  Errors: as l4_engine_submit; L4_E_SHUTDOWN when there is no engine. */
int bridge_submit(struct bridge *bridge, const struct l4_request *request, bridge_event_fn *on_event, void *user,
                  uint64_t *id, struct l4_err *err) L4_MUST_CHECK;
/* bridge_cancel - cancel and forget: on_event is not called again for this id. */
void bridge_cancel(struct bridge *bridge, uint64_t id);

/* bridge_work - long work that is not the model (templating, tokenizing) off the loop thread: work(user) on a worker,
 * then done(user) on the loop thread.  Errors: L4_E_NOMEM. */
int bridge_work(struct bridge *bridge, void (*work)(void *user), void (*done)(void *user), void *user) L4_MUST_CHECK;

/* ---- for serve.c ---------------------------------------------------------------------------------------------------
 */

/* bridge_open - a bridge without an engine.  Errors: L4_E_NOMEM, L4_E_INTERNAL. */
int bridge_open(struct bridge **out, struct uv_loop_s *loop, struct l4_err *err) L4_MUST_CHECK;
/* bridge_close - frees the bridge once the loop has run its closing callbacks.  bridge_busy must be 0. */
void bridge_close(struct bridge *bridge);
/* The engine, borrowed until it is set to NULL. */
void bridge_set_engine(struct bridge *bridge, struct l4_engine *engine);
/* bridge_wakeup - the engine's wakeup callback, `user` the bridge.  Any thread. */
void bridge_wakeup(void *user);
/* Requests in the engine whose last event has not come, and works that have not called done. */
size_t bridge_busy(const struct bridge *bridge);
/* bridge_cut - cancel every request: each gets an ERROR event with *err as its last. */
void bridge_cut(struct bridge *bridge, const struct l4_err *err);

#endif
