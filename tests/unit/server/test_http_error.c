#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cJSON.h>
#include <cmocka.h>

#include "server/http.h"

static cJSON *error_of(int status, const char *param, const char *code, const char *message) {
    struct l4_buf out = {0};
    http_error_json(&out, "/v1/chat/completions", "req-1", &(struct http_error){status, param, code, message});
    assert_false(out.failed);
    cJSON *json = cJSON_Parse(out.data);
    assert_non_null(json);
    l4_buf_free(&out);
    cJSON *error = cJSON_DetachItemFromObjectCaseSensitive(json, "error");
    assert_non_null(error);
    assert_int_equal(cJSON_GetArraySize(error), 4);
    cJSON_Delete(json);
    return error;
}

static const char *text_of(const cJSON *error, const char *name) {
    return cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(error, name));
}

static void test_object(void **state) {
    (void)state;
    cJSON *error = error_of(400, "max_tokens", "context_length_exceeded", "a \"b\" \\ \n\x01 \x7f \xc3\xa4");
    assert_string_equal(text_of(error, "message"), "a \"b\" \\ \n\x01 \x7f \xc3\xa4");
    assert_string_equal(text_of(error, "type"), "invalid_request_error");
    assert_string_equal(text_of(error, "param"), "max_tokens");
    assert_string_equal(text_of(error, "code"), "context_length_exceeded");
    cJSON_Delete(error);
    error = error_of(404, NULL, NULL, "");
    assert_true(cJSON_IsNull(cJSON_GetObjectItem(error, "param")) && cJSON_IsNull(cJSON_GetObjectItem(error, "code")));
    assert_string_equal(text_of(error, "type"), "not_found_error");
    cJSON_Delete(error);
}

/* Each client finds its own shape, under whatever path it asked. */
static void test_shapes_by_path(void **state) {
    (void)state;
    static const struct {
        const char *path;
        bool anthropic;
    } cases[] = {
        {"/v1/messages", true},
        {"/v1/messages/count_tokens", true},
        {"/v1/messages/", true},
        {"/v1/messages/a/b", true},
        {"/v1/messagesx", false},
        {"/v1/message", false},
        {"/", false},
        {"", false},
        {NULL, false},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct l4_buf out = {0};
        assert_true(http_is_messages(cases[i].path) == cases[i].anthropic);
        http_error_json(&out, cases[i].path, "req-1", &(struct http_error){400, NULL, "code", "No."});
        assert_string_equal(
            out.data, cases[i].anthropic
                          ? "{\"type\": \"error\", \"error\": {\"type\": \"invalid_request_error\", "
                            "\"message\": \"No.\", \"details\": {\"error_code\": \"code\"}}, "
                            "\"request_id\": \"req-1\"}"
                          : "{\"error\": {\"message\": \"No.\", \"type\": \"invalid_request_error\", \"param\": null, "
                            "\"code\": \"code\"}}");
        l4_buf_free(&out);
        cJSON *json = cJSON_Parse(http_error_no_memory(cases[i].path));
        const cJSON *error = cJSON_GetObjectItemCaseSensitive(json, "error");
        assert_string_equal(text_of(error, "message"), "out of memory");
        assert_string_equal(text_of(error, "type"), cases[i].anthropic ? "overloaded_error" : "service_unavailable");
        assert_true((text_of(json, "type") != NULL) == cases[i].anthropic);
        cJSON_Delete(json);
    }
}

static void test_anthropics_shape(void **state) {
    (void)state;
    static const struct {
        int status;
        const char *type;
    } types[] = {
        {400, "invalid_request_error"},
        {401, "authentication_error"},
        {403, "permission_error"},
        {404, "not_found_error"},
        {405, "invalid_request_error"},
        {408, "timeout_error"},
        {413, "request_too_large"},
        {415, "invalid_request_error"},
        {429, "rate_limit_error"},
        {431, "invalid_request_error"},
        {500, "api_error"},
        {503, "overloaded_error"},
        {505, "api_error"},
        {529, "overloaded_error"},
    };
    for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); i++) {
        struct l4_buf out = {0};
        http_error_json(&out, "/v1/messages", NULL, &(struct http_error){types[i].status, "tools[0].name", NULL, "x"});
        cJSON *json = cJSON_Parse(out.data);
        assert_int_equal(cJSON_GetArraySize(json), 2);
        assert_string_equal(text_of(json, "type"), "error");
        const cJSON *error = cJSON_GetObjectItemCaseSensitive(json, "error");
        assert_int_equal(cJSON_GetArraySize(error), 2);
        assert_string_equal(text_of(error, "type"), types[i].type);
        assert_string_equal(text_of(error, "message"), "tools[0].name: x"); /* the place is not lost */
        cJSON_Delete(json);
        l4_buf_free(&out);
    }
}

/* Whatever a client sent, the answer is UTF-8: a message is cut anywhere, or quotes bytes that never were. */
static void test_bad_utf8(void **state) {
    (void)state;
    static const struct {
        const char *in, *out;
    } cases[] = {
        {"a\xff", "a\xef\xbf\xbd"},
        {"\xc3", "\xef\xbf\xbd"},
        {"\xe2\x82", "\xef\xbf\xbd\xef\xbf\xbd"},
        {"\xc0\x80", "\xef\xbf\xbd\xef\xbf\xbd"},
        {"\xed\xa0\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"},
        {"\xf4\x90\x80\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"},
        {"\xf0\x9f\x98\x80 \xe2\x82\xac", "\xf0\x9f\x98\x80 \xe2\x82\xac"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        cJSON *error = error_of(500, NULL, NULL, cases[i].in);
        assert_string_equal(text_of(error, "message"), cases[i].out);
        cJSON_Delete(error);
    }
}

/* Clients retry 408, 409, 429 and 5xx: what is the request's fault must be none of them. */
static void test_statuses(void **state) {
    (void)state;
    assert_int_equal(http_err_status(L4_E_INVALID), 400);
    assert_int_equal(http_err_status(L4_E_UNSUPPORTED), 400);
    assert_int_equal(http_err_status(L4_E_CONTEXT_LENGTH), 400);
    assert_string_equal(http_err_code(L4_E_CONTEXT_LENGTH), "context_length_exceeded");
    assert_int_equal(http_err_status(L4_E_QUEUE_FULL), 429);
    assert_string_equal(http_err_code(L4_E_QUEUE_FULL), "rate_limit_exceeded");
    assert_int_equal(http_err_status(L4_E_SHUTDOWN), 503);
    assert_int_equal(http_err_status(L4_E_INTERNAL), 500);
    assert_int_equal(http_err_status(-12345), 500);
#define X(name, value, text) assert_true(http_err_status(L4_E_##name) >= 400);
    L4_ERRORS(X)
#undef X
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_object),   cmocka_unit_test(test_shapes_by_path), cmocka_unit_test(test_anthropics_shape),
        cmocka_unit_test(test_bad_utf8), cmocka_unit_test(test_statuses),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
