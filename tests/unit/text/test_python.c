/* What has to be as Python does it, compared with Python itself (python_cases.py): JSON printed again, broken UTF-8
 * replaced, white space stripped. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/text/utf8.h"
#include "llama4/text.h"

static struct l4_tokenizer *tokenizer;

static int hex_digit(char c) {
    return c <= '9' ? c - '0' : c - 'a' + 10;
}

/* A field of hexadecimal digits, in place; "." is empty, "-" (NULL) an error. */
static char *unhex(char *field, size_t *len_bytes) {
    *len_bytes = 0;
    if (strcmp(field, "-") == 0)
        return NULL;
    if (strcmp(field, ".") == 0)
        return field;
    *len_bytes = strlen(field) / 2;
    for (size_t i = 0; i < *len_bytes; i++)
        field[i] = (char)(hex_digit(field[2 * i]) << 4 | hex_digit(field[2 * i + 1]));
    return field;
}

enum { MAX_FIELDS = 3 };
struct python_case {
    char *fields[MAX_FIELDS];
    size_t len_bytes[MAX_FIELDS];
};

/* Runs check on every case; returns how many there were. */
static size_t for_each_case(const char *kind, size_t n_fields, void (*check)(const struct python_case *)) {
    char command[128], *line = NULL;
    size_t cap = 0, n = 0;
    ssize_t len;
    snprintf(command, sizeof command, "/usr/bin/python3 tests/unit/text/python_cases.py %s", kind);
    FILE *pipe = popen(command, "r");
    assert_non_null(pipe);
    while ((len = getline(&line, &cap, pipe)) > 0) {
        struct python_case item;
        char *rest = line;
        line[len - 1] = '\0';
        for (size_t i = 0; i < n_fields; i++) {
            char *field = strsep(&rest, " ");
            assert_non_null(field);
            item.fields[i] = unhex(field, &item.len_bytes[i]);
        }
        check(&item);
        n++;
    }
    free(line);
    assert_int_equal(pclose(pipe), 0);
    return n;
}

static void assert_field(const struct python_case *item, size_t field, const char *text, size_t len_bytes) {
    if (len_bytes == item->len_bytes[field] && (!len_bytes || memcmp(text, item->fields[field], len_bytes) == 0))
        return;
    fail_msg("for %.*s: expected %.*s, found %.*s", (int)item->len_bytes[0], item->fields[0],
             (int)item->len_bytes[field], item->fields[field], (int)len_bytes, text);
}

static void check_json(const struct python_case *item) {
    for (size_t field = 1; field <= 2; field++) {
        struct l4_buf out = {0};
        struct l4_err err = {0};
        int rc = l4_json_python(item->fields[0], item->len_bytes[0], field == 1 ? 0 : 4, &out, &err);
        if (!item->fields[field]) {
            if (rc != L4_E_INVALID)
                fail_msg("%.*s: not refused", (int)item->len_bytes[0], item->fields[0]);
            assert_true(strncmp(err.message, "byte ", 5) == 0);
            assert_int_equal(out.len, 0);
        } else {
            if (rc != 0)
                fail_msg("%.*s: %s", (int)item->len_bytes[0], item->fields[0], err.message);
            assert_field(item, field, out.data, out.len);
        }
        l4_buf_free(&out);
    }
}

static void test_json(void **state) {
    (void)state;
    assert_true(for_each_case("json", 3, check_json) > 8000);
}

static void check_utf8(const struct python_case *item) {
    struct l4_buf out = {0};
    struct l4_tokens tokens = {0};
    struct l4_detok detok;
    utf8_append_valid(&out, item->fields[0], item->len_bytes[0]);
    assert_field(item, 1, out.data, out.len);
    assert_int_equal(utf8_valid(item->fields[0], item->len_bytes[0]),
                     out.len == item->len_bytes[0] && (!out.len || memcmp(out.data, item->fields[0], out.len) == 0));

    /* The detokenizer sees one byte at a time, and never lets half a character out. */
    l4_buf_clear(&out);
    l4_detok_init(&detok, tokenizer, false);
    for (size_t i = 0; i < item->len_bytes[0]; i++) {
        int32_t id = -1;
        for (int32_t k = 0; k < 256 && id < 0; k++) {
            size_t n;
            const char *bytes = l4_tokenizer_bytes(tokenizer, k, &n);
            id = n == 1 && bytes[0] == item->fields[0][i] ? k : -1;
        }
        l4_detok_push(&detok, id, &out);
        assert_true(utf8_valid(out.data ? out.data : "", out.len));
    }
    l4_detok_finish(&detok, &out);
    assert_field(item, 1, out.data, out.len);

    /* Encoded and decoded again it is what Python makes of it. */
    struct l4_err err;
    l4_buf_clear(&out);
    assert_int_equal(l4_encode(tokenizer, item->fields[0], item->len_bytes[0], 0, &tokens, &err), 0);
    for (size_t i = 0; i < tokens.len; i++)
        l4_detok_push(&detok, tokens.ids[i], &out);
    l4_detok_finish(&detok, &out);
    assert_field(item, 1, out.data, out.len);
    l4_tokens_free(&tokens);
    l4_buf_free(&out);
}

static void test_utf8(void **state) {
    (void)state;
    assert_true(for_each_case("utf8", 2, check_utf8) > 20000);
}

static void check_strip(const struct python_case *item) {
    static const char before[] = "<|begin_of_text|><|header_start|>system<|header_end|>\n\n", after[] = "<|eot|>";
    const struct l4_message message = {.role = "system", .content = {item->fields[0], item->len_bytes[0]}};
    const struct l4_chat chat = {.messages = &message, .n_messages = 1};
    struct l4_tokens tokens = {0};
    struct l4_buf text = {0};
    struct l4_err err;
    assert_int_equal(l4_chat_encode(tokenizer, &chat, &tokens, &text, &err), 0);
    assert_true(text.len >= sizeof before - 1 + sizeof after - 1);
    assert_memory_equal(text.data, before, sizeof before - 1);
    assert_string_equal(text.data + text.len - (sizeof after - 1), after);
    assert_field(item, 1, text.data + sizeof before - 1, text.len - (sizeof before - 1) - (sizeof after - 1));
    l4_tokens_free(&tokens);
    l4_buf_free(&text);
}

static void test_strip(void **state) {
    (void)state;
    assert_true(for_each_case("strip", 2, check_strip) > 12000);
}

static int open_demo(void **state) {
    (void)state;
    return l4_tokenizer_open(&tokenizer, "tests/models/demo/tokenizer.json", NULL);
}

static int close_demo(void **state) {
    (void)state;
    l4_tokenizer_close(tokenizer);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_json),
        cmocka_unit_test(test_utf8),
        cmocka_unit_test(test_strip),
    };
    return cmocka_run_group_tests(tests, open_demo, close_demo);
}
