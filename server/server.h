/* What handlers share: one struct, owned by serve.c. */
#ifndef SERVER_SERVER_H
#define SERVER_SERVER_H

#include "llama4/engine.h"
#include "server/bridge.h"
#include "server/config.h"
#include "server/http.h"
#include "server/metrics.h"

struct auth;

enum server_state { SERVER_LOADING, SERVER_READY, SERVER_DRAINING };

struct server {
    enum server_state state;
    struct l4_engine *engine; /* NULL while loading */
    struct l4_engine_info info;
    const char *model_name; /* as /v1/models reports it: the setting, else info.name */
    long long started_s;    /* seconds since 1970 */
    struct bridge *bridge;
    struct metrics *metrics;
    struct auth *auth; /* NULL: no keys, everybody may ask */
    const struct config *config;
};

#endif
