/* What a request's body takes to be read: decoding and tokenizing, on the loop where the body is short, which takes
 * less than handing it over, else on a worker, which leaves the loop to others. */
#ifndef SERVER_BODY_WORK_H
#define SERVER_BODY_WORK_H

#include "server/server.h"

/* Any thread.  body [len_bytes] stays as it is until done returns. */
typedef void body_work_fn(void *user, const char *body, size_t len_bytes);
/* The loop's thread.  x: NULL if the client has gone; else the caller's again. */
typedef void body_done_fn(void *user, struct http_exchange *x);

/* body_work - work on the body of x, then done, which may both be over when this returns.  Until done is called x is
 * not the caller's.  Thread: the loop's. Errors: L4_E_NOMEM: neither is called, x is still the caller's. */
int body_work(struct server *server, struct http_exchange *x, body_work_fn *work, body_done_fn *done,
              void *user) L4_MUST_CHECK;

#endif
