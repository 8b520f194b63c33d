/* Error codes of the engine and the message that travels with them.
 *
 * A function that can fail returns int: 0, or a negative L4_E_*.  Its last parameter, struct l4_err *, takes the
 * message; NULL is allowed and drops it.  Each level on the way up may put context in front of the message. */
#ifndef LLAMA4_ERROR_H
#define LLAMA4_ERROR_H

#include <stdarg.h>

/* X(name, value, text).  The server maps each to one HTTP status (server/route.c). */
#define L4_ERRORS(X)                                                                                                   \
    X(NOMEM, -1, "out of memory")                                                                                      \
    X(IO, -2, "input/output error")                                                                                    \
    X(FORMAT, -3, "malformed file")                                                                                    \
    X(UNSUPPORTED, -4, "not supported")                                                                                \
    X(INVALID, -5, "invalid value")                                                                                    \
    X(NOT_FOUND, -6, "not found")                                                                                      \
    X(CONTEXT_LENGTH, -7, "context length exceeded")                                                                   \
    X(QUEUE_FULL, -8, "queue full")                                                                                    \
    X(SHUTDOWN, -9, "shutting down")                                                                                   \
    X(CANCELLED, -10, "cancelled")                                                                                     \
    X(KV_FULL, -11, "no free KV pages")                                                                                \
    X(INTERNAL, -12, "internal error")

enum l4_error {
    L4_OK = 0,
#define X(name, value, text) L4_E_##name = (value),
    L4_ERRORS(X)
#undef X
};

struct l4_err {
    int code;
    char message[512]; /* one line, no trailing newline; always terminated; cut where too long */
};

#define L4_MUST_CHECK        __attribute__((warn_unused_result))
#define L4_PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))

/* l4_err_set - fill *err (NULL is allowed) and return code, so that `return l4_err_set(err, L4_E_X, ...)` works. */
int l4_err_set(struct l4_err *err, int code, const char *fmt, ...) L4_PRINTF(3, 4);

/* l4_err_context - put "fmt: " in front of the message; returns err->code (code L4_E_INTERNAL when err is NULL). */
int l4_err_context(struct l4_err *err, const char *fmt, ...) L4_PRINTF(2, 3);

/* l4_error_text - the fixed text of a code, e.g. "out of memory"; never NULL. */
const char *l4_error_text(int code);

#endif
