/* The n-th allocation fails, for every n: an error and nothing lost, in opening, encoding and templating. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "llama4/text.h"
#include "tests/lib/failmalloc.h"
#include "tests/lib/tempdir.h"

/* Small, so that every allocation of opening it can be failed in turn: 256 bytes, a merge, two added tokens. */
static void write_tokenizer(const char *path) {
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs("{\"added_tokens\":[{\"id\":300,\"content\":\"<|begin_of_text|>\",\"special\":true},"
          "{\"id\":301,\"content\":\"<|header_start|>\",\"special\":true},"
          "{\"id\":302,\"content\":\"<|header_end|>\",\"special\":true},"
          "{\"id\":303,\"content\":\"<|eot|>\",\"special\":true},"
          "{\"id\":304,\"content\":\"<|python_start|>\",\"special\":true},"
          "{\"id\":305,\"content\":\"<|python_end|>\",\"special\":true}],"
          "\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\",\"pattern\":{\"Regex\":"
          "\"\\\\s+|\\\\S+\"},\"behavior\":\"Isolated\"},{\"type\":\"ByteLevel\",\"add_prefix_space\":false,"
          "\"use_regex\":false}]},\"decoder\":{\"type\":\"ByteLevel\"},\"model\":{\"type\":\"BPE\",\"vocab\":{",
          file);
    for (unsigned byte = 0, other = 256; byte < 256; byte++) {
        bool same = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
        fprintf(file, "\"\\u%04x\":%u,", same ? byte : other++, byte);
    }
    fputs("\"ab\":256},\"merges\":[\"a b\"]}}", file);
    assert_int_equal(fclose(file), 0);
}

static void test_open(void **state) {
    (void)state;
    struct tempdir dir;
    tempdir_init(&dir);
    const char *path = tempdir_file(&dir, "tokenizer.json");
    write_tokenizer(path);
    size_t n_failed = 0;
    FAILMALLOC_EACH(n) {
        struct l4_tokenizer *tokenizer = NULL;
        struct l4_err err = {0};
        int rc = l4_tokenizer_open(&tokenizer, path, &err);
        bool failed = failmalloc_disarm();
        if (rc < 0) {
            assert_true(failed);
            assert_null(tokenizer);
            assert_true(err.message[0] != '\0');
            n_failed++;
        } else {
            assert_int_equal(l4_tokenizer_vocab_size(tokenizer), 306);
            assert_int_equal(l4_tokenizer_find(tokenizer, "ab"), 256);
        }
        l4_tokenizer_close(tokenizer);
    }
    assert_true(n_failed > 200); /* every value of the file is an allocation */
    tempdir_fini(&dir);
}

static struct l4_tokenizer *open_demo(void) {
    struct l4_tokenizer *tokenizer = NULL;
    struct l4_err err;
    if (l4_tokenizer_open(&tokenizer, "tests/models/demo/tokenizer.json", &err) != 0)
        fail_msg("%s", err.message);
    return tokenizer;
}

/* tokens held one id before: a failed call leaves just that. */
static bool is_as_before(int rc, const struct l4_err *err, const struct l4_tokens *tokens) {
    return rc == L4_E_NOMEM && err->code == L4_E_NOMEM && tokens->len == 1 && tokens->ids[0] == 7;
}

static void test_encode(void **state) {
    (void)state;
    struct l4_tokenizer *tokenizer = open_demo();
    const char text[] = "Once upon\xff a time <|eot|> unbelievablylongword    \n\n 12345";
    size_t n_failed = 0;
    FAILMALLOC_EACH(n) {
        struct l4_tokens tokens = {0};
        struct l4_err err;
        failmalloc_disarm();
        assert_int_equal(l4_tokens_push(&tokens, 7), 0);
        failmalloc_arm(n);
        int rc = l4_encode(tokenizer, text, sizeof text - 1, L4_ENCODE_BOS | L4_ENCODE_SPECIAL, &tokens, &err);
        bool failed = failmalloc_disarm();
        assert_true(failed ? rc == 0 || is_as_before(rc, &err, &tokens) : rc == 0);
        n_failed += rc < 0;
        l4_tokens_free(&tokens);
    }
    assert_true(n_failed >= 5);
    l4_tokenizer_close(tokenizer);
}

static void test_chat(void **state) {
    (void)state;
    struct l4_tokenizer *tokenizer = open_demo();
    const struct l4_text tool = {"{\"name\": \"f\", \"n\": [1, 2.5, {\"a\": 1, \"a\": 2}]}", 46};
    const struct l4_tool_call call = {{"f", 1}, {"{\"x\": 1}", 8}};
    const struct l4_message messages[] = {
        {.role = "system", .content = {" be kind ", 9}},
        {.role = "user", .content = {" hello\xff", 7}},
        {.role = "assistant", .content = {"", 0}, .tool_calls = &call, .n_tool_calls = 1},
        {.role = "tool", .content = {"\"done\"", 6}},
    };
    const struct l4_chat chat = {messages, 4, &tool, 1, true, false};
    size_t n_failed = 0;
    FAILMALLOC_EACH(n) {
        struct l4_tokens tokens = {0};
        struct l4_buf text = {0};
        struct l4_err err;
        failmalloc_disarm();
        assert_int_equal(l4_tokens_push(&tokens, 7), 0);
        failmalloc_arm(n);
        int rc = l4_chat_encode(tokenizer, &chat, &tokens, &text, &err);
        bool failed = failmalloc_disarm();
        assert_true(failed ? rc == 0 || is_as_before(rc, &err, &tokens) : rc == 0);
        assert_true(rc == 0 ? text.len > 0 : text.len == 0);
        n_failed += rc < 0;
        l4_tokens_free(&tokens);
        l4_buf_free(&text);
    }
    assert_true(n_failed >= 20);
    l4_tokenizer_close(tokenizer);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_open),
        cmocka_unit_test(test_encode),
        cmocka_unit_test(test_chat),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
