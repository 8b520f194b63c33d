/* Which web pages may read our answers (the Fetch standard's CORS protocol).
 *
 * The setting cors_origins lists their origins, as browsers send them, with blanks or commas in between, or is `*`: any
 * page; empty: none.  Answers carry no Access-Control-Allow-Credentials: keys come in headers that a page sets itself.
 * Thread: the loop's. */
#ifndef SERVER_CORS_H
#define SERVER_CORS_H

#include "server/http.h"

/* cors_check - is the setting in order?  Errors: L4_E_INVALID (says what is allowed). */
int cors_check(const char *origins, struct l4_err *err) L4_MUST_CHECK;

/* cors_begin - add the headers that every answer to this request carries, errors included. */
void cors_begin(struct http_exchange *x, const char *origins);

/* cors_is_preflight - a browser asks, without a key, whether one of the allowed pages may send a request. */
bool cors_is_preflight(const struct http_exchange *x, const char *origins);
/* cors_reply_preflight - yes: with these methods, and the headers that clients of this API send. */
void cors_reply_preflight(struct http_exchange *x, const char *methods);

#endif
