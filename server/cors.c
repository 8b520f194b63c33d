#include "server/cors.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "server/log.h"

static const char SEPARATORS[] = " \t,";

/* What the official clients send beside x-stainless-..., of which there are too many to list. */
static const char ALLOWED_HEADERS[] =
    "authorization, content-type, x-api-key, x-request-id, anthropic-version, anthropic-beta, "
    "anthropic-dangerous-direct-browser-access, openai-organization, openai-project, openai-beta";
static const char STAINLESS[] = "x-stainless-";

struct piece {
    const char *p;
    size_t len;
};

/* The next one of a list; empty at its end. */
static struct piece next_piece(const char **list) {
    struct piece piece = {*list + strspn(*list, SEPARATORS), 0};
    piece.len = strcspn(piece.p, SEPARATORS);
    *list = piece.p + piece.len;
    return piece;
}

static size_t span_of(const char *text, size_t len, const char *chars) {
    size_t n = 0;
    while (n < len && strchr(chars, text[n]) != NULL)
        n++;
    return n;
}

/* scheme "://" host [":" port] in lower case, without a path: only that ever equals what a browser sends. */
static bool is_origin(struct piece origin) {
    static const char scheme_chars[] = "abcdefghijklmnopqrstuvwxyz0123456789+-.";
    static const char host_chars[] = "abcdefghijklmnopqrstuvwxyz0123456789-._:[]";
    size_t scheme = span_of(origin.p, origin.len, scheme_chars);
    if (scheme == 0 || origin.len < scheme + 4 || strncmp(origin.p + scheme, "://", 3) != 0)
        return false;
    size_t host = scheme + 3;
    return span_of(origin.p + host, origin.len - host, host_chars) == origin.len - host;
}

int cors_check(const char *origins, struct l4_err *err) {
    struct piece piece;
    int n_all = 0, n = 0;
    for (const char *list = origins; (piece = next_piece(&list)).len > 0; n++) {
        bool all = piece.len == 1 && piece.p[0] == '*';
        n_all += all;
        if (!all && !is_origin(piece)) {
            char text[128], quoted[160];
            snprintf(text, sizeof(text), "%.*s", piece.len < sizeof(text) ? (int)piece.len : (int)sizeof(text) - 1,
                     piece.p);
            return l4_err_set(err, L4_E_INVALID,
                              "%s is no origin: allowed is * or a list of scheme://host or scheme://host:port in lower "
                              "case, without a path",
                              log_quote(quoted, sizeof(quoted), text));
        }
    }
    if (n_all > 0 && n > 1)
        return l4_err_set(err, L4_E_INVALID, "* stands for all origins: nothing may be beside it");
    return 0;
}

/* The value of Access-Control-Allow-Origin for this request: the origin itself, or "*"; NULL: none. */
static const char *allowed_origin(const struct http_exchange *x, const char *origins) {
    const char *origin = http_header(x, "Origin");
    struct piece piece;
    if (origin == NULL || origin[0] == '\0')
        return NULL;
    for (const char *list = origins; (piece = next_piece(&list)).len > 0;) {
        if (piece.len == 1 && piece.p[0] == '*')
            return "*";
        if (piece.len == strlen(origin) && memcmp(piece.p, origin, piece.len) == 0)
            return origin;
    }
    return NULL;
}

void cors_begin(struct http_exchange *x, const char *origins) {
    if (origins[strspn(origins, SEPARATORS)] == '\0')
        return;
    http_add_header(x, "Vary", "Origin");
    const char *allowed = allowed_origin(x, origins);
    if (allowed == NULL)
        return;
    http_add_header(x, "Access-Control-Allow-Origin", allowed);
    http_add_header(x, "Access-Control-Expose-Headers", "x-request-id, request-id, retry-after");
}

bool cors_is_preflight(const struct http_exchange *x, const char *origins) {
    return strcmp(http_method(x), "OPTIONS") == 0 && http_header(x, "Access-Control-Request-Method") != NULL &&
           allowed_origin(x, origins) != NULL;
}

void cors_reply_preflight(struct http_exchange *x, const char *methods) {
    static const char name_chars[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-";
    char headers[1024];
    size_t len = (size_t)snprintf(headers, sizeof(headers), "%s", ALLOWED_HEADERS);
    const char *wanted = http_header(x, "Access-Control-Request-Headers");
    struct piece name;
    while (wanted != NULL && (name = next_piece(&wanted)).len > 0) {
        if (name.len <= sizeof(STAINLESS) - 1 || strncasecmp(name.p, STAINLESS, sizeof(STAINLESS) - 1) != 0 ||
            span_of(name.p, name.len, name_chars) < name.len || len + 2 + name.len >= sizeof(headers))
            continue;
        len += (size_t)snprintf(headers + len, sizeof(headers) - len, ", %.*s", (int)name.len, name.p);
    }
    http_add_header(x, "Access-Control-Allow-Methods", methods);
    http_add_header(x, "Access-Control-Allow-Headers", headers);
    http_add_header(x, "Access-Control-Max-Age", "600");
    struct l4_buf nothing = {0};
    l4_buf_puts(&nothing, "");
    http_reply(x, 204, NULL, &nothing);
}
