#include "server/route.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

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
enum { N_ROUTES = sizeof(TABLE) / sizeof(TABLE[0]) };

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

static void reply_no_route(struct http_exchange *x, const char *allow) {
    char path[256];
    log_quote(path, sizeof(path), http_path(x));
    if (allow[0] == '\0') {
        http_reply_error(x, 404, NULL, NULL, "no such endpoint: %s", path);
        return;
    }
    http_add_header(x, "Allow", allow);
    http_reply_error(x, 405, NULL, NULL, "%s takes %s", path, allow);
}

const struct metrics_route *route_names(int *n) {
    *n = N_ROUTES;
    return NAMES;
}

void route_dispatch(struct server *server, struct http_exchange *x) {
    const char *method = strcmp(http_method(x), "HEAD") == 0 ? "GET" : http_method(x);
    const struct route *found = NULL;
    char allow[128] = "";
    for (int i = 0; i < N_ROUTES && found == NULL; i++) {
        const struct route *route = &TABLE[i];
        if (!path_matches(route, http_path(x)))
            continue;
        if (strcmp(route->method, method) == 0)
            found = route;
        size_t len = strlen(allow);
        snprintf(allow + len, sizeof(allow) - len, "%s%s%s", len > 0 ? ", " : "", route->method,
                 strcmp(route->method, "GET") == 0 ? ", HEAD" : "");
    }
    if (found == NULL) {
        reply_no_route(x, allow);
        return;
    }
    http_note_route(x, (int)(found - TABLE));
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
