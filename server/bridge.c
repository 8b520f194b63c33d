#include "server/bridge.h"

#include <stdlib.h>
#include <uv.h>

#define HASH_NONFATAL_OOM 1
#include <uthash.h>

struct pending {
    uint64_t id;
    bridge_event_fn *on_event;
    void *user;
    UT_hash_handle hh;
};

struct bridge {
    uv_loop_t *loop;
    uv_async_t async;
    struct l4_engine *engine;
    struct pending *pending;
    size_t n_works;
};

struct bridge_job {
    uv_work_t request;
    struct bridge *bridge;
    void (*work)(void *user);
    void (*done)(void *user);
    void *user;
};

/* Takes the request out of the table first: what on_event does may end or cancel it again. */
static void deliver(struct bridge *bridge, struct pending *pending, const struct l4_event *event) {
    bridge_event_fn *on_event = pending->on_event;
    void *user = pending->user;
    if (event->type == L4_EVENT_DONE || event->type == L4_EVENT_ERROR) {
        HASH_DEL(bridge->pending, pending);
        free(pending);
    }
    on_event(user, event);
}

/* uv_async_send coalesces: one call may stand for many wake-ups. */
static void on_async(uv_async_t *async) {
    struct bridge *bridge = async->data;
    if (bridge->engine == NULL)
        return;
    struct l4_event *next;
    for (struct l4_event *event = l4_engine_poll(bridge->engine); event != NULL; event = next) {
        next = event->next;
        struct pending *pending;
        HASH_FIND(hh, bridge->pending, &event->id, sizeof(event->id), pending);
        if (pending != NULL)
            deliver(bridge, pending, event);
        l4_event_free(event);
    }
}

int bridge_open(struct bridge **out, struct uv_loop_s *loop, struct l4_err *err) {
    struct bridge *bridge = calloc(1, sizeof(*bridge));
    if (bridge == NULL)
        return l4_err_set(err, L4_E_NOMEM, "%s", l4_error_text(L4_E_NOMEM));
    bridge->loop = loop;
    int rc = uv_async_init(loop, &bridge->async, on_async);
    if (rc != 0) {
        free(bridge);
        return l4_err_set(err, L4_E_INTERNAL, "uv_async_init: %s", uv_strerror(rc));
    }
    bridge->async.data = bridge;
    *out = bridge;
    return 0;
}

static void on_closed(uv_handle_t *handle) {
    free(handle->data);
}

void bridge_close(struct bridge *bridge) {
    uv_close((uv_handle_t *)&bridge->async, on_closed);
}

void bridge_set_engine(struct bridge *bridge, struct l4_engine *engine) {
    bridge->engine = engine;
}

void bridge_wakeup(void *user) {
    struct bridge *bridge = user;
    uv_async_send(&bridge->async);
}

size_t bridge_busy(const struct bridge *bridge) {
    return HASH_COUNT(bridge->pending) + bridge->n_works;
}

int bridge_submit(struct bridge *bridge, const struct l4_request *request, bridge_event_fn *on_event, void *user,
                  uint64_t *id, struct l4_err *err) {
    if (bridge->engine == NULL)
        return l4_err_set(err, L4_E_SHUTDOWN, "there is no model to answer");
    struct pending *pending = calloc(1, sizeof(*pending));
    if (pending == NULL)
        return l4_err_set(err, L4_E_NOMEM, "%s", l4_error_text(L4_E_NOMEM));
    pending->on_event = on_event;
    pending->user = user;
    struct l4_request copy = *request;
    copy.user = NULL;
    int rc = l4_engine_submit(bridge->engine, &copy, &pending->id, err);
    if (rc != 0) {
        free(pending);
        return rc;
    }
    HASH_ADD(hh, bridge->pending, id, sizeof(pending->id), pending);
    if (pending->hh.tbl == NULL) {
        l4_engine_cancel(bridge->engine, pending->id);
        free(pending);
        return l4_err_set(err, L4_E_NOMEM, "%s", l4_error_text(L4_E_NOMEM));
    }
    *id = pending->id;
    return 0;
}

void bridge_cancel(struct bridge *bridge, uint64_t id) {
    struct pending *pending;
    HASH_FIND(hh, bridge->pending, &id, sizeof(id), pending);
    if (pending == NULL)
        return;
    HASH_DEL(bridge->pending, pending);
    free(pending);
    l4_engine_cancel(bridge->engine, id);
}

void bridge_cut(struct bridge *bridge, const struct l4_err *err) {
    while (bridge->pending != NULL) {
        struct pending *pending = bridge->pending;
        struct l4_event event = {
            .type = L4_EVENT_ERROR, .id = pending->id, .stop_index = -1, .stop_token = -1, .error = *err};
        l4_engine_cancel(bridge->engine, pending->id);
        deliver(bridge, pending, &event);
    }
}

static void on_work(uv_work_t *request) {
    struct bridge_job *job = request->data;
    job->work(job->user);
}

static void on_work_done(uv_work_t *request, int status) {
    (void)status; /* nothing here cancels works */
    struct bridge_job *job = request->data;
    void (*done)(void *user) = job->done;
    void *user = job->user;
    job->bridge->n_works--;
    free(job);
    done(user);
}

int bridge_work(struct bridge *bridge, void (*work)(void *user), void (*done)(void *user), void *user) {
    struct bridge_job *job = malloc(sizeof(*job));
    if (job == NULL)
        return L4_E_NOMEM;
    *job = (struct bridge_job){.bridge = bridge, .work = work, .done = done, .user = user};
    job->request.data = job;
    if (uv_queue_work(bridge->loop, &job->request, on_work, on_work_done) != 0) {
        free(job);
        return L4_E_NOMEM;
    }
    bridge->n_works++;
    return 0;
}
