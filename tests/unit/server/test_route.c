/* The table of endpoints: which handler gets what, and what is refused before any handler.  http.h and the handlers are
 * replaced by ones that record. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "server/route.h"

struct http_exchange {
    const char *method, *path, *content_type, *content_encoding;
    const char *handler; /* which one was called */
    int status;          /* or what it was refused with */
    const char *counted; /* the path of the row that it is counted under */
    char allow[64], code[64];
};

const char *http_method(const struct http_exchange *x) {
    return x->method;
}
const char *http_path(const struct http_exchange *x) {
    return x->path;
}
const char *http_header(const struct http_exchange *x, const char *name) {
    return strcmp(name, "Content-Type") == 0 ? x->content_type : x->content_encoding;
}
void http_note_route(struct http_exchange *x, int route) {
    int n;
    const struct metrics_route *names = route_names(&n);
    assert_in_range(route, 0, n - 1);
    x->counted = names[route].path;
}
void http_add_header(struct http_exchange *x, const char *name, const char *value) {
    assert_string_equal(name, "Allow");
    snprintf(x->allow, sizeof(x->allow), "%s", value);
}
void http_reply_error(struct http_exchange *x, int status, const char *param, const char *code, const char *fmt, ...) {
    assert_null(param);
    assert_non_null(fmt);
    x->status = status;
    snprintf(x->code, sizeof(x->code), "%s", code != NULL ? code : "");
}

#define X(method, path, name, flags)                                                                                   \
    void name(struct server *server, struct http_exchange *x) {                                                        \
        (void)server;                                                                                                  \
        x->handler = #name;                                                                                            \
    }
ROUTES(X)
#undef X

static struct http_exchange dispatch(enum server_state state, struct http_exchange x) {
    struct server server = {.state = state};
    route_dispatch(&server, &x);
    assert_int_equal(x.handler != NULL, x.status == 0); /* exactly one of the two */
    return x;
}

static void test_handlers(void **state) {
    (void)state;
    static const struct {
        const char *method, *path, *handler;
    } cases[] = {
        {"GET", "/health", "api_health"},
        {"HEAD", "/health", "api_health"},
        {"GET", "/ready", "api_ready"},
        {"GET", "/metrics", "api_metrics"},
        {"GET", "/v1/models", "api_models"},
        {"GET", "/v1/models/a", "api_model"},
        {"HEAD", "/v1/models/org/name", "api_model"},
        {"POST", "/v1/completions", "api_completions"},
        {"POST", "/v1/responses", "api_responses"},
        {"POST", "/v1/chat/completions", "api_chat_completions"},
        {"POST", "/v1/messages", "api_messages"},
        {"POST", "/v1/messages/count_tokens", "api_messages_count_tokens"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct http_exchange x = dispatch(SERVER_READY, (struct http_exchange){.method = cases[i].method,
                                                                               .path = cases[i].path,
                                                                               .content_type = "application/json"});
        assert_non_null(x.handler);
        assert_string_equal(x.handler, cases[i].handler);
        assert_true(strncmp(x.counted, cases[i].path, strcspn(x.counted, "*")) == 0);
    }
}

static void test_rows_are_counted_apart(void **state) {
    (void)state;
    int n;
    const struct metrics_route *names = route_names(&n);
    for (int i = 0; i < n; i++)
        for (int k = 0; k < i; k++)
            assert_true(strcmp(names[i].method, names[k].method) != 0 || strcmp(names[i].path, names[k].path) != 0);
}

static void test_unknown_path(void **state) {
    (void)state;
    static const char *const paths[] = {
        "/", "", "/healthy", "/health/", "/HEALTH", "/v1/models/", "/v1/completions/x", "/v1/messages/"};
    for (size_t i = 0; i < sizeof(paths) / sizeof(paths[0]); i++)
        assert_int_equal(dispatch(SERVER_READY, (struct http_exchange){.method = "GET", .path = paths[i]}).status, 404);
}

static void test_wrong_method(void **state) {
    (void)state;
    static const struct {
        const char *method, *path, *allow;
    } cases[] = {
        {"POST", "/health", "GET, HEAD"},       {"DELETE", "/v1/models/a", "GET, HEAD"},
        {"GET", "/v1/completions", "POST"},     {"HEAD", "/v1/completions", "POST"},
        {"OPTIONS", "/v1/completions", "POST"}, {"get", "/health", "GET, HEAD"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct http_exchange x =
            dispatch(SERVER_LOADING, (struct http_exchange){.method = cases[i].method, .path = cases[i].path});
        assert_int_equal(x.status, 405);
        assert_string_equal(x.allow, cases[i].allow);
    }
}

static void test_needs_the_model(void **state) {
    (void)state;
    static const char *const paths[] = {"/v1/models", "/v1/models/a"};
    for (size_t i = 0; i < 2; i++) {
        struct http_exchange x = dispatch(SERVER_LOADING, (struct http_exchange){.method = "GET", .path = paths[i]});
        assert_int_equal(x.status, 503);
        assert_string_equal(x.code, "model_loading");
        x = dispatch(SERVER_DRAINING, (struct http_exchange){.method = "GET", .path = paths[i]});
        assert_int_equal(x.status, 503);
        assert_string_equal(x.code, "shutting_down");
    }
    assert_non_null(dispatch(SERVER_DRAINING, (struct http_exchange){.method = "GET", .path = "/health"}).handler);
    assert_non_null(dispatch(SERVER_LOADING, (struct http_exchange){.method = "GET", .path = "/ready"}).handler);
}

static void test_json_only(void **state) {
    (void)state;
    static const struct {
        const char *type, *encoding;
        int status;
    } cases[] = {
        {"application/json", NULL, 0},
        {"application/json;charset=utf-8", NULL, 0},
        {"APPLICATION/JSON", NULL, 0},
        {"application/json ; x", NULL, 0},
        {"application/json", "identity", 0},
        {"application/json", "gzip", 415},
        {NULL, NULL, 415},
        {"", NULL, 415},
        {"text/plain", NULL, 415},
        {"application/jsonl", NULL, 415},
        {"application/jso", NULL, 415},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        assert_int_equal(dispatch(SERVER_READY, (struct http_exchange){.method = "POST",
                                                                       .path = "/v1/completions",
                                                                       .content_type = cases[i].type,
                                                                       .content_encoding = cases[i].encoding})
                             .status,
                         cases[i].status);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_handlers),        cmocka_unit_test(test_rows_are_counted_apart),
        cmocka_unit_test(test_unknown_path),    cmocka_unit_test(test_wrong_method),
        cmocka_unit_test(test_needs_the_model), cmocka_unit_test(test_json_only),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
