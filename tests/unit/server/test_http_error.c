#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cJSON.h>
#include <cmocka.h>

#include "server/http.h"

static cJSON *error_of(int status, const char *param, const char *code, const char *message) {
    struct l4_buf out = {0};
    http_error_json(&out, status, param, code, message);
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
        cmocka_unit_test(test_object),
        cmocka_unit_test(test_bad_utf8),
        cmocka_unit_test(test_statuses),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
