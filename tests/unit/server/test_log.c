#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "server/log.h"

/* What comes out on stderr while `write` runs. */
static char *caught(void (*write)(void)) {
    static char text[8192];
    FILE *file = tmpfile();
    assert_non_null(file);
    int saved = dup(STDERR_FILENO);
    dup2(fileno(file), STDERR_FILENO);
    write();
    dup2(saved, STDERR_FILENO);
    close(saved);
    rewind(file);
    text[fread(text, 1, sizeof(text) - 1, file)] = '\0';
    fclose(file);
    return text;
}

static void test_quote(void **state) {
    (void)state;
    static const struct {
        const char *text, *quoted;
    } cases[] = {
        {"", "\"\""},
        {"/v1/models", "\"/v1/models\""},
        {"a\nb\r\t", "\"a\\x0ab\\x0d\\x09\""},
        {"\x1b[2J\x7f", "\"\\x1b[2J\\x7f\""},
        {"say \"a\\b\"", "\"say \\\"a\\\\b\\\"\""},
        {"\xc3\xa4", "\"\\xc3\\xa4\""},
    };
    char out[64];
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        assert_string_equal(log_quote(out, sizeof(out), cases[i].text), cases[i].quoted);
}

static void test_quote_cuts(void **state) {
    (void)state;
    char long_text[200];
    memset(long_text, '\n', sizeof(long_text) - 1);
    long_text[sizeof(long_text) - 1] = '\0';
    for (size_t size = 0; size < 64; size++) {
        char *out = malloc(size + 1); /* exact size: the address sanitizer sees one byte too many */
        assert_non_null(out);
        out[0] = 'x';
        log_quote(out, size, long_text);
        if (size > 0) {
            assert_true(strlen(out) < size);
            assert_true(size < 16 || strcmp(out + strlen(out) - 4, "...\"") == 0);
        }
        free(out);
    }
}

static void write_lines(void) {
    log_set_level("info");
    log_event(L4_LOG_INFO, "req-1", "a=%d\nforged \x1b[2J", 5);
    log_event(L4_LOG_ERROR, NULL, "b");
    log_event(L4_LOG_DEBUG, NULL, "not written");
    log_set_level("no such level");
    log_event(L4_LOG_INFO, NULL, "still written");
    log_set_level("error");
    log_event(L4_LOG_WARN, NULL, "not written");
    log_set_level("debug");
    log_event(L4_LOG_DEBUG, NULL, "written now");
}

static void test_lines(void **state) {
    (void)state;
    char *text = caught(write_lines);
    static const char *const expected[] = {"info  req-1 a=5\\x0aforged \\x1b[2J", "error - b", "info  - still written",
                                           "debug - written now"};
    size_t n = 0;
    for (char *save = NULL, *line = strtok_r(text, "\n", &save); line != NULL; line = strtok_r(NULL, "\n", &save)) {
        assert_true(n < 4);
        assert_int_equal(line[10], 'T');
        assert_int_equal(line[23], 'Z');
        assert_string_equal(line + 25, expected[n++]);
    }
    assert_int_equal(n, 4);
}

static void write_long(void) {
    char message[5000], id[1000];
    memset(message, 1, sizeof(message) - 1);
    message[sizeof(message) - 1] = '\0';
    memset(id, 'i', sizeof(id) - 1);
    id[sizeof(id) - 1] = '\0';
    log_event(L4_LOG_ERROR, id, "%s", message);
}

static void test_long_line(void **state) {
    (void)state;
    const char *text = caught(write_long);
    assert_true(strlen(text) <= 2048);
    assert_ptr_equal(strchr(text, '\n'), text + strlen(text) - 1);
}

static void write_progress(void) {
    log_progress("loading", 0.5);
    log_progress("loading", 1);
}

static void test_no_progress_without_a_terminal(void **state) {
    (void)state;
    assert_string_equal(caught(write_progress), "");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_quote),
        cmocka_unit_test(test_quote_cuts),
        cmocka_unit_test(test_lines),
        cmocka_unit_test(test_long_line),
        cmocka_unit_test(test_no_progress_without_a_terminal),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
