/* Splitting by a regular expression: what the reference cases (golden pretokenize) do not hold. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "core/text/pretokenize.h"
#include "llama4/buf.h"

/* The pieces of text, joined by '|'. */
static char *split(const char *pattern, const char *text) {
    struct pretokenizer *pretokenizer = NULL;
    struct pretoken_scan scan;
    struct l4_err err;
    struct l4_buf out = {0};
    size_t start, end;
    int rc = pretokenizer_open(&pretokenizer, pattern, strlen(pattern), &err);
    if (rc == 0)
        rc = pretoken_scan_init(&scan, pretokenizer, &err);
    if (rc < 0)
        fail_msg("%s", err.message);
    pretoken_scan_begin(&scan, text, strlen(text));
    while ((rc = pretoken_scan_next(&scan, &start, &end, &err)) > 0) {
        if (out.len)
            l4_buf_puts(&out, "|");
        l4_buf_append(&out, text + start, end - start);
    }
    if (rc < 0)
        l4_buf_printf(&out, "error %d", rc);
    pretoken_scan_fini(&scan);
    pretokenizer_close(pretokenizer);
    return l4_buf_take(&out, NULL);
}

static void assert_split(const char *pattern, const char *text, const char *want) {
    char *got = split(pattern, text);
    assert_string_equal(got, want);
    free(got);
}

static void test_between_matches(void **state) {
    (void)state;
    assert_split("\\d+", "ab12c345", "ab|12|c|345");
    assert_split("\\d+", "12ab", "12|ab");
    assert_split("\\d+", "ab", "ab");
    assert_split("\\d+", "", "");
    assert_split("(?<=a)b", "abb", "a|b|b");
}

/* \s is Unicode's White_Space: U+0085 and U+3000 are in, U+180E is not; inside and outside of a class. */
static void test_white_space(void **state) {
    (void)state;
    assert_split("\\s",
                 "a\xC2\x85"
                 "b\xE3\x80\x80"
                 "c\xE1\xA0\x8E"
                 "d\x0B"
                 "e\x1C"
                 "f",
                 "a|\xC2\x85|b|\xE3\x80\x80|c\xE1\xA0\x8E"
                 "d|\x0B|e\x1C"
                 "f");
    assert_split("[^\\s]+",
                 "a\xE1\xA0\x8E"
                 "b c",
                 "a\xE1\xA0\x8E"
                 "b| |c");
    assert_split("[\\S]+",
                 "a\xE1\xA0\x8E"
                 "b c",
                 "a\xE1\xA0\x8E"
                 "b| |c");
    assert_split("\\S+",
                 "a\xE1\xA0\x8E"
                 "b c",
                 "a\xE1\xA0\x8E"
                 "b| |c");
    assert_split("[]\\s]+", "a] b", "a|] |b");
    assert_split("\\\\s", "a\\s b", "a|\\s| b");
}

static void assert_refused(const char *pattern, int code, const char *part) {
    struct pretokenizer *pretokenizer = NULL;
    struct l4_err err;
    assert_int_equal(pretokenizer_open(&pretokenizer, pattern, strlen(pattern), &err), code);
    assert_null(pretokenizer);
    if (!strstr(err.message, part))
        fail_msg("\"%s\" is not in \"%s\"", part, err.message);
}

static void test_refused(void **state) {
    (void)state;
    assert_refused("a(", L4_E_FORMAT, "does not compile: missing closing parenthesis, near byte 2");
    assert_refused("[a", L4_E_FORMAT, "does not compile");
    assert_refused("\\p{Klingon}", L4_E_FORMAT, "does not compile");
    assert_refused("\xFF", L4_E_FORMAT, "does not compile");
    assert_refused("a*", L4_E_UNSUPPORTED, "empty string");
    assert_refused("", L4_E_UNSUPPORTED, "empty string");
    char *large = malloc(70001);
    assert_non_null(large);
    memset(large, 'a', 70000);
    large[70000] = '\0';
    assert_refused(large, L4_E_FORMAT, "70000 bytes: at most 65536");
    memset(large, '(', 70000);
    large[60000] = '\0';
    assert_refused(large, L4_E_FORMAT, "does not compile");
    free(large);
}

/* An expression that backtracks without end is stopped; one that merely needs a deep stack is not. */
static void test_backtracking(void **state) {
    (void)state;
    char text[4001];
    memset(text, 'a', 4000);
    text[4000] = '\0';
    text[3999] = 'b';
    text[40] = 'b';
    assert_split("(a+)+$|c", text, "error -12");
    enum { N = 300000 };
    char *deep = malloc(N + 1);
    assert_non_null(deep);
    memset(deep, 'x', N);
    deep[N] = '\0';
    assert_split("(?:x|y(?=z))+", deep, deep);
    free(deep);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_between_matches),
        cmocka_unit_test(test_white_space),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_backtracking),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
