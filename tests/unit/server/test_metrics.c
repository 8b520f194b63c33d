/* Counting and the text that comes of it; over HTTP a real parser reads it (tests/http/test_metrics.py). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>
#include <uv.h>

#include "server/metrics.h"
#include "tests/lib/failmalloc.h"

static const struct metrics_route ROUTES[] = {{"GET", "/a"}, {"POST", "/a"}};

static uint64_t start_ns;
static uv_loop_t loop;
static struct metrics *metrics;

static int open_metrics(void **state) {
    (void)state;
    start_ns = uv_hrtime();
    assert_int_equal(uv_loop_init(&loop), 0);
    return metrics_open(&metrics, &loop, ROUTES, 2, NULL);
}
static int close_metrics(void **state) {
    (void)state;
    metrics_close(metrics);
    uv_run(&loop, UV_RUN_DEFAULT);
    return uv_loop_close(&loop);
}

static void expect(const char *line) {
    struct l4_buf out = {0};
    metrics_write(metrics, "", NULL, NULL, &out);
    assert_false(out.failed);
    if (!strstr(out.data, line))
        fail_msg("no \"%s\" in:\n%s", line, out.data);
    l4_buf_free(&out);
}

static void buckets_take_their_bound_and_add_up(void **state) {
    (void)state;
    static const double values[] = {0, 0.0001, 0.00011, 0.001, 250, 250.5, 1e9};
    for (size_t i = 0; i < sizeof values / sizeof values[0]; i++)
        metrics_observe(metrics, METRICS_inter_token_seconds, values[i]);
    expect("\nllama4d_inter_token_seconds_bucket{le=\"0.0001\"} 2\n"
           "llama4d_inter_token_seconds_bucket{le=\"0.00025\"} 3\n"
           "llama4d_inter_token_seconds_bucket{le=\"0.0005\"} 3\n"
           "llama4d_inter_token_seconds_bucket{le=\"0.001\"} 4\n");
    expect("\nllama4d_inter_token_seconds_bucket{le=\"100\"} 4\n"
           "llama4d_inter_token_seconds_bucket{le=\"250\"} 5\n"
           "llama4d_inter_token_seconds_bucket{le=\"+Inf\"} 7\n"
           "llama4d_inter_token_seconds_sum 1.0000005e+09\n"
           "llama4d_inter_token_seconds_count 7\n");
    expect("\nllama4d_queue_wait_seconds_count 0\n");
}

static void requests_have_route_and_status(void **state) {
    (void)state;
    metrics_request(metrics, 0, 200, 0.5);
    metrics_request(metrics, 0, 200, 0.25);
    metrics_request(metrics, 1, 404, 1);
    metrics_request(metrics, -1, 404, 2);
    metrics_request(metrics, 1, 0, 1); /* never answered */
    metrics_request(metrics, 1, 600, 1);
    metrics_request(metrics, 1, -7, 1);
    metrics_request(NULL, 1, 200, 1);
    expect("\nllama4d_http_requests_total{method=\"GET\",route=\"/a\",status=\"200\"} 2\n"
           "llama4d_http_requests_total{method=\"POST\",route=\"/a\",status=\"404\"} 1\n"
           "llama4d_http_requests_total{method=\"POST\",route=\"/a\",status=\"499\"} 3\n"
           "llama4d_http_requests_total{method=\"other\",route=\"other\",status=\"404\"} 1\n"
           "# HELP");
    expect("\nllama4d_http_request_duration_seconds_bucket{method=\"GET\",route=\"/a\",le=\"0.25\"} 1\n"
           "llama4d_http_request_duration_seconds_bucket{method=\"GET\",route=\"/a\",le=\"0.5\"} 2\n");
    expect("\nllama4d_http_request_duration_seconds_sum{method=\"GET\",route=\"/a\"} 0.75\n"
           "llama4d_http_request_duration_seconds_count{method=\"GET\",route=\"/a\"} 2\n");
}

static void on_slow(uv_timer_t *timer) {
    uint64_t end = uv_hrtime() + 30 * 1000 * 1000;
    while (uv_hrtime() < end)
        ;
    uv_close((uv_handle_t *)timer, NULL);
}

static void on_slept(uv_timer_t *timer) {
    uv_close((uv_handle_t *)timer, NULL);
}

/* Sleeping is no lag, working is. */
static void lag_is_what_callbacks_take(void **state) {
    (void)state;
    uv_timer_t sleep, work;
    uv_timer_init(&loop, &sleep);
    uv_timer_init(&loop, &work);
    uv_timer_start(&sleep, on_slept, 60, 0);
    uv_timer_start(&work, on_slow, 5, 0);
    uv_run(&loop, UV_RUN_DEFAULT);
    struct l4_buf out = {0};
    metrics_write(metrics, "", NULL, NULL, &out);
    const char *sum = strstr(out.data, "\nllama4d_loop_lag_seconds_sum ");
    const char *count = strstr(out.data, "\nllama4d_loop_lag_seconds_count ");
    assert_true(sum && count);
    double lag_s = strtod(strchr(sum, ' '), NULL), slept_s = (double)uv_metrics_idle_time(&loop) * 1e-9;
    assert_true(lag_s >= 0.029 && slept_s > 0);
    assert_true(lag_s + slept_s <= (double)(uv_hrtime() - start_ns) * 1e-9);
    assert_true(strtol(strchr(count, ' '), NULL, 10) >= 2);
    l4_buf_free(&out);
}

static void no_memory(void **state) {
    (void)state;
    for (size_t n = 1; n <= 2; n++) {
        struct metrics *none = NULL;
        struct l4_err err;
        failmalloc_arm(n);
        int rc = metrics_open(&none, &loop, ROUTES, 2, &err);
        failmalloc_disarm();
        assert_int_equal(rc, L4_E_NOMEM);
        assert_null(none);
    }
}

int main(void) {
#define WITH_METRICS(test) cmocka_unit_test_setup_teardown(test, open_metrics, close_metrics)
    const struct CMUnitTest tests[] = {
        WITH_METRICS(buckets_take_their_bound_and_add_up),
        WITH_METRICS(requests_have_route_and_status),
        WITH_METRICS(lag_is_what_callbacks_take),
        WITH_METRICS(no_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
