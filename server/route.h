/* The table of endpoints: adding one is a row here and one file. */
#ifndef SERVER_ROUTE_H
#define SERVER_ROUTE_H

#include "server/server.h"

typedef void route_handler(struct server *server, struct http_exchange *x);

enum {
    ROUTE_NEEDS_MODEL = 1 /* 503 unless the model is ready */,
    ROUTE_JSON_BODY = 2 /* 415 unless application/json; counts against the limits of the request's API key */,
    ROUTE_OPEN = 4 /* needs no API key */,
    ROUTE_METRICS = 8 /* needs one unless metrics_need_key is off */
};

/* X(method, path, handler, flags).  A path that ends in a star takes anything in its place.  HEAD goes where GET goes.
 */
#define ROUTES(X)                                                                                                      \
    X("GET", "/health", api_health, ROUTE_OPEN)                                                                        \
    X("GET", "/ready", api_ready, ROUTE_OPEN)                                                                          \
    X("GET", "/metrics", api_metrics, ROUTE_METRICS)                                                                   \
    X("GET", "/openapi.json", api_openapi, ROUTE_OPEN)                                                                 \
    X("GET", "/v1/models", api_models, ROUTE_NEEDS_MODEL)                                                              \
    X("GET", "/v1/models/*", api_model, ROUTE_NEEDS_MODEL)                                                             \
    X("POST", "/v1/completions", api_completions, ROUTE_NEEDS_MODEL | ROUTE_JSON_BODY)                                 \
    X("POST", "/v1/chat/completions", api_chat_completions, ROUTE_NEEDS_MODEL | ROUTE_JSON_BODY)                       \
    X("POST", "/v1/responses", api_responses, ROUTE_NEEDS_MODEL | ROUTE_JSON_BODY)                                     \
    X("POST", "/v1/messages", api_messages, ROUTE_NEEDS_MODEL | ROUTE_JSON_BODY)                                       \
    X("POST", "/v1/messages/count_tokens", api_messages_count_tokens, ROUTE_NEEDS_MODEL | ROUTE_JSON_BODY)             \
    X("POST", "/v1/embeddings", api_embeddings, ROUTE_NEEDS_MODEL | ROUTE_JSON_BODY)                                   \
    X("POST", "/tokenize", api_tokenize, ROUTE_NEEDS_MODEL | ROUTE_JSON_BODY)                                          \
    X("POST", "/detokenize", api_detokenize, ROUTE_NEEDS_MODEL | ROUTE_JSON_BODY)                                      \
    X("POST", "/apply-template", api_apply_template, ROUTE_NEEDS_MODEL | ROUTE_JSON_BODY)

#define X(method, path, handler, flags) route_handler handler;
ROUTES(X)
#undef X

/* What requests are counted under: the table's rows. */
const struct metrics_route *route_names(int *n);

/* route_admit - for httpd_admit: find the row, and where keys are set refuse whoever has none (401) or has used up what
 * his key allows (429). */
void route_admit(struct server *server, struct http_exchange *x);
/* route_dispatch - find the row and call its handler, or answer 404, 405 (with Allow), 415 or 503. */
void route_dispatch(struct server *server, struct http_exchange *x);

#endif
