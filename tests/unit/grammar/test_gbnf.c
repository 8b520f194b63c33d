/* GBNF: what a grammar derives, what is refused and where, and masks held against every token tried alone. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/grammar/mask.h"
#include "tests/lib/failmalloc.h"
#include "tests/lib/random_data.h"

/* ---- a vocabulary: all single bytes, and some longer tokens ------------------------------------------------------ */

enum { N_TOKENS = 700 };
static char texts[N_TOKENS][24];
static size_t text_bytes[N_TOKENS];
static struct trie_vocab *vocab;

static const char *token_text(const void *ctx, int32_t id, size_t *len_bytes) {
    (void)ctx;
    *len_bytes = text_bytes[id];
    return id == 256 ? NULL : texts[id]; /* a special token */
}

static int setup(void **state) {
    (void)state;
    static const char *const pieces[] = {"a",
                                         "b",
                                         "ab",
                                         "\"",
                                         "\",",
                                         "{\"",
                                         "}",
                                         "]",
                                         "[",
                                         ": ",
                                         "1",
                                         "23",
                                         "-",
                                         ".",
                                         "e",
                                         " ",
                                         "\n",
                                         "\\",
                                         "\\\"",
                                         "u00",
                                         "\xc3\xa9",
                                         "\xc3",
                                         "\xe4\xb8\xad",
                                         "\xf0\x9f",
                                         "true",
                                         "false",
                                         "null",
                                         ",",
                                         "0",
                                         "x",
                                         "\xed\x9f\xbf",
                                         "name",
                                         "Z",
                                         "}}",
                                         "]]",
                                         "\"}"};
    struct rng rng = {7};
    for (int id = 0; id < N_TOKENS; id++) {
        if (id < 256) {
            texts[id][0] = (char)id;
            text_bytes[id] = 1;
            continue;
        }
        for (int n = 2 + (int)(rng_below(&rng, 3)); n > 0; n--) {
            const char *piece = pieces[rng_below(&rng, sizeof pieces / sizeof *pieces)];
            memcpy(texts[id] + text_bytes[id], piece, strlen(piece));
            text_bytes[id] += strlen(piece);
        }
    }
    return trie_open(&vocab, N_TOKENS, token_text, NULL);
}

static int teardown(void **state) {
    (void)state;
    trie_close(vocab);
    return 0;
}

static struct l4_grammar *compile(const char *gbnf) {
    struct l4_grammar *grammar;
    struct l4_err err;
    if (l4_grammar_open(&grammar, gbnf, strlen(gbnf), &err))
        fail_msg("%s\n%s", gbnf, err.message);
    return grammar;
}

static bool derives(struct l4_grammar *grammar, const char *text) {
    struct grammar_masks *masks;
    struct grammar_matcher *m;
    struct grammar_mask mask = {0};
    assert_int_equal(grammar_masks_open(&masks, vocab), 0);
    assert_int_equal(grammar_matcher_open(&m, masks, grammar), 0);
    bool ok = grammar_matcher_accept(m, text, strlen(text), NULL) == 0;
    if (ok) {
        assert_int_equal(grammar_matcher_mask(m, &mask, NULL), 0);
        ok = mask.may_end;
    }
    grammar_matcher_close(m);
    grammar_masks_close(masks);
    return ok;
}

/* yes and no: texts, NULL at the end. */
static void check(const char *gbnf, const char *const *yes, const char *const *no) {
    struct l4_grammar *grammar = compile(gbnf);
    for (; *yes; yes++)
        if (!derives(grammar, *yes))
            fail_msg("%s\ndoes not derive '%s'", gbnf, *yes);
    for (; *no; no++)
        if (derives(grammar, *no))
            fail_msg("%s\nderives '%s'", gbnf, *no);
    l4_grammar_close(grammar);
}
#define TEXTS(...) ((const char *const[]){__VA_ARGS__, NULL})

static void test_derives(void **state) {
    (void)state;
    check("root ::= \"a\" | \"bc\"", TEXTS("a", "bc"), TEXTS("", "b", "ab", "bcb", "ac"));
    check("root ::= \"\"", TEXTS(""), TEXTS("a"));
    check("root ::= [a-c]+ [^a-c]? # comment\n", TEXTS("a", "abc", "cx", "a\xc3\xa9"), TEXTS("", "x", "axx", "a\xc3"));
    check("root ::= \"ab\"* \"c\"", TEXTS("c", "ababc"), TEXTS("abac", "abab"));
    check("root ::= \"ab\"{2}", TEXTS("abab"), TEXTS("ab", "ababab"));
    check("root ::= \"a\"{1,3} b\nb ::= \"b\"{,2}", TEXTS("a", "aaa", "aab", "aaabb"), TEXTS("", "b", "aaaa", "abbb"));
    check("root ::= (\"a\" | \"b\" \"c\"){2,}", TEXTS("aa", "abc", "bcbcbca"), TEXTS("a", "bcb"));
    check("root ::= \"(\" root \")\" | \"x\"", TEXTS("x", "(x)", "(((x)))"), TEXTS("((x)", "()", "x)"));
    check("root ::= \"a\" root \"b\" | \"a\" root \"c\" | \"\"", TEXTS("ab", "aabc", "aaacbc"),
          TEXTS("a", "abb", "aabcb"));
    check("root ::= (\"a\"? \"b\"?)* \"c\"", TEXTS("c", "abbac"), TEXTS("ab", "ad"));
    check("root ::= (\"a\"?){3} \"b\"", TEXTS("b", "aaab"), TEXTS("aaaab"));
    check("root ::= ((\"a\"*)*)+ \"b\"", TEXTS("b", "aaab"), TEXTS("a"));
    check("root ::=\n  a |\n  \"x\"\n  | \"y\"\na ::= \"z\"", TEXTS("z", "x", "y"), TEXTS("a"));
    check("root ::= \"\\x41\\u00e9\\U0001F600\\n\\\"\\\\\"", TEXTS("A\xc3\xa9\xf0\x9f\x98\x80\n\"\\"), TEXTS("A"));
    check("root ::= [\\]\\-a] [x-]", TEXTS("]x", "--", "ax"), TEXTS("bx", "]]"));
    check("root ::= .", TEXTS("a", "\n", "\xed\x9f\xbf", "\xf4\x8f\xbf\xbf"),
          TEXTS("", "\x80", "\xed\xa0\x80", "\xc0\x80", "\xe0\x80\x80", "\xf4\x90\x80\x80", "\xff"));
    check("root ::= [\xd0\xb0-\xd1\x8f]+", TEXTS("\xd0\xb0\xd0\xb1\xd1\x8f"), TEXTS("\xd0\x90", "a", "\xd1"));
}

static void test_counts(void **state) {
    (void)state;
    struct l4_grammar *grammar = compile("root ::= [a-z]{300,500} \"!\"");
    char text[520];
    for (int n = 0; n < 510; n += n < 295 || (n > 305 && n < 495) ? 5 : 1) {
        memset(text, 'q', (size_t)n);
        memcpy(text + n, "!", 2);
        assert_int_equal(derives(grammar, text), n >= 300 && n <= 500);
    }
    l4_grammar_close(grammar);
}

/* ---- refusals ---------------------------------------------------------------------------------------------------- */

static void refused(const char *gbnf, size_t len_bytes, const char *part) {
    struct l4_grammar *grammar;
    struct l4_err err = {0};
    int rc = l4_grammar_open(&grammar, gbnf, len_bytes, &err);
    if (rc != L4_E_INVALID || !strstr(err.message, part))
        fail_msg("%.200s: expected \"%s\", found %d: %s", gbnf, part, rc, err.message);
    assert_null(grammar);
}

static void test_refused(void **state) {
    (void)state;
    static const char *const cases[][2] = {
        {"", "no rule 'root'"},
        {"a ::= \"x\"", "no rule 'root'"},
        {"root ::= \"x", "line 1, column 10: a text without an end"},
        {"root ::= \"x\"\n  y ::= [a", "line 2, column 9: a class without an end"},
        {"root ::= (\"x\" | \"y\"", "line 1, column 10: a parenthesis that is not closed"},
        {"root ::= \"x\")", "line 1, column 13: a closing parenthesis"},
        {"root ::= \"\xc3\xa9\" nothing", "line 1, column 14: there is no rule 'nothing'"},
        {"root ::= \"a\"\nroot ::= \"b\"", "line 2, column 1: the rule 'root' is there twice"},
        {"root = \"a\"", "line 1, column 1: expected a rule"},
        {"root ::= \"\\q\"", "line 1, column 11: unknown escape"},
        {"root ::= \"\\x4\"", "takes 2 hexadecimal digits"},
        {"root ::= \"\\uD800\"", "U+D800 is not a character"},
        {"root ::= [z-a]", "from U+7A down to U+61"},
        {"root ::= []", "holds no character"},
        {"root ::= \"a\"{3,2}", "at least 3 and at most 2"},
        {"root ::= \"a\"{x}", "a repetition is {m}"},
        {"root ::= \"a\"{}", "a repetition is {m}"},
        {"root ::= \"a\"{9999999}", "more than 1048576 times"},
        {"root ::= ! \"a\"", "expected a text, a class, a name or a group"},
        {"root ::= * \"a\"", "expected a text, a class, a name or a group"},
        {"root ::= root \"a\" | \"b\"", "the rule 'root' is left-recursive"},
        {"root ::= a\na ::= \"x\"? b\nb ::= \"\" a", "can never end"},
        {"root ::= a | \"z\"\na ::= \"x\"? b | \"q\"\nb ::= \"\" a", "is left-recursive"},
        {"root ::= \"a\" root", "the rule 'root' can never end"},
        {"root ::= (\"a\"?){65}", "line 1: a group may be empty: it can be repeated at most 64 times"},
        {"root ::= \"\xff\"", "line 1, column 11: not UTF-8"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        refused(cases[i][0], strlen(cases[i][0]), cases[i][1]);
    refused("root ::= \"\0\"", 12, "a NUL");
}

static void test_bounds(void **state) {
    (void)state;
    size_t n = 2 << 20;
    char *text = malloc(n);
    memset(text, '(', n);
    memcpy(text, "root ::= ", 9);
    refused(text, 60009, "nested deeper than 100");
    memset(text + 9, ' ', n - 9);
    refused(text, n, "allowed are at most 1048576");
    size_t at = 9;
    for (int i = 0; i < L4_GRAMMAR_MAX_RULES; i++, at += 6)
        memcpy(text + at, "(\"a\") ", 6);
    refused(text, at, "more than 16384 rules and groups");
    at = (size_t)sprintf(text, "root ::= ");
    for (int i = 0; i < 5000; i++)
        at += (size_t)sprintf(text + at, "\"\\U%08X\" ", 0x4E00 + i);
    refused(text, at, "more than 4096 different classes");
    at = (size_t)sprintf(text, "root ::= r0\n");
    for (int i = 0; i < 150; i++)
        at += (size_t)sprintf(text + at, "r%d ::= r%d \"x\"\n", i, i + 1);
    at += (size_t)sprintf(text + at, "r150 ::= \"x\"\n");
    refused(text, at, "nests too deep");
    free(text);
}

/* Texts nest up to a bound, and masks never lead past the last place from which there is a way out. */
static void test_depth(void **state) {
    (void)state;
    struct l4_grammar *grammar = compile("root ::= \"[\" root \"]\" | \"x\"");
    struct grammar_masks *masks;
    struct grammar_matcher *m;
    struct grammar_mask mask;
    int n = 0;
    assert_int_equal(grammar_masks_open(&masks, vocab), 0);
    assert_int_equal(grammar_matcher_open(&m, masks, grammar), 0);
    for (;; n++) {
        assert_int_equal(grammar_matcher_mask(m, &mask, NULL), 0);
        assert_true(mask.n_allowed > 0);
        if (!(mask.bits['[' / 64] >> '[' % 64 & 1))
            break;
        assert_int_equal(grammar_matcher_accept(m, "[", 1, NULL), 0);
    }
    assert_int_equal(n, L4_GRAMMAR_MAX_DEPTH);
    assert_int_equal(grammar_matcher_accept(m, "x", 1, NULL), 0);
    for (; n > 0; n--) {
        assert_int_equal(grammar_matcher_mask(m, &mask, NULL), 0);
        assert_false(mask.may_end);
        assert_int_equal(grammar_matcher_accept(m, "]", 1, NULL), 0);
    }
    assert_int_equal(grammar_matcher_mask(m, &mask, NULL), 0);
    assert_true(mask.may_end);
    assert_int_equal(mask.n_allowed, 0);
    grammar_matcher_close(m);
    grammar_masks_close(masks);
    l4_grammar_close(grammar);
}

/* ---- masks ------------------------------------------------------------------------------------------------------- */

/* Random walks: at each step the mask must be what trying every token on a matcher of its own gives. */
static void walk(struct l4_grammar *grammar, struct rng *rng, int n_steps) {
    struct grammar_masks *masks, *other_masks;
    struct grammar_matcher *m;
    struct grammar_mask mask;
    char text[4096];
    size_t len = 0;
    assert_int_equal(grammar_masks_open(&masks, vocab), 0);
    assert_int_equal(grammar_masks_open(&other_masks, vocab), 0);
    assert_int_equal(grammar_matcher_open(&m, masks, grammar), 0);
    for (int step = 0; step < n_steps; step++) {
        assert_int_equal(grammar_matcher_mask(m, &mask, NULL), 0);
        int32_t allowed[N_TOKENS], n = 0;
        for (int32_t id = 0; id < N_TOKENS; id++) {
            struct grammar_matcher *other;
            assert_int_equal(grammar_matcher_open(&other, other_masks, grammar), 0);
            bool ok = grammar_matcher_accept(other, text, len, NULL) == 0 && id != 256 &&
                      grammar_matcher_accept(other, texts[id], text_bytes[id], NULL) == 0;
            grammar_matcher_close(other);
            if (ok != (mask.bits[id / 64] >> id % 64 & 1))
                fail_msg("%s\nafter '%.*s' the mask says %d of '%.*s'", grammar->text, (int)len, text, !ok,
                         (int)text_bytes[id], texts[id]);
            if (ok)
                allowed[n++] = id;
        }
        assert_int_equal(n, mask.n_allowed);
        if (n == 0) {
            assert_true(mask.may_end);
            break;
        }
        int32_t id = allowed[rng_below(rng, n)];
        assert_int_equal(grammar_matcher_accept(m, texts[id], text_bytes[id], NULL), 0);
        memcpy(text + len, texts[id], text_bytes[id]);
        len += text_bytes[id];
    }
    grammar_matcher_close(m);
    grammar_masks_close(masks);
    grammar_masks_close(other_masks);
}

static void test_masks(void **state) {
    (void)state;
    struct l4_buf json = {0};
    l4_grammar_put_json_object(&json);
    const char *const grammars[] = {
        json.data,
        "root ::= .*",
        "root ::= .{3,9}",
        "root ::= \"\\\"\" [^\"\\\\\\x00-\\x1f]{2,20} \"\\\"\"",
        "root ::= [ab\xc3\xa9]{1,6} root?",
        "root ::= \"a\" root \"b\" | \"a\" root \"ab\" | \"\"",
        "root ::= x{2,40}\nx ::= \"a\" | \"b\" x{0,3} \"}\"",
        "root ::= \"[\" (root (\",\" root)*)? \"]\" | [0-9]+",
        "root ::= [a-z]{0,30} | [^\"\\\\\\x00-\\x1f\\x7f]{0,4} \"}\"?",
    };
    struct rng rng = {11};
    for (size_t i = 0; i < sizeof grammars / sizeof *grammars; i++) {
        struct l4_grammar *grammar = compile(grammars[i]);
        for (int round = 0; round < 3; round++)
            walk(grammar, &rng, 25);
        l4_grammar_close(grammar);
    }
    l4_buf_free(&json);
}

/* A mask is computed once a state; what has been forgotten is found again. */
static void test_kept(void **state) {
    (void)state;
    struct l4_grammar *grammar = compile("root ::= \"\\\"\" ([^\"\\\\] | \"\\\\\" .)* \"\\\"\"");
    struct l4_grammar *equal = compile("root ::= \"\\\"\" ([^\"\\\\] | \"\\\\\" .)* \"\\\"\"");
    struct grammar_masks *masks;
    struct grammar_matcher *m, *other;
    struct grammar_mask mask;
    struct grammar_masks_stats stats;
    assert_int_equal(grammar_masks_open(&masks, vocab), 0);
    assert_int_equal(grammar_matcher_open(&m, masks, grammar), 0);
    assert_int_equal(grammar_matcher_open(&other, masks, equal), 0);
    assert_int_equal(grammar_matcher_accept(m, "\"ab", 3, NULL), 0);
    assert_int_equal(grammar_matcher_mask(m, &mask, NULL), 0);
    assert_int_equal(grammar_matcher_accept(m, "cdef", 4, NULL), 0);
    assert_int_equal(grammar_matcher_mask(m, &mask, NULL), 0);
    assert_int_equal(grammar_matcher_accept(other, "\"xyz", 4, NULL), 0);
    assert_int_equal(grammar_matcher_mask(other, &mask, NULL), 0);
    grammar_masks_stats(masks, &stats);
    assert_int_equal(stats.n_computed, 1);
    assert_int_equal(stats.n_found, 2);
    grammar_matcher_close(other);
    grammar_matcher_close(m);
    grammar_masks_close(masks);
    l4_grammar_close(grammar);
    l4_grammar_close(equal);
}

/* Grammars made to be expensive end in an error or a mask, soon. */
static void test_hostile(void **state) {
    (void)state;
    static const char *const grammars[] = {
        "root ::= (([a-z]{1,1000}){1,1000}){1,1000}",
        "root ::= \"a\" root \"a\" | \"a\" root \"b\" | \"a\" root \"ab\" | \"a\"",
        "root ::= (a | a a | a a a)*\na ::= [a-z]{1,100} | [a-z]{1,200}",
        "root ::= ([a-z]* [a-z]* [a-z]*)* \"b\"",
        "root ::= . .++++++++++++ . .",
    };
    for (size_t i = 0; i < sizeof grammars / sizeof *grammars; i++) {
        struct l4_grammar *grammar = compile(grammars[i]);
        struct grammar_masks *masks;
        struct grammar_matcher *m;
        struct grammar_mask mask;
        struct l4_err err;
        assert_int_equal(grammar_masks_open(&masks, vocab), 0);
        assert_int_equal(grammar_matcher_open(&m, masks, grammar), 0);
        for (int n = 0; n < 60; n++) {
            int rc = grammar_matcher_mask(m, &mask, &err);
            if (rc == 0) {
                assert_true(mask.may_end || mask.n_allowed > 0);
                rc = grammar_matcher_accept(m, "a", 1, &err);
            }
            if (rc) {
                assert_int_equal(rc, L4_E_INVALID);
                break;
            }
        }
        grammar_matcher_close(m);
        grammar_masks_close(masks);
        l4_grammar_close(grammar);
    }
}

static void test_nomem(void **state) {
    (void)state;
    static const char gbnf[] = "root ::= \"{\" (\"a\" | [b-c]{1,9} x)* \"}\"\nx ::= \"[\" root? \"]\" | \"q\"";
    FAILMALLOC_EACH(n) {
        struct l4_grammar *grammar;
        struct trie_vocab *words = NULL;
        struct grammar_masks *masks = NULL;
        struct grammar_matcher *m = NULL;
        struct grammar_mask mask;
        struct l4_err err;
        int rc = l4_grammar_open(&grammar, gbnf, strlen(gbnf), &err);
        if (rc == 0)
            rc = trie_open(&words, N_TOKENS, token_text, NULL);
        if (rc == 0)
            rc = grammar_masks_open(&masks, words);
        if (rc == 0)
            rc = grammar_matcher_open(&m, masks, grammar);
        for (const char *p = "{ab[{"; rc == 0 && *p; p++) {
            rc = grammar_matcher_mask(m, &mask, &err);
            if (rc == 0)
                rc = grammar_matcher_accept(m, p, 1, &err);
        }
        bool failed = failmalloc_disarm();
        assert_true(rc == 0 || (failed && rc == L4_E_NOMEM)); /* qsort can do without */
        grammar_matcher_close(m);
        grammar_masks_close(masks);
        trie_close(words);
        l4_grammar_close(grammar);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_derives), cmocka_unit_test(test_counts),  cmocka_unit_test(test_refused),
        cmocka_unit_test(test_bounds),  cmocka_unit_test(test_depth),   cmocka_unit_test(test_masks),
        cmocka_unit_test(test_kept),    cmocka_unit_test(test_hostile), cmocka_unit_test(test_nomem),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
