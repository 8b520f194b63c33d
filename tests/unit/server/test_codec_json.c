/* Bodies: what is refused before and by cJSON, typed fields, slices of the text behind a value, strings written. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "server/codec_json.h"

static void assert_refused(const char *text, size_t len, const char *message_part) {
    struct codec_body body;
    struct codec_err err;
    assert_int_equal(codec_body_parse(&body, text, len, &err), L4_E_INVALID);
    assert_null(body.root);
    assert_int_equal(err.status, 400);
    if (!strstr(err.message, message_part))
        fail_msg("'%s' does not say '%s'", err.message, message_part);
}

static void test_bodies_that_are_refused(void **state) {
    (void)state;
    static const struct {
        const char *text, *why;
    } cases[] = {
        {"", "empty"},
        {"   ", "not valid JSON"},
        {"nonsense", "not valid JSON"},
        {"{\"a\":NaN}", "not valid JSON near byte 5"},
        {"{\"a\":1", "not valid JSON"},
        {"{\"a\":1,", "not valid JSON"}, /* where the parser once read on past the end: CVE-2023-53154 */
        {"{\"a\":1} x", "goes on after the JSON value, at byte 8"},
        {"[1]", "must be a JSON object, not an array"},
        {"\"x\"", "must be a JSON object, not a string"},
        {"null", "must be a JSON object, not null"},
        {"12", "must be a JSON object, not a number"},
        {"{\"a\":\"\xff\"}", "not valid UTF-8 at byte 6"},
        {"{\"a\":\"\xc0\x80\"}", "not valid UTF-8 at byte 6"},         /* an overlong NUL */
        {"{\"a\":\"\xed\xa0\x80\"}", "not valid UTF-8 at byte 6"},     /* a surrogate */
        {"{\"a\":\"\xf4\x90\x80\x80\"}", "not valid UTF-8 at byte 6"}, /* past U+10FFFF */
        {"{\"a\":\"\xe2\x82", "not valid UTF-8 at byte 6"},
        {"{\"a\":\"x\\u0000y\"}", "at byte 7 holds \\u0000"},
        {"{\"a\":\"\\\\\\u0000\"}", "holds \\u0000"},
        {"{\"a\\u0000\":1}", "holds \\u0000"},
        {"{\"a\":\"\\ud800\"}", "not valid JSON"},
        {"{\"a\":\"line\nbreak\"}", "control character"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_refused(cases[i].text, strlen(cases[i].text), cases[i].why);
    assert_refused("{\"a\":\"x\0y\"}", 11, "has a NUL at byte 7");
    assert_refused("{\"a\":1}\0", 8, "has a NUL at byte 7");
}

static void test_an_escaped_backslash_before_u0000_is_text(void **state) {
    (void)state;
    const char *text = "{\"a\":\"\\\\u0000\"}";
    struct codec_body body;
    struct codec_err err;
    assert_int_equal(codec_body_parse(&body, text, strlen(text), &err), 0);
    assert_string_equal(codec_get(body.root, "a")->valuestring, "\\u0000");
    codec_body_free(&body);
}

static void test_depth_and_number_of_values_are_bounded(void **state) {
    (void)state;
    enum { DEPTH = 100000 };
    struct l4_buf text = {0};
    l4_buf_puts(&text, "{\"a\":");
    for (int i = 0; i < DEPTH; i++)
        l4_buf_puts(&text, "[");
    for (int i = 0; i < DEPTH; i++)
        l4_buf_puts(&text, "]");
    l4_buf_puts(&text, "}");
    assert_refused(text.data, text.len, "nested deeper than 256 levels");
    l4_buf_clear(&text);
    l4_buf_puts(&text, "{\"a\":[0");
    for (int i = 0; i <= CODEC_MAX_VALUES; i++)
        l4_buf_puts(&text, ",0");
    l4_buf_puts(&text, "]}");
    assert_refused(text.data, text.len, "more than 1048576 values");
    l4_buf_free(&text);
}

static void test_depth_just_allowed(void **state) {
    (void)state;
    struct l4_buf text = {0};
    struct codec_body body;
    struct codec_err err;
    l4_buf_puts(&text, "{\"a\":");
    for (int i = 0; i < CODEC_MAX_DEPTH - 1; i++)
        l4_buf_puts(&text, "[");
    for (int i = 0; i < CODEC_MAX_DEPTH - 1; i++)
        l4_buf_puts(&text, "]");
    l4_buf_puts(&text, "}");
    assert_int_equal(codec_body_parse(&body, text.data, text.len, &err), 0);
    codec_body_free(&body);
    l4_buf_free(&text);
}

static void test_last_of_equal_keys_counts_and_null_is_absent(void **state) {
    (void)state;
    const char *text = "{\"a\":1,\"b\":null,\"a\":2,\"c\":3,\"c\":null}";
    struct codec_body body;
    struct codec_err err;
    int64_t value = 7;
    assert_int_equal(codec_body_parse(&body, text, strlen(text), &err), 0);
    assert_int_equal(codec_get_int(body.root, "a", 0, 9, &value, &err), 0);
    assert_int_equal(value, 2);
    assert_int_equal(codec_get_int(body.root, "b", 0, 9, &value, &err), 0);
    assert_int_equal(value, 2);
    assert_null(codec_get(body.root, "c"));
    codec_body_free(&body);
}

static void test_what_is_no_object_has_no_members(void **state) {
    (void)state;
    const char *text = "{\"list\":[1,[2],{\"a\":3}],\"string\":\"a\"}";
    struct codec_body body;
    struct codec_err err;
    assert_int_equal(codec_body_parse(&body, text, strlen(text), &err), 0);
    assert_null(codec_get(codec_get(body.root, "list"), "a"));
    assert_null(codec_get(codec_get(body.root, "string"), "a"));
    assert_null(codec_get(NULL, "a"));
    codec_body_free(&body);
}

static void test_typed_fields(void **state) {
    (void)state;
    const char *text = "{\"half\":0.5,\"huge\":1e999,\"two\":2.0,\"text\":\"t\",\"yes\":true,\"list\":[],\"map\":{}}";
    struct codec_body body;
    struct codec_err err;
    int64_t whole = -1;
    float real = -1;
    bool flag = false;
    struct l4_text string = {0};
    const cJSON *item = NULL;
    assert_int_equal(codec_body_parse(&body, text, strlen(text), &err), 0);
    const cJSON *root = body.root;

    assert_int_equal(codec_get_int(root, "two", 0, 9, &whole, &err), 0);
    assert_int_equal(whole, 2);
    assert_int_equal(codec_get_int(root, "half", 0, 9, &whole, &err), L4_E_INVALID);
    assert_string_equal(err.param, "half");
    assert_string_equal(err.message, "'half' must be an integer from 0 to 9, not 0.5");
    assert_int_equal(codec_get_int(root, "huge", 0, 9, &whole, &err), L4_E_INVALID);
    assert_int_equal(codec_get_int(root, "text", 0, 9, &whole, &err), L4_E_INVALID);
    assert_string_equal(err.message, "'text' must be an integer from 0 to 9, not a string");
    assert_int_equal(codec_get_float(root, "half", 0, 9, &real, &err), 0);
    assert_true(real == 0.5f);
    assert_int_equal(codec_get_float(root, "huge", 0, 9, &real, &err), L4_E_INVALID);
    assert_string_equal(err.message, "'huge' must be from 0 to 9, not inf");
    assert_int_equal(codec_get_float(root, "yes", 0, 9, &real, &err), L4_E_INVALID);
    assert_int_equal(codec_get_bool(root, "yes", &flag, &err), 0);
    assert_true(flag);
    assert_int_equal(codec_get_bool(root, "two", &flag, &err), L4_E_INVALID);
    assert_string_equal(err.message, "'two' must be true or false, not a number");
    assert_int_equal(codec_get_text(root, "text", &string, &err), 0);
    assert_int_equal(string.len_bytes, 1);
    assert_int_equal(codec_get_text(root, "map", &string, &err), L4_E_INVALID);
    assert_int_equal(codec_get_array(root, "list", &item, &err), 0);
    assert_int_equal(codec_get_array(root, "map", &item, &err), L4_E_INVALID);
    assert_int_equal(codec_get_object(root, "map", &item, &err), 0);
    assert_int_equal(codec_get_object(root, "list", &item, &err), L4_E_INVALID);
    assert_string_equal(err.message, "'list' must be an object, not an array");
    codec_body_free(&body);
}

static void assert_slice(struct codec_slice slice, const char *want) {
    assert_int_equal((size_t)(slice.end - slice.p), strlen(want));
    assert_memory_equal(slice.p, want, strlen(want));
}

static void test_slices_are_the_clients_own_text(void **state) {
    (void)state;
    const char *text = "\xef\xbb\xbf {\"\\u0061,\\\"[\" : \"]}\\\\\" , \"n\":\t12345678901234567890.0 ,\n"
                       "\"list\": [ {\"b\":1.0,\"a\":[1,{}]} ,true,\"x, ]\" , [] ], \"e\":{} }";
    struct codec_body body;
    struct codec_err err;
    assert_int_equal(codec_body_parse(&body, text, strlen(text), &err), 0);
    struct codec_slice root = codec_slice_root(&body);
    const cJSON *list = codec_get(body.root, "list");
    assert_slice(codec_slice_child(root, body.root, body.root->child), "\"]}\\\\\"");
    assert_slice(codec_slice_child(root, body.root, codec_get(body.root, "n")), "12345678901234567890.0");
    assert_slice(codec_slice_child(root, body.root, codec_get(body.root, "e")), "{}");
    struct codec_slice cursor = codec_slice_enter(codec_slice_child(root, body.root, list));
    assert_slice(codec_slice_next(&cursor, false), "{\"b\":1.0,\"a\":[1,{}]}");
    assert_slice(codec_slice_next(&cursor, false), "true");
    assert_slice(codec_slice_next(&cursor, false), "\"x, ]\"");
    assert_slice(codec_slice_next(&cursor, false), "[]");
    assert_null(codec_slice_next(&cursor, false).p);
    codec_body_free(&body);
}

static void test_parameter_paths(void **state) {
    (void)state;
    struct codec_err err;
    codec_fail(&err, "type", "no");
    codec_within(&err, "content[%d]", 1);
    codec_within(&err, "messages[%d]", 3);
    assert_string_equal(err.param, "messages[3].content[1].type");
    codec_fail(&err, "", "no");
    codec_within(&err, "[%d]", 2);
    codec_within(&err, "prompt");
    assert_string_equal(err.param, "prompt[2]");
}

static void assert_written(const char *text, size_t len, const char *want) {
    struct l4_buf out = {0};
    codec_put_string(&out, text, len);
    assert_string_equal(out.data, want);
    l4_buf_free(&out);
}

static void test_strings_are_escaped(void **state) {
    (void)state;
    assert_written("", 0, "\"\"");
    assert_written("plain", 5, "\"plain\"");
    assert_written("a\"b\\c\n\t\r\b\f\x01\x1f", 12, "\"a\\\"b\\\\c\\n\\t\\r\\b\\f\\u0001\\u001f\"");
    assert_written("a\0b", 3, "\"a\\u0000b\"");
    assert_written("\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80", 9, "\"\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80\"");
    assert_written("x\xff\xe2\x82", 4, "\"x\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\"");
}

static void test_numbers_are_written(void **state) {
    (void)state;
    struct l4_buf out = {0};
    codec_put_int(&out, 0);
    l4_buf_puts(&out, " ");
    codec_put_int(&out, INT64_MIN);
    l4_buf_puts(&out, " ");
    codec_put_float(&out, -0.25);
    l4_buf_puts(&out, " ");
    codec_put_float(&out, NAN);
    l4_buf_puts(&out, " ");
    codec_put_float(&out, -INFINITY);
    assert_string_equal(out.data, "0 -9223372036854775808 -0.25 null -9999.0");
    l4_buf_free(&out);
}

static void test_values_without_space(void **state) {
    (void)state;
    static const struct {
        const char *text, *want;
    } cases[] = {
        {" { \"a b\" : [ 1 ,\t2.50\n] ,\r\n\"c\\\" \" : null } ", "{\"a b\":[1,2.50],\"c\\\" \":null}"},
        {"\" x \"", "\" x \""},
        {"1e3", "1e3"},
        {"[\"\",\"\\\\\" , true]", "[\"\",\"\\\\\",true]"},
        {"", ""},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct l4_buf out = {0};
        l4_buf_puts(&out, "");
        codec_put_compact(&out, (struct codec_slice){cases[i].text, cases[i].text + strlen(cases[i].text)});
        assert_string_equal(out.data, cases[i].want);
        l4_buf_free(&out);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bodies_that_are_refused),
        cmocka_unit_test(test_an_escaped_backslash_before_u0000_is_text),
        cmocka_unit_test(test_depth_and_number_of_values_are_bounded),
        cmocka_unit_test(test_depth_just_allowed),
        cmocka_unit_test(test_last_of_equal_keys_counts_and_null_is_absent),
        cmocka_unit_test(test_what_is_no_object_has_no_members),
        cmocka_unit_test(test_typed_fields),
        cmocka_unit_test(test_slices_are_the_clients_own_text),
        cmocka_unit_test(test_parameter_paths),
        cmocka_unit_test(test_strings_are_escaped),
        cmocka_unit_test(test_numbers_are_written),
        cmocka_unit_test(test_values_without_space),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
