/* GET /metrics: what Prometheus reads. */
#include "server/auth.h"
#include "server/metrics.h"
#include "server/route.h"

void api_metrics(struct server *server, struct http_exchange *x) {
    struct l4_engine_stats stats;
    struct l4_buf body = {0};
    if (server->engine != NULL)
        l4_engine_stats(server->engine, &stats);
    metrics_write(server->metrics, server->model_name, server->engine != NULL ? &server->info : NULL, &stats, &body);
    if (server->auth != NULL)
        auth_write_metrics(server->auth, &body);
    http_reply(x, 200, "text/plain; version=0.0.4; charset=utf-8", &body);
}
