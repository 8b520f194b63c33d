/* The table of endpoints: which handler gets what, and what is refused before any handler.  http.h and the handlers are
 * replaced by ones that record. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "server/auth.h"
#include "server/log.h"
#include "server/route.h"

struct http_exchange {
    const char *method, *path, *content_type, *content_encoding;
    const char *authorization, *x_api_key, *origin, *wanted_method;
    const char *handler; /* which one was called */
    int status;          /* or what it was refused with */
    const char *counted; /* the path of the row that it is counted under */
    char allow[64], code[64];
    struct auth_client *client; /* whose key it came with */
    bool is_running;
    int64_t retry_after_s;
    bool authenticate; /* was asked for */
};

const char *http_method(const struct http_exchange *x) {
    return x->method;
}
const char *http_path(const struct http_exchange *x) {
    return x->path;
}
const char *http_header(const struct http_exchange *x, const char *name) {
    const struct {
        const char *name, *value;
    } headers[] = {
        {"Content-Type", x->content_type},
        {"Content-Encoding", x->content_encoding},
        {"Authorization", x->authorization},
        {"x-api-key", x->x_api_key},
        {"Origin", x->origin},
        {"Access-Control-Request-Method", x->wanted_method},
    };
    for (size_t i = 0; i < sizeof(headers) / sizeof(headers[0]); i++)
        if (strcmp(headers[i].name, name) == 0)
            return headers[i].value;
    return NULL;
}
void http_note_route(struct http_exchange *x, int route) {
    int n;
    const struct metrics_route *names = route_names(&n);
    assert_in_range(route, 0, n - 1);
    x->counted = names[route].path;
}
void http_add_header(struct http_exchange *x, const char *name, const char *value) {
    if (strcmp(name, "Allow") == 0 || strcmp(name, "Access-Control-Allow-Methods") == 0)
        snprintf(x->allow, sizeof(x->allow), "%s", value);
    x->authenticate |= strcmp(name, "WWW-Authenticate") == 0 && strcmp(value, "Bearer") == 0;
}
void http_note_client(struct http_exchange *x, struct auth_client *client, bool is_running) {
    x->client = client;
    x->is_running = is_running;
}
void http_retry_after(struct http_exchange *x, int64_t seconds) {
    x->retry_after_s = seconds;
}
void http_refuse(struct http_exchange *x, int status, const char *code, const char *fmt, ...) {
    assert_non_null(fmt);
    x->status = status;
    snprintf(x->code, sizeof(x->code), "%s", code);
}
void http_reply(struct http_exchange *x, int status, const char *content_type, struct l4_buf *take_body) {
    assert_null(content_type);
    assert_int_equal(take_body->len, 0);
    l4_buf_free(take_body);
    x->status = status;
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

static char no_origins[] = "", all_origins[] = "*";
static struct config config = {.cors_origins = no_origins, .metrics_need_key = true};
static struct auth *auth; /* NULL: everybody may ask */

static struct http_exchange admit(struct http_exchange x) {
    struct server server = {.state = SERVER_READY, .config = &config, .auth = auth};
    route_admit(&server, &x);
    assert_null(x.handler);
    return x;
}

static struct http_exchange dispatch(enum server_state state, struct http_exchange x) {
    struct server server = {.state = state, .config = &config};
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
        x = admit((struct http_exchange){.method = cases[i].method, .path = cases[i].path});
        assert_int_equal(x.status, 0);
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

/* ---- keys -------------------------------------------------------------------------------------------------------- */

/* The file of keys: alice's is "sk-a". */
static const char KEYS[] = "/tmp/llama4d-route-keys";
static const char ALICE[] =
    "alice sha256:a4a6d307ad00fa67176e1099fdbc4f4a09bb527a7f24718a5030f2f173d11f7f max_concurrent=1\n";

static int open_auth(void **state) {
    (void)state;
    struct config_errors errors = {0};
    log_set_level("error");
    FILE *file = fopen(KEYS, "w");
    assert_true(file != NULL && fputs(ALICE, file) >= 0 && fclose(file) == 0);
    int rc = auth_open(&auth, KEYS, &errors);
    remove(KEYS);
    return rc;
}
static int close_auth(void **state) {
    (void)state;
    auth_close(auth);
    auth = NULL;
    config.cors_origins = no_origins;
    config.metrics_need_key = true;
    return 0;
}

static void test_who_needs_a_key(void **state) {
    (void)state;
    static const struct {
        const char *method, *path;
        int status;
    } cases[] = {{"GET", "/health", 0},       {"HEAD", "/ready", 0},          {"POST", "/health", 401},
                 {"GET", "/metrics", 401},    {"GET", "/v1/models", 401},     {"POST", "/v1/completions", 401},
                 {"GET", "/nowhere", 401},    {"OPTIONS", "/v1/models", 401}, {"GET", "/v1/models/", 401},
                 {"GET", "/health/../x", 401}};
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct http_exchange x = admit((struct http_exchange){.method = cases[i].method, .path = cases[i].path});
        assert_int_equal(x.status, cases[i].status);
        assert_string_equal(x.code, cases[i].status != 0 ? "invalid_api_key" : "");
        assert_int_equal(x.authenticate, cases[i].status != 0);
        assert_null(x.client);
    }
    config.metrics_need_key = false;
    assert_int_equal(admit((struct http_exchange){.method = "GET", .path = "/metrics"}).status, 0);
}

static void test_keys(void **state) {
    (void)state;
    static const struct {
        const char *authorization, *x_api_key;
        bool known;
    } cases[] = {{"Bearer sk-a", NULL, true},
                 {"bearer  sk-a", NULL, true},
                 {NULL, "sk-a", true},
                 {"Basic sk-a", "sk-a", true},
                 {"Bearer sk-b", "sk-a", false},
                 {"Bearer ", NULL, false},
                 {"Bearer", NULL, false},
                 {"Bearersk-a", NULL, false},
                 {"sk-a", NULL, false},
                 {NULL, "Bearer sk-a", false},
                 {NULL, "", false},
                 {NULL, NULL, false},
                 {"Bearer sk-a trailing", NULL, false}};
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct http_exchange x = admit((struct http_exchange){.method = "GET",
                                                              .path = "/v1/models",
                                                              .authorization = cases[i].authorization,
                                                              .x_api_key = cases[i].x_api_key});
        assert_int_equal(x.status, cases[i].known ? 0 : 401);
        assert_int_equal(x.client != NULL, cases[i].known);
        if (x.client != NULL) {
            assert_string_equal(auth_client_name(x.client), "alice");
            assert_false(x.is_running); /* no limit is on asking for the models */
            auth_end(x.client, false);
        }
    }
}

static void test_limits(void **state) {
    (void)state;
    struct http_exchange ask = {.method = "POST", .path = "/v1/completions", .x_api_key = "sk-a"};
    struct http_exchange first = admit(ask), second = admit(ask);
    assert_int_equal(first.status, 0);
    assert_true(first.is_running);
    assert_int_equal(second.status, 429);
    assert_string_equal(second.code, "rate_limit_exceeded");
    assert_int_equal(second.retry_after_s, 1);
    assert_ptr_equal(second.client, first.client);
    assert_false(second.is_running);
    auth_end(second.client, second.is_running);
    auth_end(first.client, first.is_running);
    first = admit(ask);
    assert_int_equal(first.status, 0);
    auth_end(first.client, first.is_running);
}

static void test_preflights_need_no_key(void **state) {
    (void)state;
    struct http_exchange ask = {
        .method = "OPTIONS", .path = "/v1/completions", .origin = "https://a", .wanted_method = "POST"};
    assert_int_equal(admit(ask).status, 401);
    assert_int_equal(dispatch(SERVER_READY, ask).status, 405);
    config.cors_origins = all_origins;
    assert_int_equal(admit(ask).status, 0);
    struct http_exchange x = dispatch(SERVER_LOADING, ask);
    assert_int_equal(x.status, 204);
    assert_string_equal(x.allow, "POST");
    ask.path = "/nowhere";
    assert_int_equal(dispatch(SERVER_READY, ask).status, 404);
    ask.wanted_method = NULL;
    assert_int_equal(admit(ask).status, 401);
}

int main(void) {
#define WITH_KEYS(test) cmocka_unit_test_setup_teardown(test, open_auth, close_auth)
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_handlers),
        cmocka_unit_test(test_rows_are_counted_apart),
        cmocka_unit_test(test_unknown_path),
        cmocka_unit_test(test_wrong_method),
        cmocka_unit_test(test_needs_the_model),
        cmocka_unit_test(test_json_only),
        WITH_KEYS(test_who_needs_a_key),
        WITH_KEYS(test_keys),
        WITH_KEYS(test_limits),
        WITH_KEYS(test_preflights_need_no_key),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
