/* What Prometheus reads: counters and histograms of the server, beside what the engine counts.
 * metrics.def lists those without labels.  Thread: the loop's. */
#ifndef SERVER_METRICS_H
#define SERVER_METRICS_H

#include "llama4/buf.h"
#include "llama4/engine.h"

struct metrics;
struct uv_loop_s;

enum metrics_histogram {
#define HISTOGRAM(name, help) METRICS_##name,
#include "server/metrics.def"
    METRICS_N_HISTOGRAMS
};

/* What a request is counted under. */
struct metrics_route {
    const char *method, *path; /* static */
};

/* metrics_open - watches the loop's turns, too: before the loop runs.  routes, no two alike, is borrowed until close.
 *   Errors: L4_E_NOMEM. */
int metrics_open(struct metrics **out, struct uv_loop_s *loop, const struct metrics_route *routes, int n_routes,
                 struct l4_err *err) L4_MUST_CHECK;
/* metrics_close - frees them once the loop has run its closing callbacks. */
void metrics_close(struct metrics *metrics);

/* metrics_observe - one more value of a histogram. */
void metrics_observe(struct metrics *metrics, enum metrics_histogram which, double seconds);
/* metrics_cached_tokens - so many of a request's prompt tokens were not computed. */
void metrics_cached_tokens(struct metrics *metrics, int64_t n);
/* metrics_request - a request has ended.  route: 0 .. n_routes - 1, or -1: none of them.  status 0: it got no answer,
 * counted as 499.  metrics may be NULL: nobody counts. */
void metrics_request(struct metrics *metrics, int route, int status, double seconds);

/* metrics_write - all of them in Prometheus' text format, version 0.0.4.  info and stats are NULL while there is no
 * engine. */
void metrics_write(const struct metrics *metrics, const char *model_name, const struct l4_engine_info *info,
                   const struct l4_engine_stats *stats, struct l4_buf *out);
/* metrics_put_family - the lines in front of the samples of llama4d_NAME.  type: counter, gauge, histogram. */
void metrics_put_family(struct l4_buf *out, const char *name, const char *type, const char *help);

#endif
