/* Encoding and streaming decoding with the demo model's tokenizer. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "core/text/utf8.h"
#include "llama4/text.h"
#include "tests/lib/sanitized.h"

static struct l4_tokenizer *tokenizer;
static int32_t bos, eot;

static struct l4_tokens encode(const char *text, size_t len_bytes, unsigned flags) {
    struct l4_tokens tokens = {0};
    struct l4_err err;
    if (l4_encode(tokenizer, text, len_bytes, flags, &tokens, &err) != 0)
        fail_msg("%s", err.message);
    return tokens;
}

static char *decode(const struct l4_tokens *tokens, bool show_special, size_t *len_bytes) {
    struct l4_detok detok;
    struct l4_buf out = {0};
    l4_detok_init(&detok, tokenizer, show_special);
    for (size_t i = 0; i < tokens->len; i++)
        l4_detok_push(&detok, tokens->ids[i], &out);
    l4_detok_finish(&detok, &out);
    return l4_buf_take(&out, len_bytes);
}

/* Encoded and decoded it is the same; returns the number of tokens. */
static size_t assert_round_trip(const char *text, size_t len_bytes) {
    struct l4_tokens tokens = encode(text, len_bytes, 0);
    size_t n_decoded, n_tokens = tokens.len;
    char *decoded = decode(&tokens, false, &n_decoded);
    assert_int_equal(n_decoded, len_bytes);
    assert_memory_equal(decoded, text, len_bytes);
    for (size_t i = 0; i < tokens.len; i++)
        if (l4_tokenizer_is_special(tokenizer, tokens.ids[i]))
            fail_msg("a special token out of ordinary text");
    free(decoded);
    l4_tokens_free(&tokens);
    return n_tokens;
}

static size_t assert_run(const char *unit, size_t n) {
    size_t unit_bytes = strlen(unit), len_bytes = unit_bytes * n;
    char *text = malloc(len_bytes + 1);
    assert_non_null(text);
    for (size_t i = 0; i < n; i++)
        memcpy(text + i * unit_bytes, unit, unit_bytes);
    size_t n_tokens = assert_round_trip(text, len_bytes);
    free(text);
    return n_tokens;
}

static void test_look_ups(void **state) {
    (void)state;
    size_t n;
    assert_int_equal(l4_tokenizer_vocab_size(tokenizer), 2048);
    assert_int_equal(bos, l4_tokenizer_find(tokenizer, "<|begin_of_text|>"));
    assert_int_equal(bos, 2029);
    assert_int_equal(l4_tokenizer_find(tokenizer, "<|nothing|>"), -1);
    assert_int_equal(l4_tokenizer_find(tokenizer, ""), -1);
    assert_memory_equal(l4_tokenizer_bytes(tokenizer, eot, &n), "<|eot|>", 7);
    assert_int_equal(n, 7);
    int32_t space = l4_tokenizer_find(tokenizer, " ");
    assert_memory_equal(l4_tokenizer_bytes(tokenizer, space, &n), " ", 1);
    assert_int_equal(n, 1);
    const int32_t outside[] = {-1, 2048, INT32_MAX, INT32_MIN};
    for (int i = 0; i < 4; i++) {
        assert_null(l4_tokenizer_bytes(tokenizer, outside[i], &n));
        assert_int_equal(n, 0);
        assert_false(l4_tokenizer_is_special(tokenizer, outside[i]));
    }
    assert_true(l4_tokenizer_is_special(tokenizer, eot));
    assert_false(l4_tokenizer_is_special(tokenizer, space));
}

static void test_special_only_when_asked(void **state) {
    (void)state;
    const char text[] = "a<|eot|>b<|eot|><|eot|";
    struct l4_tokens tokens = encode(text, sizeof text - 1, L4_ENCODE_SPECIAL);
    assert_int_equal(tokens.ids[1], eot);
    assert_int_equal(tokens.ids[3], eot);
    assert_true(tokens.len > 5);
    size_t n;
    char *shown = decode(&tokens, true, &n), *hidden = decode(&tokens, false, &n);
    assert_string_equal(shown, text);
    assert_string_equal(hidden, "ab<|eot|");
    free(shown);
    free(hidden);
    l4_tokens_free(&tokens);
    assert_round_trip(text, sizeof text - 1);
}

static void test_one_bos(void **state) {
    (void)state;
    struct l4_tokens tokens = encode("<|begin_of_text|>hi", 19, L4_ENCODE_SPECIAL | L4_ENCODE_BOS);
    assert_int_equal(tokens.ids[0], bos);
    assert_int_not_equal(tokens.ids[1], bos);
    size_t n = tokens.len;
    /* Appended to what is there; as ordinary text it does not count as one. */
    struct l4_err err;
    assert_int_equal(l4_encode(tokenizer, "hi", 2, L4_ENCODE_BOS, &tokens, &err), 0);
    assert_int_equal(tokens.len, 2 * n);
    assert_memory_equal(tokens.ids, tokens.ids + n, n * sizeof *tokens.ids);
    l4_tokens_free(&tokens);
    tokens = encode("<|begin_of_text|>", 17, L4_ENCODE_BOS);
    assert_int_equal(tokens.ids[0], bos);
    assert_int_not_equal(tokens.ids[1], bos);
    assert_true(tokens.len > 2);
    l4_tokens_free(&tokens);
    tokens = encode("", 0, L4_ENCODE_BOS);
    assert_int_equal(tokens.len, 1);
    l4_tokens_free(&tokens);
}

static void test_nul(void **state) {
    (void)state;
    assert_round_trip("a\0b\0\0", 5);
    assert_round_trip("\0", 1);
    assert_round_trip("", 0);
}

/* 100,000 characters of each class, and mixtures that make the expression walk back. */
static void test_long_runs(void **state) {
    (void)state;
    static const char *const units[] = {"a",
                                        "A",
                                        "aA",
                                        "Aa",
                                        "\xC3\xA9",
                                        "\xC3\x89",
                                        "\xE6\x97\xA5",
                                        "\xCC\x81",
                                        "1",
                                        "\xD9\xA3",
                                        "!",
                                        "'",
                                        "/",
                                        "\n",
                                        "\r\n",
                                        " ",
                                        "\t",
                                        "\xC2\xA0",
                                        "\xE3\x80\x80",
                                        " a",
                                        "a ",

                                        " \n",
                                        "\xE1\xA0\x8E",
                                        "a'll",
                                        "'s",
                                        "x1",
                                        "<|",
                                        "<",
                                        "|>",
                                        "-_",
                                        "<|eot|>\n",
                                        "\xF0\x9F\x98\x80",
                                        "\x01",
                                        "\x7F",
                                        "\xCA\xB0",
                                        "\xC7\x85"};
    const size_t n = SANITIZED ? 20000 : 100000;
    for (size_t i = 0; i < sizeof units / sizeof units[0]; i++)
        assert_true(assert_run(units[i], n) >= n / 8);
}

static void test_ten_megabytes_of_white_space(void **state) {
    (void)state;
    const size_t n = SANITIZED ? 1 << 20 : 10 << 20;
    assert_int_equal(assert_run(" ", n), n / 8); /* eight spaces are the longest token */
}

/* Every way of cutting a text's tokens in two streams out the same, and never half a character. */
static void test_streaming(void **state) {
    (void)state;
    const char text[] =
        "na\xC3\xAFve \xF0\x9F\x98\x80\xF0\x9F\x91\xA9\xE2\x80\x8D\xF0\x9F\x9A\x80 \xE6\x97\xA5\xE6\x9C\xAC ok";
    struct l4_tokens tokens = encode(text, sizeof text - 1, 0);
    struct l4_detok detok;
    struct l4_buf out = {0};
    l4_detok_init(&detok, tokenizer, false);
    size_t n_holding = 0;
    for (size_t i = 0; i < tokens.len; i++) {
        l4_detok_push(&detok, tokens.ids[i], &out);
        assert_true(utf8_valid(out.data ? out.data : "", out.len));
        assert_true(memcmp(out.data ? out.data : "", text, out.len) == 0);
        n_holding += detok.n_held > 0;
        l4_detok_push(&detok, eot, &out); /* dropped, and what is held stays held */
        l4_detok_push(&detok, 5000, &out);
    }
    assert_true(n_holding > 5);
    l4_detok_finish(&detok, &out);
    assert_string_equal(out.data, text);
    l4_buf_clear(&out);

    /* A character that never ends: one replacement where the special token or the end cuts it. */
    const char cut[] = "\xF0\x9F\x98";
    l4_detok_init(&detok, tokenizer, true);
    for (int i = 0; i < 3; i++) {
        char byte[2] = {cut[i], '\0'};
        l4_detok_push(&detok, l4_tokenizer_find(tokenizer, byte), &out);
    }
    assert_int_equal(out.len, 0);
    assert_int_equal(detok.n_held, 3);
    l4_detok_push(&detok, eot, &out);
    assert_string_equal(out.data, UTF8_REPLACEMENT "<|eot|>");
    l4_detok_push(&detok, l4_tokenizer_find(tokenizer, "\xE6"), &out);
    l4_detok_finish(&detok, &out);
    l4_detok_finish(&detok, &out);
    assert_string_equal(out.data, UTF8_REPLACEMENT "<|eot|>" UTF8_REPLACEMENT);
    l4_buf_free(&out);
    l4_tokens_free(&tokens);
}

static int open_demo(void **state) {
    (void)state;
    int rc = l4_tokenizer_open(&tokenizer, "tests/models/demo/tokenizer.json", NULL);
    bos = rc == 0 ? l4_tokenizer_bos(tokenizer) : -1;
    eot = rc == 0 ? l4_tokenizer_find(tokenizer, "<|eot|>") : -1;
    return rc;
}

static int close_demo(void **state) {
    (void)state;
    l4_tokenizer_close(tokenizer);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_look_ups),  cmocka_unit_test(test_special_only_when_asked),
        cmocka_unit_test(test_one_bos),   cmocka_unit_test(test_nul),
        cmocka_unit_test(test_long_runs), cmocka_unit_test(test_ten_megabytes_of_white_space),
        cmocka_unit_test(test_streaming),
    };
    return cmocka_run_group_tests(tests, open_demo, close_demo);
}
