/* Stop strings: found wherever the text is cut, nothing shown too early or twice. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/sched/stop.h"
#include "tests/lib/failmalloc.h"

static struct l4_text text_of(const char *s) {
    return (struct l4_text){s, strlen(s)};
}

static void start(struct stop_matcher *matcher, const char *const *strings, size_t n) {
    struct l4_text texts[16];
    for (size_t i = 0; i < n; i++)
        texts[i] = text_of(strings[i]);
    assert_int_equal(stop_init(matcher, texts, n), 0);
}

/* Pushes the text in pieces of `piece` bytes. */
static void feed(struct stop_matcher *matcher, const char *text, size_t piece, struct l4_buf *out) {
    size_t len = strlen(text);
    for (size_t i = 0; i < len; i += piece)
        stop_push(matcher, text + i, len - i < piece ? len - i : piece, out);
}

static void check(const char *const *strings, size_t n, const char *text, const char *want, int matched) {
    for (size_t piece = 1; piece <= strlen(text); piece++) {
        struct stop_matcher matcher;
        struct l4_buf out = {0};
        start(&matcher, strings, n);
        feed(&matcher, text, piece, &out);
        stop_flush(&matcher, &out);
        assert_int_equal(matcher.matched, matched);
        assert_string_equal(out.data ? out.data : "", want);
        l4_buf_free(&out);
        stop_fini(&matcher);
    }
}
#define CHECK(text, want, matched, ...)                                                                                \
    check((const char *const[]){__VA_ARGS__}, sizeof((const char *const[]){__VA_ARGS__}) / sizeof(char *), text, want, \
          matched)

static void finds_strings_across_pieces(void **state) {
    (void)state;
    CHECK("hello world", "hello", 0, " world");
    CHECK("hello world", "hello world", -1, "worlds");
    CHECK("aaab", "a", 0, "aab"); /* the match is not where the first beginning was */
    CHECK("abababac", "abab", 0, "abac");
    CHECK("x", "", 0, "x");
    CHECK("\xc3\xa9t\xc3\xa9 fini", "\xc3\xa9t", 0, "\xc3\xa9 ");
}

static void first_complete_match_wins(void **state) {
    (void)state;
    CHECK("abcd", "a", 1, "abcd", "bc"); /* bc is complete first */
    CHECK("abcd", "", 1, "bcd", "abcd"); /* together: the longer */
    CHECK("say stop", "say ", 0, "stop", "op");
    CHECK("say stop", "say ", 1, "op", "stop");
}

static void holds_back_no_more_than_a_beginning(void **state) {
    (void)state;
    struct stop_matcher matcher;
    struct l4_buf out = {0};
    start(&matcher, (const char *const[]){"\n\nUser:", "END"}, 2);
    stop_push(&matcher, "one\n", 4, &out);
    assert_string_equal(out.data, "one");
    stop_push(&matcher, "two E", 5, &out);
    assert_string_equal(out.data, "one\ntwo ");
    stop_push(&matcher, "NOUGH", 5, &out);
    assert_string_equal(out.data, "one\ntwo ENOUGH");
    stop_push(&matcher, "\n\nUse", 5, &out);
    assert_string_equal(out.data, "one\ntwo ENOUGH");
    stop_flush(&matcher, &out);
    assert_string_equal(out.data, "one\ntwo ENOUGH\n\nUse");
    l4_buf_free(&out);
    stop_fini(&matcher);
}

static void without_strings_text_passes(void **state) {
    (void)state;
    struct stop_matcher matcher;
    struct l4_buf out = {0};
    assert_int_equal(stop_init(&matcher, NULL, 0), 0);
    stop_push(&matcher, "as it is", 8, &out);
    stop_flush(&matcher, &out);
    assert_string_equal(out.data, "as it is");
    l4_buf_free(&out);
    stop_fini(&matcher);
}

/* What the definition says, in the plainest way. */
static int naive(const char *text, size_t len, const struct l4_text *strings, size_t n, size_t *begin) {
    for (size_t end = 1; end <= len; end++) {
        int best = -1;
        for (size_t i = 0; i < n; i++)
            if (strings[i].len_bytes <= end && (best < 0 || strings[i].len_bytes > strings[best].len_bytes) &&
                memcmp(text + end - strings[i].len_bytes, strings[i].data, strings[i].len_bytes) == 0)
                best = (int)i;
        if (best >= 0) {
            *begin = end - strings[best].len_bytes;
            return best;
        }
    }
    *begin = len;
    return -1;
}

/* Random texts over two letters, where beginnings overlap all the time. */
static void agrees_with_the_definition(void **state) {
    (void)state;
    srand(1);
    for (int round = 0; round < 3000; round++) {
        char text[64], storage[4][8];
        struct l4_text strings[4];
        size_t n = 1 + (size_t)rand() % 4, len = (size_t)rand() % sizeof text, begin;
        for (size_t i = 0; i < len; i++)
            text[i] = (char)('a' + rand() % 2);
        for (size_t i = 0; i < n; i++) {
            strings[i] = (struct l4_text){storage[i], 2 + (size_t)rand() % 6};
            for (size_t j = 0; j < strings[i].len_bytes; j++)
                storage[i][j] = (char)('a' + rand() % 2);
        }
        int want = naive(text, len, strings, n, &begin);
        struct stop_matcher matcher;
        struct l4_buf out = {0};
        assert_int_equal(stop_init(&matcher, strings, n), 0);
        for (size_t i = 0; i < len;) {
            size_t piece = 1 + (size_t)rand() % 5;
            piece = piece > len - i ? len - i : piece;
            stop_push(&matcher, text + i, piece, &out);
            i += piece;
        }
        stop_flush(&matcher, &out);
        if (want < 0 || strings[want].len_bytes != strings[matcher.matched].len_bytes)
            assert_int_equal(matcher.matched, want); /* equal strings: either name is right */
        assert_int_equal(out.len, begin);
        assert_memory_equal(out.data ? out.data : "", text, begin);
        l4_buf_free(&out);
        stop_fini(&matcher);
    }
}

static void thousands_of_bytes(void **state) {
    (void)state;
    enum { N = 4096 };
    char *pattern = malloc(N), *text = malloc(2 * N);
    memset(pattern, 'a', N);
    memset(text, 'a', 2 * N);
    pattern[N - 1] = 'b';
    text[2 * N - 1] = 'b';
    struct stop_matcher matcher;
    struct l4_buf out = {0};
    assert_int_equal(stop_init(&matcher, &(struct l4_text){pattern, N}, 1), 0);
    for (size_t i = 0; i < 2 * N; i++)
        stop_push(&matcher, text + i, 1, &out);
    assert_int_equal(matcher.matched, 0);
    assert_int_equal(out.len, N);
    l4_buf_free(&out);
    stop_fini(&matcher);
    free(pattern);
    free(text);
}

static void running_out_of_memory_is_told(void **state) {
    (void)state;
    struct stop_matcher matcher;
    struct l4_text strings[2] = {text_of("one"), text_of("two")};
    FAILMALLOC_EACH(n) {
        int rc = stop_init(&matcher, strings, 2);
        if (failmalloc_disarm()) {
            assert_int_equal(rc, L4_E_NOMEM);
            continue;
        }
        assert_int_equal(rc, 0);
    }
    struct l4_buf out = {0};
    failmalloc_arm(1);
    stop_push(&matcher, "o", 1, &out);
    assert_true(failmalloc_disarm());
    assert_true(matcher.held.failed);
    l4_buf_free(&out);
    stop_fini(&matcher);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(finds_strings_across_pieces),         cmocka_unit_test(first_complete_match_wins),
        cmocka_unit_test(holds_back_no_more_than_a_beginning), cmocka_unit_test(without_strings_text_passes),
        cmocka_unit_test(agrees_with_the_definition),          cmocka_unit_test(thousands_of_bytes),
        cmocka_unit_test(running_out_of_memory_is_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
