/* Where a body is worked on, and who learns what when its client goes.  http.h's body and callbacks are replaced. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <uv.h>

#include "server/body_work.h"
#include "tests/lib/failmalloc.h"

enum { SHORT_BYTES = 4096 };

struct http_exchange {
    char body[SHORT_BYTES + 2];
    size_t len;
    void (*gone)(void *user);
    void *gone_user;
};

const char *http_body(const struct http_exchange *x, size_t *len_bytes) {
    *len_bytes = x->len;
    return x->body;
}
void http_on_gone(struct http_exchange *x, void (*gone)(void *user), void *user) {
    x->gone = gone;
    x->gone_user = user;
}

struct job {
    const char *body;
    size_t len;
    uv_thread_t worker;
    int n_works, n_dones;
    struct http_exchange *x;
    char last; /* of the body when done is called */
};

static void on_work(void *user, const char *body, size_t len_bytes) {
    struct job *job = user;
    job->body = body;
    job->len = len_bytes;
    job->worker = uv_thread_self();
    job->n_works++;
}

static void on_done(void *user, struct http_exchange *x) {
    struct job *job = user;
    assert_int_equal(job->n_works, 1);
    job->n_dones++;
    job->x = x;
    job->last = job->body[job->len - 1];
}

static uv_loop_t loop;
static struct server server;
static struct http_exchange exchange;
static struct job job;

static int open_all(void **state) {
    (void)state;
    struct l4_err err;
    memset(&exchange, 0, sizeof exchange);
    memset(exchange.body, 'a', SHORT_BYTES + 1);
    job = (struct job){0};
    return uv_loop_init(&loop) || bridge_open(&server.bridge, &loop, &err);
}

static int close_all(void **state) {
    (void)state;
    bridge_close(server.bridge);
    uv_run(&loop, UV_RUN_DEFAULT);
    return uv_loop_close(&loop);
}

static void run_to_done(void) {
    while (job.n_dones == 0)
        uv_run(&loop, UV_RUN_ONCE);
}

static void test_short_bodies_at_once(void **state) {
    (void)state;
    uv_thread_t self = uv_thread_self();
    exchange.len = SHORT_BYTES;
    assert_int_equal(body_work(&server, &exchange, on_work, on_done, &job), 0);
    assert_int_equal(job.n_dones, 1);
    assert_ptr_equal(job.x, &exchange);
    assert_ptr_equal(job.body, exchange.body);
    assert_int_equal(job.len, SHORT_BYTES);
    assert_true(uv_thread_equal(&self, &job.worker));
    assert_null(exchange.gone);
}

static void test_long_bodies_on_a_worker(void **state) {
    (void)state;
    uv_thread_t self = uv_thread_self();
    exchange.len = SHORT_BYTES + 1;
    assert_int_equal(body_work(&server, &exchange, on_work, on_done, &job), 0);
    assert_int_equal(job.n_dones, 0);
    assert_int_equal(bridge_busy(server.bridge), 1);
    memset(exchange.body, 'b', SHORT_BYTES + 1); /* the worker has its own */
    run_to_done();
    assert_int_equal(bridge_busy(server.bridge), 0);
    assert_int_equal(job.n_dones, 1);
    assert_ptr_equal(job.x, &exchange);
    assert_int_equal(job.len, SHORT_BYTES + 1);
    assert_int_equal(job.last, 'a');
    assert_false(uv_thread_equal(&self, &job.worker));
    assert_null(exchange.gone); /* the caller's to set again */
}

static void test_a_client_that_goes_meanwhile(void **state) {
    (void)state;
    exchange.len = SHORT_BYTES + 1;
    assert_int_equal(body_work(&server, &exchange, on_work, on_done, &job), 0);
    assert_non_null(exchange.gone);
    exchange.gone(exchange.gone_user);
    run_to_done();
    assert_null(job.x);
    assert_int_equal(job.n_works, 1);
    assert_int_equal(job.last, 'a');
}

static void test_without_memory_nothing_is_called(void **state) {
    (void)state;
    exchange.len = SHORT_BYTES + 1;
    int n_refused = 0;
    FAILMALLOC_EACH(n) {
        job = (struct job){0};
        exchange.gone = NULL;
        int rc = body_work(&server, &exchange, on_work, on_done, &job);
        if (failmalloc_disarm()) {
            assert_int_equal(rc, L4_E_NOMEM);
            assert_null(exchange.gone);
            assert_int_equal(job.n_works + job.n_dones, 0);
            n_refused++;
        } else {
            assert_int_equal(rc, 0);
            run_to_done();
        }
    }
    assert_true(n_refused >= 2); /* the job and the bridge's */
}

int main(void) {
#define TEST(test) cmocka_unit_test_setup_teardown(test, open_all, close_all)
    const struct CMUnitTest tests[] = {
        TEST(test_short_bodies_at_once),
        TEST(test_long_bodies_on_a_worker),
        TEST(test_a_client_that_goes_meanwhile),
        TEST(test_without_memory_nothing_is_called),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
