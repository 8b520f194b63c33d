#include "tests/lib/session.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

static _Noreturn void die(const char *what) {
    fprintf(stderr, "eventfd: cannot %s: %s\n", what, strerror(errno));
    abort();
}

static void on_wakeup(void *user) {
    const struct session *session = user;
    const uint64_t one = 1;
    if (write(session->wake, &one, sizeof one) < 0)
        die("write");
}

int session_open(struct session *session, struct l4_engine_options *options, const struct engine_overrides *overrides,
                 struct l4_err *err) {
    session->wake = eventfd(0, EFD_CLOEXEC);
    if (session->wake < 0)
        die("open");
    options->wakeup = on_wakeup;
    options->user = session;
    int rc = engine_open_with(&session->engine, options, overrides, err);
    if (rc != 0)
        close(session->wake);
    return rc;
}

void session_close(struct session *session) {
    l4_engine_close(session->engine);
    close(session->wake);
}

void session_wait(struct session *session, void (*on_event)(void *user, const struct l4_event *event)) {
    uint64_t count;
    while (read(session->wake, &count, sizeof count) < 0)
        if (errno != EINTR)
            die("read");
    for (struct l4_event *event = l4_engine_poll(session->engine), *next; event; event = next) {
        next = event->next;
        on_event(event->user, event);
        l4_event_free(event);
    }
}
