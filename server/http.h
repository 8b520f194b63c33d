/* One HTTP request and its answer, as the API handlers see them.  libmicrohttpd stays behind this header (httpd.c).
 *
 * Thread: the loop's, everywhere.  A handler gets an exchange whose body has arrived whole.  It owns the exchange until
 * one of three things happens, after which it must not touch it: it replies, it ends a stream, or its `gone` callback
 * was called. */
#ifndef SERVER_HTTP_H
#define SERVER_HTTP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "llama4/buf.h"
#include "llama4/error.h"

struct auth_client;
struct http_exchange;

/* Borrowed, valid while the handler owns the exchange. */
const char *http_method(const struct http_exchange *x);
const char *http_path(const struct http_exchange *x);                     /* decoded, without the query */
const char *http_header(const struct http_exchange *x, const char *name); /* NULL if absent */
const char *http_body(const struct http_exchange *x, size_t *len_bytes);  /* NUL-terminated, never NULL */
/* http_body_done - the body is not needed any more: its memory goes to the bodies of others. */
void http_body_done(struct http_exchange *x);
/* http_request_id - the client's x-request-id if sane, else ours; sent back by itself, to Anthropic's clients as
 * request-id, too. */
const char *http_request_id(const struct http_exchange *x);

/* http_add_header - one more header of the answer; before the reply or the beginning of the stream.  Copied. */
void http_add_header(struct http_exchange *x, const char *name, const char *value);
/* http_note_tokens - what the access log line says about the request, and what its key is charged for; called again
 * whenever there are newer numbers. */
void http_note_tokens(struct http_exchange *x, int64_t prompt_tokens, int64_t completion_tokens);

/* http_note_route - which row of the table of routes the request is counted under. */
void http_note_route(struct http_exchange *x, int route);

/* http_client_name - whose API key the request came with; NULL: it needed none. */
const char *http_client_name(const struct http_exchange *x);

/* http_retry_after - what the header Retry-After of an error says, in place of 1 second. */
void http_retry_after(struct http_exchange *x, int64_t seconds);

/* ---- before the body is read: from httpd_admit only */

/* http_note_client - the request comes with this client's key.  is_running: its end is one running request fewer. */
void http_note_client(struct http_exchange *x, struct auth_client *client, bool is_running);
/* http_refuse - the request ends with this error.  No body of it is kept; the handler is not called. */
void http_refuse(struct http_exchange *x, int status, const char *code, const char *fmt, ...) L4_PRINTF(4, 5);

/* http_reply - the whole answer; takes the storage of *body and leaves it empty.  A body whose `failed` is set becomes
 * a 503.  content_type NULL: there is no content. */
void http_reply(struct http_exchange *x, int status, const char *content_type, struct l4_buf *take_body);

/* http_reply_error - an error object.  status also chooses "type"; param and code may be NULL. */
void http_reply_error(struct http_exchange *x, int status, const char *param, const char *code, const char *fmt, ...)
    L4_PRINTF(5, 6);
/* http_reply_err - the same from an engine error: one table maps codes to statuses. */
void http_reply_err(struct http_exchange *x, const char *param, const struct l4_err *err);

/* http_stream_begin - 200 with text/event-stream; keep-alive comments are sent when nothing else was for some seconds.
 */
void http_stream_begin(struct http_exchange *x);
/* http_stream_send - queue bytes; all that is queued in one turn of the loop goes out together.  A client that does not
 * read until the bound on queued bytes is passed counts as gone: `gone` is called later, never from inside this call.
 */
void http_stream_send(struct http_exchange *x, const char *bytes, size_t len_bytes);
void http_stream_end(struct http_exchange *x);
/* http_stream_fail - send one chunk with an error object (to Anthropic's clients an event named error), then end the
 * stream. */
void http_stream_fail(struct http_exchange *x, const struct l4_err *err);

/* http_on_gone - called at most once, when the client has gone away (or a deadline passed) before the answer ended.
 * NULL unsets it; a handler that wants nothing more to do with an exchange replies or ends it. */
void http_on_gone(struct http_exchange *x, void (*gone)(void *user), void *user);

/* ---- error objects (http_error.c) ----------------------------------------------------------------------------------
 */

/* The status and the "code" (NULL = null) that an engine error becomes. */
int http_err_status(int l4_code);
const char *http_err_code(int l4_code);

/* http_is_messages - paths whose clients are Anthropic's: /v1/messages and what is below it. */
bool http_is_messages(const char *path);

/* http_error_json - append an error object in the shape that clients of path expect:
 *   {"error": {"message", "type", "param", "code"}}, or where http_is_messages(path)
 *   {"type": "error", "error": {"type", "message"}, "request_id"}, in which the message begins with param.
 *   path NULL: no request has been read; request_id NULL: left out; param and code may be NULL. */
struct http_error {
    int status;
    const char *param, *code, *message;
};
void http_error_json(struct l4_buf *out, const char *path, const char *request_id, const struct http_error *error);
/* http_error_no_memory - the 503 that needs no memory. */
const char *http_error_no_memory(const char *path);

#endif
