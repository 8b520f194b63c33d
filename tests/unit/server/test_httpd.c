/* httpd on a loop of the test's own, with a client on a thread: what HTTP tests of the daemon cannot arrange, such as
 * an allocation that fails, or a client that is gone before the handler has said what then. */
#include <arpa/inet.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>
#include <uv.h>

#include "server/http.h"
#include "server/httpd.h"
#include "server/log.h"
#include "tests/lib/failmalloc.h"

struct fixture {
    uv_loop_t loop;
    uv_async_t client_done;
    uv_timer_t later; /* a moment after a request came in */
    struct config config;
    struct httpd *httpd;
    struct http_exchange *held; /* by the handler of /later and /orphan */
    bool wants_gone;
    int n_requests, n_gone;
    int port;
};

static struct fixture fixture;

static void on_gone(void *user) {
    struct fixture *f = user;
    f->n_gone++;
    f->held = NULL;
}

static void reply(struct http_exchange *x, const char *text) {
    struct l4_buf body = {0};
    l4_buf_puts(&body, text);
    http_reply(x, 200, "text/plain", &body);
}

static void on_later(uv_timer_t *timer) {
    struct fixture *f = timer->data;
    struct http_exchange *x = f->held;
    if (x == NULL)
        return;
    if (f->wants_gone) {
        http_on_gone(x, on_gone, f); /* the client went before: told later, not here */
        assert_ptr_equal(f->held, x);
        f->wants_gone = false;
        return;
    }
    f->held = NULL;
    reply(x, "late");
}

static void on_request(void *user, struct http_exchange *x) {
    struct fixture *f = user;
    const char *path = http_path(x);
    f->n_requests++;
    if (strcmp(path, "/stream") == 0) {
        http_stream_begin(x);
        for (int i = 0; i < 100; i++)
            http_stream_send(x, "data: {}\n\n", 10);
        http_stream_end(x);
    } else if (strcmp(path, "/error") == 0) {
        http_add_header(x, "Allow", "GET");
        http_reply_error(x, 405, "p", "c", "no %s", http_method(x));
    } else if (strcmp(path, "/later") == 0) {
        f->held = x;
        uv_timer_start(&f->later, on_later, 1, 0);
    } else if (strcmp(path, "/orphan") == 0) {
        f->held = x; /* no timer: the test decides when */
    } else {
        reply(x, "now");
    }
}

static void on_client_done(uv_async_t *async) {
    uv_stop(async->loop);
}

static void open_fixture(struct fixture *f) {
    *f = (struct fixture){0};
    log_set_level("error");
    assert_int_equal(uv_loop_init(&f->loop), 0);
    uv_async_init(&f->loop, &f->client_done, on_client_done);
    uv_timer_init(&f->loop, &f->later);
    f->later.data = f;
    assert_int_equal(config_init(&f->config), 0);
    f->config.port = 0;
    struct l4_err err;
    assert_int_equal(httpd_open(&f->httpd, &f->loop, &f->config, NULL, NULL, on_request, f, &err), 0);
    f->port = atoi(strrchr(httpd_url(f->httpd), ':') + 1);
}

static void close_fixture(struct fixture *f) {
    httpd_close(f->httpd);
    uv_close((uv_handle_t *)&f->client_done, NULL);
    uv_close((uv_handle_t *)&f->later, NULL);
    uv_run(&f->loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&f->loop), 0);
    config_fini(&f->config);
}

static int connect_to(int port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    return fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0 ? fd : -1;
}

/* ---- allocations that fail --------------------------------------------------------------------------------------- */

static int n_good; /* answers of the last client's */

/* Four requests in a row, then whatever comes back until the connection ends. */
static void talk(void *user) {
    struct fixture *f = user;
    static const char requests[] = "GET /stream HTTP/1.1\r\nHost: a\r\nx-request-id: b\r\n\r\n"
                                   "GET /later HTTP/1.1\r\nHost: a\r\n\r\n"
                                   "GET /error HTTP/1.1\r\nHost: a\r\n\r\n"
                                   "POST /now HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nConnection: close\r\n\r\nabc";
    static char answer[65536];
    size_t len = 0;
    ssize_t n;
    int fd = connect_to(f->port);
    if (fd >= 0 && send(fd, requests, sizeof(requests) - 1, MSG_NOSIGNAL) > 0)
        while (len < sizeof(answer) - 1 && (n = recv(fd, answer + len, sizeof(answer) - 1 - len, 0)) > 0)
            len += (size_t)n;
    close(fd);
    answer[len] = '\0';
    n_good = 0;
    for (const char *at = answer; (at = strstr(at, "HTTP/1.1 ")) != NULL; at++)
        n_good++;
    uv_async_send(&f->client_done);
}

static void run_client(struct fixture *f) {
    uv_thread_t client;
    assert_int_equal(uv_thread_create(&client, talk, f), 0);
    uv_run(&f->loop, UV_RUN_DEFAULT);
    uv_thread_join(&client);
}

/* Descriptors as high as any connection's, so that libuv, which ends the process when its table cannot grow, has grown
 * it. */
static void grow_loop(struct fixture *f) {
    uv_poll_t poll;
    int fds[2], high;
    assert_int_equal(pipe(fds), 0);
    high = fcntl(fds[0], F_DUPFD_CLOEXEC, 200);
    assert_true(high >= 200);
    assert_int_equal(uv_poll_init(&f->loop, &poll, high), 0);
    uv_poll_start(&poll, UV_READABLE, NULL);
    uv_close((uv_handle_t *)&poll, NULL);
    uv_run(&f->loop, UV_RUN_NOWAIT);
    close(high);
    close(fds[0]);
    close(fds[1]);
}

static void test_failing_allocations(void **state) {
    (void)state;
    struct fixture *f = &fixture;
    open_fixture(f);
    grow_loop(f);
    run_client(f);
    assert_int_equal(n_good, 4);
    int n_runs = 0;
    FAILMALLOC_EACH(n) {
        run_client(f); /* any answers, or none, but an end */
        failmalloc_disarm();
        n_runs++;
    }
    assert_true(n_runs > 20);
    run_client(f);
    assert_int_equal(n_good, 4);
    assert_int_equal(httpd_active(f->httpd), 0);
    close_fixture(f);
}

/* ---- clients that go --------------------------------------------------------------------------------------------- */

static int client_fd;

static int ask(struct fixture *f, const char *path) {
    char request[128];
    client_fd = connect_to(f->port);
    assert_true(client_fd >= 0);
    int len = snprintf(request, sizeof(request), "GET %s HTTP/1.1\r\nHost: a\r\n\r\n", path);
    assert_int_equal(send(client_fd, request, (size_t)len, MSG_NOSIGNAL), len);
    return client_fd;
}

static void run_until(struct fixture *f, int n_requests) {
    while (f->n_requests < n_requests)
        uv_run(&f->loop, UV_RUN_ONCE);
}

/* The client goes while the handler has set no callback: the exchange stays the handler's until it replies. */
static void test_gone_before_the_callback(void **state) {
    (void)state;
    struct fixture *f = &fixture;
    for (int with_callback = 0; with_callback < 2; with_callback++) {
        open_fixture(f);
        ask(f, "/orphan");
        run_until(f, 1);
        struct http_exchange *x = f->held;
        assert_non_null(x);
        assert_int_equal(httpd_active(f->httpd), 1);
        close(client_fd);
        while (httpd_active(f->httpd) > 0)
            uv_run(&f->loop, UV_RUN_ONCE);
        assert_null(http_header(x, "Host")); /* the connection's memory is gone, the exchange is not */
        assert_string_equal(http_path(x), "/orphan");
        f->wants_gone = with_callback;
        on_later(&f->later);
        if (with_callback) {
            uv_run(&f->loop, UV_RUN_NOWAIT);
            assert_int_equal(f->n_gone, 1);
        }
        close_fixture(f);
    }
}

/* A stream on an exchange that is lost takes no harm, and tells the handler. */
static void test_stream_after_the_client(void **state) {
    (void)state;
    struct fixture *f = &fixture;
    open_fixture(f);
    ask(f, "/orphan");
    run_until(f, 1);
    close(client_fd);
    while (httpd_active(f->httpd) > 0)
        uv_run(&f->loop, UV_RUN_ONCE);
    http_stream_begin(f->held);
    http_stream_send(f->held, "x", 1);
    http_stream_end(f->held);
    close_fixture(f);
}

/* Closing with a handler still at work: it is told, and nothing is left behind.  What waits behind that request on the
 * same connection, or on another one, is not begun. */
static void test_close_with_a_request(void **state) {
    (void)state;
    struct fixture *f = &fixture;
    open_fixture(f);
    static const char next[] = "GET /orphan HTTP/1.1\r\nHost: a\r\n\r\n";
    int second_fd = connect_to(f->port); /* accepted along with the first */
    ask(f, "/orphan");
    run_until(f, 1);
    assert_true(send(client_fd, next, sizeof(next) - 1, MSG_NOSIGNAL) > 0);
    assert_true(send(second_fd, next, sizeof(next) - 1, MSG_NOSIGNAL) > 0);
    http_on_gone(f->held, on_gone, f);
    close_fixture(f);
    assert_int_equal(f->n_gone, 1);
    assert_int_equal(f->n_requests, 1);
    close(second_fd);
    close(client_fd);
}

/* An answer that was given but could not be handed on any more is freed. */
static void test_close_with_an_answer(void **state) {
    (void)state;
    struct fixture *f = &fixture;
    for (int stream = 0; stream < 2; stream++) {
        open_fixture(f);
        ask(f, "/orphan");
        run_until(f, 1);
        if (stream) {
            http_stream_begin(f->held);
            http_stream_send(f->held, "x", 1);
            http_stream_end(f->held);
        } else {
            reply(f->held, "unsent");
        }
        close_fixture(f);
        close(client_fd);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_failing_allocations),     cmocka_unit_test(test_gone_before_the_callback),
        cmocka_unit_test(test_stream_after_the_client), cmocka_unit_test(test_close_with_a_request),
        cmocka_unit_test(test_close_with_an_answer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
