/* Between the loop thread and the engine: submit, cancel, and events back over uv_async.  Thread: the loop's. */
#ifndef SERVER_BRIDGE_H
#define SERVER_BRIDGE_H

#include <stdint.h>

#include "llama4/engine.h"

struct bridge;

/* Receives the events of one request, in order, the last one a DONE or an ERROR.  The event is borrowed. */
typedef void bridge_event_fn(void *user, const struct l4_event *event);

/* bridge_submit - as l4_engine_submit; request->user is ignored, events go to on_event(user, event). */
int bridge_submit(struct bridge *bridge, const struct l4_request *request, bridge_event_fn *on_event, void *user,
                  uint64_t *id, struct l4_err *err) L4_MUST_CHECK;
/* bridge_cancel - cancel and forget: on_event is not called again for this id. */
void bridge_cancel(struct bridge *bridge, uint64_t id);

/* bridge_work - long work that is not the model (templating, tokenizing) off the loop thread: work(user) on a worker,
 * then done(user) on the loop thread.  Errors: L4_E_NOMEM. */
int bridge_work(struct bridge *bridge, void (*work)(void *user), void (*done)(void *user), void *user) L4_MUST_CHECK;

#endif
