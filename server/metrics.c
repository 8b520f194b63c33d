#include "server/metrics.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <uv.h>

#include "server/codec_json.h"
#include "server/version.h"

enum { MAX_STATUS = 599, NO_ANSWER_STATUS = 499 };

/* From a token of a small model to a prompt of a large one. */
static const double BOUNDS[] = {0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1,
                                0.25,   0.5,     1,      2.5,   5,      10,    25,   50,    100,  250};
enum { N_BOUNDS = sizeof(BOUNDS) / sizeof(BOUNDS[0]) };

struct histogram {
    uint64_t buckets[N_BOUNDS + 1]; /* not cumulated; the last is beyond all bounds */
    double sum;
};

struct route_metrics {
    uint64_t statuses[MAX_STATUS + 1];
    struct histogram seconds;
};

struct metrics {
    const struct metrics_route *route_names;
    int n_routes;
    struct route_metrics *routes; /* [n_routes + 1] */
    struct histogram histograms[METRICS_N_HISTOGRAMS];
    uint64_t cached_tokens;
    uv_prepare_t turn;         /* the end of a turn of the loop */
    uint64_t turn_ns, idle_ns; /* when the last turn ended, and how long the loop had slept until then */
};

static const struct {
    const char *name, *help;
} HISTOGRAMS[] = {
#define HISTOGRAM(name, help) {#name, help},
#include "server/metrics.def"
};

/* ---- counting ---------------------------------------------------------------------------------------------------- */

static void observe(struct histogram *histogram, double seconds) {
    int i = 0;
    while (i < N_BOUNDS && seconds > BOUNDS[i])
        i++;
    histogram->buckets[i]++;
    histogram->sum += seconds;
}

void metrics_observe(struct metrics *metrics, enum metrics_histogram which, double seconds) {
    observe(&metrics->histograms[which], seconds);
}

void metrics_cached_tokens(struct metrics *metrics, int64_t n) {
    metrics->cached_tokens += (uint64_t)n;
}

void metrics_request(struct metrics *metrics, int route, int status, double seconds) {
    if (metrics == NULL)
        return;
    struct route_metrics *to = &metrics->routes[route >= 0 ? route : metrics->n_routes];
    to->statuses[status > 0 && status <= MAX_STATUS ? status : NO_ANSWER_STATUS]++;
    observe(&to->seconds, seconds);
}

/* Whatever became ready when the loop woke has waited for this long at most. */
static void on_turn(uv_prepare_t *turn) {
    struct metrics *metrics = turn->data;
    uint64_t now_ns = uv_hrtime(), idle_ns = uv_metrics_idle_time(turn->loop);
    uint64_t slept_ns = idle_ns - metrics->idle_ns, passed_ns = now_ns - metrics->turn_ns;
    metrics_observe(metrics, METRICS_loop_lag_seconds,
                    passed_ns > slept_ns ? (double)(passed_ns - slept_ns) * 1e-9 : 0);
    metrics->turn_ns = now_ns;
    metrics->idle_ns = idle_ns;
}

int metrics_open(struct metrics **out, struct uv_loop_s *loop, const struct metrics_route *routes, int n_routes,
                 struct l4_err *err) {
    struct metrics *metrics = calloc(1, sizeof(*metrics));
    struct route_metrics *places = calloc((size_t)n_routes + 1, sizeof(*places));
    if (metrics == NULL || places == NULL) {
        free(metrics);
        free(places);
        return l4_err_set(err, L4_E_NOMEM, "%s", l4_error_text(L4_E_NOMEM));
    }
    metrics->route_names = routes;
    metrics->n_routes = n_routes;
    metrics->routes = places;
    uv_loop_configure(loop, UV_METRICS_IDLE_TIME);
    uv_prepare_init(loop, &metrics->turn);
    metrics->turn.data = metrics;
    metrics->turn_ns = uv_hrtime();
    metrics->idle_ns = uv_metrics_idle_time(loop);
    uv_prepare_start(&metrics->turn, on_turn);
    uv_unref((uv_handle_t *)&metrics->turn);
    *out = metrics;
    return 0;
}

static void on_closed(uv_handle_t *handle) {
    struct metrics *metrics = handle->data;
    free(metrics->routes);
    free(metrics);
}

void metrics_close(struct metrics *metrics) {
    uv_close((uv_handle_t *)&metrics->turn, on_closed);
}

/* ---- writing ----------------------------------------------------------------------------------------------------- */

void metrics_put_family(struct l4_buf *out, const char *name, const char *type, const char *help) {
    l4_buf_printf(out, "# HELP llama4d_%s %s\n# TYPE llama4d_%s %s\n", name, help, name, type);
}

/* A label's value between quotes.  A path need not be UTF-8; the text format must. */
static void put_label(struct l4_buf *out, const char *name, const char *value) {
    bool is_utf8 = codec_utf8_is_valid(value, strlen(value));
    l4_buf_printf(out, "%s=\"", name);
    for (const char *p = value; *p != '\0'; p++) {
        if (*p == '\\' || *p == '"')
            l4_buf_printf(out, "\\%c", *p);
        else if (*p == '\n')
            l4_buf_puts(out, "\\n");
        else if ((unsigned char)*p >= 0x80 && !is_utf8)
            l4_buf_puts(out, "?");
        else
            l4_buf_append(out, p, 1);
    }
    l4_buf_puts(out, "\"");
}

/* labels: "", or pairs with a comma behind each. */
static void put_histogram(struct l4_buf *out, const char *name, const char *labels, const struct histogram *histogram) {
    uint64_t n = 0;
    for (int i = 0; i < N_BOUNDS; i++) {
        n += histogram->buckets[i];
        l4_buf_printf(out, "llama4d_%s_bucket{%sle=\"%g\"} %" PRIu64 "\n", name, labels, BOUNDS[i], n);
    }
    n += histogram->buckets[N_BOUNDS];
    int len = (int)strlen(labels), inner = len > 0 ? len - 1 : 0;
    const char *open = len > 0 ? "{" : "", *shut = len > 0 ? "}" : "";
    l4_buf_printf(out, "llama4d_%s_bucket{%sle=\"+Inf\"} %" PRIu64 "\n", name, labels, n);
    l4_buf_printf(out, "llama4d_%s_sum%s%.*s%s %.9g\n", name, open, inner, labels, shut, histogram->sum);
    l4_buf_printf(out, "llama4d_%s_count%s%.*s%s %" PRIu64 "\n", name, open, inner, labels, shut, n);
}

static void route_labels(const struct metrics *metrics, int route, char out[128]) {
    static const struct metrics_route other = {"other", "other"};
    const struct metrics_route *names = route < metrics->n_routes ? &metrics->route_names[route] : &other;
    snprintf(out, 128, "method=\"%s\",route=\"%s\",", names->method, names->path);
}

static void put_requests(const struct metrics *metrics, struct l4_buf *out) {
    char labels[128];
    metrics_put_family(out, "http_requests_total", "counter",
                       "Requests that have ended, by status; 499: the client went away before there was one.");
    for (int route = 0; route <= metrics->n_routes; route++) {
        route_labels(metrics, route, labels);
        for (int status = 0; status <= MAX_STATUS; status++)
            if (metrics->routes[route].statuses[status] > 0)
                l4_buf_printf(out, "llama4d_http_requests_total{%sstatus=\"%d\"} %" PRIu64 "\n", labels, status,
                              metrics->routes[route].statuses[status]);
    }
    metrics_put_family(out, "http_request_duration_seconds", "histogram",
                       "Time from the arrival of a request's headers to the end of its answer.");
    for (int route = 0; route <= metrics->n_routes; route++) {
        route_labels(metrics, route, labels);
        put_histogram(out, "http_request_duration_seconds", labels, &metrics->routes[route].seconds);
    }
}

static void put_model(const char *model_name, const struct l4_engine_info *info, struct l4_buf *out) {
    metrics_put_family(out, "model_info", "gauge", "The model and how it is computed.");
    l4_buf_puts(out, "llama4d_model_info{");
    const struct {
        const char *name, *value;
    } labels[] = {
        {"model", model_name},
        {"quantization", info->quantization},
        {"experts_implementation", info->experts_implementation},
        {"gemm", info->gemm},
        {"kernels", info->cpu_kernels},
    };
    for (size_t i = 0; i < sizeof(labels) / sizeof(labels[0]); i++) {
        l4_buf_puts(out, i > 0 ? "," : "");
        put_label(out, labels[i].name, labels[i].value);
    }
    l4_buf_puts(out, "} 1\n");
}

static uint64_t count_of(const atomic_uint_least64_t *counter) {
    return atomic_load_explicit(counter, memory_order_relaxed);
}

static void put_experts(const struct l4_experts_stats *experts, struct l4_buf *out) {
    const char *const *names = l4_engine_experts_names();
    metrics_put_family(out, "experts_layers_total", "counter", "Layers of experts computed by each backend.");
    for (int i = 0; experts->n_layers != NULL && names[i] != NULL; i++)
        if (strcmp(names[i], "auto") != 0) /* it hands on to the others */
            l4_buf_printf(out, "llama4d_experts_layers_total{backend=\"%s\"} %" PRIu64 "\n", names[i],
                          count_of(&experts->n_layers[i]));
    metrics_put_family(out, "expert_tokens_total", "counter",
                       "Tokens that the router gave to each expert of each layer.");
    for (int32_t i = 0; i < experts->n_moe_layers; i++) {
        int32_t layer = experts->moe_layers[i];
        for (int32_t e = 0; e < experts->n_experts; e++)
            l4_buf_printf(out, "llama4d_expert_tokens_total{layer=\"%d\",expert=\"%d\"} %" PRIu64 "\n", (int)layer,
                          (int)e, count_of(&experts->n_tokens[(int64_t)layer * experts->n_experts + e]));
    }
}

static void put_engine(const struct l4_engine_stats *stats, struct l4_buf *out) {
#define ENGINE(name, type, field, help)                                                                                \
    metrics_put_family(out, #name, #type, help);                                                                       \
    l4_buf_printf(out, "llama4d_" #name " %lld\n", (long long)stats->field);
#include "server/metrics.def"
    put_experts(&stats->experts, out);
}

void metrics_write(const struct metrics *metrics, const char *model_name, const struct l4_engine_info *info,
                   const struct l4_engine_stats *stats, struct l4_buf *out) {
    metrics_put_family(out, "build_info", "gauge", "The version that runs.");
    l4_buf_printf(out, "llama4d_build_info{version=\"%s\",compiler=\"%s\"} 1\n", LLAMA4D_VERSION, __VERSION__);
    put_requests(metrics, out);
    for (int i = 0; i < METRICS_N_HISTOGRAMS; i++) {
        metrics_put_family(out, HISTOGRAMS[i].name, "histogram", HISTOGRAMS[i].help);
        put_histogram(out, HISTOGRAMS[i].name, "", &metrics->histograms[i]);
    }
    metrics_put_family(out, "cached_prompt_tokens_total", "counter",
                       "Tokens of answered prompts that came out of the prefix cache.");
    l4_buf_printf(out, "llama4d_cached_prompt_tokens_total %" PRIu64 "\n", metrics->cached_tokens);
    if (info == NULL)
        return;
    put_model(model_name, info, out);
    metrics_put_family(out, "threads", "gauge", "Threads that compute.");
    l4_buf_printf(out, "llama4d_threads %d\n", info->threads);
    put_engine(stats, out);
}
