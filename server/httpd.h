/* libmicrohttpd on the libuv loop: connections, limits, deadlines.  What a handler sees of it is http.h.
 * Thread: the loop's. */
#ifndef SERVER_HTTPD_H
#define SERVER_HTTPD_H

#include <stdbool.h>
#include <stddef.h>

#include "llama4/error.h"
#include "server/config.h"

struct httpd;
struct http_exchange;
struct metrics;
struct uv_loop_s;

/* Called with each request whose headers have arrived, before its body is read: may call http_refuse. */
typedef void httpd_admit(void *user, struct http_exchange *x);
/* Called with each request whose body has arrived whole; takes the exchange (http.h says how). */
typedef void httpd_handler(void *user, struct http_exchange *take_x);

/* httpd_open - listen on config->host and config->port and serve.  *config is borrowed until close; its reloadable
 * limits are read at each use.  metrics, borrowed likewise, counts every request; metrics and admit may be NULL.
 *   Errors: L4_E_IO (names address or file and reason), L4_E_INVALID (no such host, wrong certificate or key),
 *   L4_E_NOMEM. */
int httpd_open(struct httpd **out, struct uv_loop_s *loop, const struct config *config, struct metrics *metrics,
               httpd_admit *admit, httpd_handler *handler, void *user, struct l4_err *err) L4_MUST_CHECK;

/* "http://127.0.0.1:8080", or https; an IPv6 address is in brackets. */
const char *httpd_url(const struct httpd *httpd);

/* httpd_reload_tls - read certificate and key again, for the connections that come from now on; nothing to do without
 * TLS.  Errors: L4_E_IO, L4_E_INVALID (both name the file), L4_E_NOMEM; what was in use stays so. */
int httpd_reload_tls(struct httpd *httpd, struct l4_err *err) L4_MUST_CHECK;

/* httpd_drain - from now on every answer closes its connection, and a body has two seconds to arrive. */
void httpd_drain(struct httpd *httpd);
/* Requests whose headers have arrived and whose answer has not been sent to its end. */
size_t httpd_active(const struct httpd *httpd);
/* httpd_abort - drop every connection; `gone` is called where a handler still owns an exchange. */
void httpd_abort(struct httpd *httpd);
/* httpd_close - abort, stop listening, free once the loop has run its closing callbacks. */
void httpd_close(struct httpd *httpd);

#endif
