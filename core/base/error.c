#include "llama4/error.h"

#include <stdio.h>
#include <string.h>

int l4_err_set(struct l4_err *err, int code, const char *fmt, ...) {
    if (err) {
        va_list args;
        va_start(args, fmt);
        err->code = code;
        vsnprintf(err->message, sizeof err->message, fmt, args);
        va_end(args);
    }
    return code;
}

int l4_err_context(struct l4_err *err, const char *fmt, ...) {
    if (!err)
        return L4_E_INTERNAL;
    char inner[sizeof err->message];
    memcpy(inner, err->message, sizeof inner);
    va_list args;
    va_start(args, fmt);
    int n = vsnprintf(err->message, sizeof err->message, fmt, args);
    va_end(args);
    if (n >= 0 && (size_t)n < sizeof err->message &&
        snprintf(err->message + n, sizeof err->message - (size_t)n, ": %s", inner) < 0) /* cut where too long */
        err->message[n] = 0;
    return err->code;
}

const char *l4_error_text(int code) {
    switch (code) {
    case L4_OK:
        return "success";
#define X(name, value, text)                                                                                           \
    case value:                                                                                                        \
        return text;
        L4_ERRORS(X)
#undef X
    default:
        return "unknown error";
    }
}
