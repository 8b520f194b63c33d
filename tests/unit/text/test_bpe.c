/* The merge heap against the definition: again and again the merge of lowest rank, leftmost first. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "core/text/bpe.h"

/* A small xorshift: the same words in every run. */
static uint32_t random_below(uint64_t *state, uint32_t n) {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return (uint32_t)(*state >> 33) % n;
}

/* Letters a..d with the ids 0..3, then n_merges random tokens, each made of two others. */
static void random_vocab(struct vocab *vocab, uint64_t *state, size_t n_tokens) {
    char texts[128][64];
    size_t n = 4;
    for (int i = 0; i < 4; i++) {
        texts[i][0] = (char)('a' + i);
        texts[i][1] = '\0';
        assert_int_equal(vocab_add(vocab, i, texts[i], 1, TOKEN_PIECE, NULL), 0);
    }
    for (int tries = 0; n < n_tokens && tries < 10000; tries++) {
        const char *left = texts[random_below(state, (uint32_t)n)], *right = texts[random_below(state, (uint32_t)n)];
        size_t n_left = strlen(left), n_right = strlen(right);
        if (n_left + n_right > 12)
            continue;
        memcpy(texts[n], left, n_left);
        memcpy(texts[n] + n_left, right, n_right + 1);
        if (vocab_find_piece(vocab, texts[n], n_left + n_right) < 0) {
            assert_int_equal(vocab_add(vocab, (int64_t)n, texts[n], n_left + n_right, TOKEN_PIECE, NULL), 0);
            n++;
        }
        assert_int_equal(vocab_add_merge(vocab, left, n_left, right, n_right, NULL), 0);
    }
}

static size_t naive_bpe(const struct vocab *vocab, int32_t *ids, size_t n) {
    for (;;) {
        size_t best = 0;
        const struct vocab_merge *lowest = NULL;
        for (size_t i = 0; i + 1 < n; i++) {
            const struct vocab_merge *merge = vocab_find_merge(vocab, ids[i], ids[i + 1]);
            if (merge && (!lowest || merge->rank < lowest->rank)) {
                lowest = merge;
                best = i;
            }
        }
        if (!lowest)
            return n;
        ids[best] = lowest->merged;
        memmove(ids + best + 1, ids + best + 2, (n - best - 2) * sizeof *ids);
        n--;
    }
}

static void test_against_definition(void **state) {
    (void)state;
    uint64_t seed = 88172645463325252U;
    struct bpe bpe = {0};
    size_t n_merged_words = 0;
    for (int round = 0; round < 30; round++) {
        struct vocab vocab = {0};
        random_vocab(&vocab, &seed, 4 + random_below(&seed, 100));
        for (int word = 0; word < 60; word++) {
            int32_t ids[200], want[200];
            size_t n = 1 + random_below(&seed, 200), n_merged = 0;
            uint32_t letters = 1 + random_below(&seed, 4); /* few letters: many equal pairs, many ties */
            for (size_t i = 0; i < n; i++)
                ids[i] = want[i] = (int32_t)random_below(&seed, letters);
            assert_int_equal(bpe_word(&bpe, &vocab, ids, n, &n_merged, NULL), 0);
            size_t n_want = naive_bpe(&vocab, want, n);
            assert_int_equal(n_merged, n_want);
            assert_memory_equal(ids, want, n_want * sizeof *ids);
            n_merged_words += n_want < n;
        }
        vocab_fini(&vocab);
    }
    assert_true(n_merged_words > 1000);
    bpe_fini(&bpe);
}

/* The heap holds every pair once and what each merge adds: never more than three entries a byte.  That, and a heap's
 * log n a step, is what makes long words cheap; the quadratic definition above would take hours for this one. */
static void test_long_word(void **state) {
    (void)state;
    enum { N = 1 << 19 };
    struct vocab vocab = {0};
    struct bpe bpe = {0};
    char text[65];
    memset(text, 'a', sizeof text);
    for (int i = 0; i <= 6; i++) {
        assert_int_equal(vocab_add(&vocab, i, text, (size_t)1 << i, TOKEN_PIECE, NULL), 0);
        if (i > 0)
            assert_int_equal(vocab_add_merge(&vocab, text, (size_t)1 << (i - 1), text, (size_t)1 << (i - 1), NULL), 0);
    }
    int32_t *ids = calloc(N, sizeof *ids);
    assert_non_null(ids);
    size_t n_merged;
    assert_int_equal(bpe_word(&bpe, &vocab, ids, N, &n_merged, NULL), 0);
    assert_int_equal(n_merged, N / 64);
    for (size_t i = 0; i < n_merged; i++)
        assert_int_equal(ids[i], 6);
    assert_true(bpe.cap_heap <= 4 * (size_t)N + 32);
    free(ids);
    bpe_fini(&bpe);
    vocab_fini(&vocab);
}

/* Of two merges of the same pair the later counts. */
static void test_repeated_merge(void **state) {
    (void)state;
    struct vocab vocab = {0};
    const char *tokens[] = {"a", "b", "c", "ab", "bc"};
    for (int i = 0; i < 5; i++)
        assert_int_equal(vocab_add(&vocab, i, tokens[i], strlen(tokens[i]), TOKEN_PIECE, NULL), 0);
    assert_int_equal(vocab_add_merge(&vocab, "a", 1, "b", 1, NULL), 0);
    assert_int_equal(vocab_add_merge(&vocab, "b", 1, "c", 1, NULL), 0);
    assert_int_equal(vocab_find_merge(&vocab, 0, 1)->rank, 0);
    assert_int_equal(vocab_add_merge(&vocab, "a", 1, "b", 1, NULL), 0);
    assert_int_equal(vocab_find_merge(&vocab, 0, 1)->rank, 2);
    assert_int_equal(vocab.n_merges, 2);
    struct bpe bpe = {0};
    int32_t ids[] = {0, 1, 2};
    size_t n_merged;
    assert_int_equal(bpe_word(&bpe, &vocab, ids, 3, &n_merged, NULL), 0);
    assert_int_equal(n_merged, 2);
    assert_int_equal(ids[0], 0);
    assert_int_equal(ids[1], 4);
    bpe_fini(&bpe);
    vocab_fini(&vocab);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_against_definition),
        cmocka_unit_test(test_long_word),
        cmocka_unit_test(test_repeated_merge),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
