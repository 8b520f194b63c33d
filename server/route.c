#include "server/route.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <uv.h>

#include "server/auth.h"
#include "server/cors.h"
#include "server/log.h"

struct route {
    const char *method, *path;
    route_handler *handler;
    unsigned flags;
};

static const struct route TABLE[] = {
#define X(method, path, handler, flags) {method, path, handler, flags},
    ROUTES(X)
#undef X
};
static const struct metrics_route NAMES[] = {
#define X(method, path, handler, flags) {method, path},
    ROUTES(X)
#undef X
};
enum { N_ROUTES = sizeof(TABLE) / sizeof(TABLE[0]), ALLOW_BYTES = 128 };

static bool path_matches(const struct route *route, const char *path) {
    size_t len = strlen(route->path);
    if (route->path[len - 1] == '*')
        return strncmp(path, route->path, len - 1) == 0 && path[len - 1] != '\0';
    return strcmp(path, route->path) == 0;
}

/* "application/json", parameters aside. */
static bool is_json(const char *content_type) {
    static const char JSON[] = "application/json";
    if (content_type == NULL || strncasecmp(content_type, JSON, sizeof(JSON) - 1) != 0)
        return false;
    return strchr("; \t", content_type[sizeof(JSON) - 1]) != NULL; /* the terminator counts, too */
}

static void reply_no_route(struct server *server, struct http_exchange *x, const char *allow) {
    char path[256];
    log_quote(path, sizeof(path), http_path(x));
    if (allow[0] == '\0') {
        http_reply_error(x, 404, NULL, NULL, "no such endpoint: %s", path);
        return;
    }
    if (cors_is_preflight(x, server->config->cors_origins)) {
        cors_reply_preflight(x, allow);
        return;
    }
    http_add_header(x, "Allow", allow);
    http_reply_error(x, 405, NULL, NULL, "%s takes %s", path, allow);
}

const struct metrics_route *route_names(int *n) {
    *n = N_ROUTES;
    return NAMES;
}

/* The row, or NULL; `allow`: the methods of the rows that have this path. */
static const struct route *find_route(const struct http_exchange *x, char *allow, size_t allow_bytes) {
    const char *method = strcmp(http_method(x), "HEAD") == 0 ? "GET" : http_method(x);
    const struct route *found = NULL;
    size_t len = 0;
    allow[0] = '\0';
    for (int i = 0; i < N_ROUTES; i++) {
        const struct route *route = &TABLE[i];
        if (!path_matches(route, http_path(x)))
            continue;
        if (found == NULL && strcmp(route->method, method) == 0)
            found = route;
        if (len < allow_bytes)
            len += (size_t)snprintf(allow + len, allow_bytes - len, "%s%s%s", len > 0 ? ", " : "", route->method,
                                    strcmp(route->method, "GET") == 0 ? ", HEAD" : "");
    }
    return found;
}

/* "Authorization: Bearer KEY" or "x-api-key: KEY"; NULL if there is neither. */
static const char *presented_key(const struct http_exchange *x) {
    static const char BEARER[] = "Bearer ";
    const char *authorization = http_header(x, "Authorization");
    if (authorization == NULL || strncasecmp(authorization, BEARER, sizeof(BEARER) - 1) != 0)
        return http_header(x, "x-api-key");
    const char *key = authorization + sizeof(BEARER) - 1;
    return key + strspn(key, " ");
}

static bool needs_key(const struct server *server, const struct http_exchange *x, const struct route *route) {
    if (server->auth == NULL || cors_is_preflight(x, server->config->cors_origins))
        return false;
    unsigned flags = route != NULL ? route->flags : 0;
    return !(flags & ROUTE_OPEN) && (!(flags & ROUTE_METRICS) || server->config->metrics_need_key);
}

void route_admit(struct server *server, struct http_exchange *x) {
    char allow[ALLOW_BYTES], why[160];
    const struct route *found = find_route(x, allow, sizeof(allow));
    if (found != NULL)
        http_note_route(x, (int)(found - TABLE));
    if (!needs_key(server, x, found))
        return;
    const char *key = presented_key(x);
    struct auth_client *client = key != NULL ? auth_find(server->auth, key) : NULL;
    if (client == NULL) {
        http_add_header(x, "WWW-Authenticate", "Bearer");
        http_refuse(x, 401, "invalid_api_key", "%s",
                    key != NULL ? "the API key is not known here"
                                : "an API key is needed: Authorization: Bearer KEY, or x-api-key: KEY");
        return;
    }
    bool is_limited = found != NULL && (found->flags & ROUTE_JSON_BODY);
    int64_t wait_s = auth_begin(client, is_limited, uv_hrtime(), why, sizeof(why));
    http_note_client(x, client, is_limited && wait_s == 0);
    if (wait_s > 0) {
        http_retry_after(x, wait_s);
        http_refuse(x, 429, "rate_limit_exceeded", "%s", why);
    }
}

void route_dispatch(struct server *server, struct http_exchange *x) {
    char allow[ALLOW_BYTES];
    const struct route *found = find_route(x, allow, sizeof(allow));
    if (found == NULL) {
        reply_no_route(server, x, allow);
        return;
    }
    if ((found->flags & ROUTE_NEEDS_MODEL) && server->state != SERVER_READY) {
        bool loading = server->state == SERVER_LOADING;
        http_reply_error(x, 503, NULL, loading ? "model_loading" : "shutting_down",
                         loading ? "the model is still loading" : "the server is shutting down");
        return;
    }
    if (found->flags & ROUTE_JSON_BODY) {
        const char *encoding = http_header(x, "Content-Encoding");
        if (!is_json(http_header(x, "Content-Type"))) {
            http_reply_error(x, 415, NULL, NULL, "the body must be JSON, with Content-Type: application/json");
            return;
        }
        if (encoding != NULL && strcasecmp(encoding, "identity") != 0) {
            http_reply_error(x, 415, NULL, NULL, "the body must be sent without Content-Encoding");
            return;
        }
    }
    found->handler(server, x);
}
