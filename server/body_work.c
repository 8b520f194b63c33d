#include "server/body_work.h"

#include <stdlib.h>
#include <string.h>

/* Bodies up to this size are worked on at once. */
enum { INLINE_BODY_BYTES = 4096 };

struct body_job {
    struct http_exchange *x; /* NULL once the client has gone, and its body with it */
    body_work_fn *work;
    body_done_fn *done;
    void *user;
    size_t len_bytes;
    char body[];
};

static void on_gone(void *user) {
    struct body_job *job = user;
    job->x = NULL;
}

static void on_work(void *user) {
    struct body_job *job = user;
    job->work(job->user, job->body, job->len_bytes);
}

static void on_done(void *user) {
    struct body_job *job = user;
    if (job->x != NULL)
        http_on_gone(job->x, NULL, NULL);
    job->done(job->user, job->x);
    free(job);
}

int body_work(struct server *server, struct http_exchange *x, body_work_fn *work, body_done_fn *done, void *user) {
    size_t len_bytes = 0;
    const char *body = http_body(x, &len_bytes);
    if (len_bytes <= INLINE_BODY_BYTES) {
        work(user, body, len_bytes);
        done(user, x);
        return 0;
    }
    struct body_job *job = malloc(sizeof *job + len_bytes);
    if (job == NULL)
        return L4_E_NOMEM;
    *job = (struct body_job){.x = x, .work = work, .done = done, .user = user, .len_bytes = len_bytes};
    memcpy(job->body, body, len_bytes);
    if (bridge_work(server->bridge, on_work, on_done, job) != 0) {
        free(job);
        return L4_E_NOMEM;
    }
    http_on_gone(x, on_gone, job);
    return 0;
}
