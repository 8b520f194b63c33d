/* Token masks of a vocabulary of 200,000 made-up tokens: how long each takes, over random answers.
 *
 * Each line is one grammar.  "first": every answer begins with nothing known of the grammar, as the first request with
 * it does; "next": answers follow one another on what is known by then. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "core/grammar/mask.h"
#include "tests/lib/random_data.h"

enum { N_TOKENS = 200000, MAX_BYTES = 64, ANSWER_TOKENS = 200, ANSWERS = 40 };

static char (*texts)[MAX_BYTES];
static uint8_t *text_bytes;

static const char *token_text(const void *ctx, int32_t id, size_t *len_bytes) {
    (void)ctx;
    *len_bytes = text_bytes[id];
    return texts[id];
}

static void put(int32_t id, const char *bytes, size_t n) {
    if (text_bytes[id] + n <= MAX_BYTES) {
        memcpy(texts[id] + text_bytes[id], bytes, n);
        text_bytes[id] = (uint8_t)(text_bytes[id] + n);
    }
}

/* What vocabularies are made of: bytes, words with and without a blank before them, numbers, runs of white space,
 * punctuation of programs, other scripts, and characters cut in two. */
static void make_token(struct rng *rng, int32_t id) {
    static const char *const marks[] = {"\"", "\":", "\",", "{",  "}",   "[",   "]",    ",",   ":",   " ",
                                        "\n", "\\",  "(",   ")",  ";",   "/",   "=",    "-",   "_",   ".",
                                        "'",  "<",   ">",   "\t", "\"}", "\\n", "\\\"", "{\"", "[\"", "],"};
    int64_t kind = rng_below(rng, 100);
    if (id < 256) {
        char byte = (char)id;
        put(id, &byte, 1);
    } else if (kind < 70) { /* a word: syllables make shared beginnings, as real words do */
        if (kind < 40)
            put(id, " ", 1);
        for (int64_t n = 1 + rng_below(rng, 4); n > 0; n--) {
            char syllable[3] = {"bcdfghklmnprstvw"[rng_below(rng, 16)], "aeiou"[rng_below(rng, 5)],
                                "nrstl"[rng_below(rng, 5)]};
            if (kind > 60 && rng_below(rng, 3) == 0)
                syllable[0] = (char)(syllable[0] - 32);
            put(id, syllable, 2 + (size_t)rng_below(rng, 2));
        }
    } else if (kind < 73) {
        for (int64_t n = 1 + rng_below(rng, 3); n > 0; n--)
            put(id, &"0123456789"[rng_below(rng, 10)], 1);
    } else if (kind < 75) {
        if (rng_below(rng, 2))
            put(id, "\n", 1);
        for (int64_t n = 1 + rng_below(rng, MAX_BYTES - 2); n > 0; n--)
            put(id, " ", 1);
    } else if (kind < 85) {
        for (int64_t n = 1 + rng_below(rng, 4); n > 0; n--) {
            const char *mark = marks[rng_below(rng, sizeof marks / sizeof *marks)];
            put(id, mark, strlen(mark));
        }
    } else {
        for (int64_t n = 1 + rng_below(rng, 4); n > 0; n--) {
            unsigned code = kind < 92 ? 0x430 + (unsigned)rng_below(rng, 32) : 0x4E00 + (unsigned)rng_below(rng, 3000);
            char two[2] = {(char)(0xC0 | code >> 6), (char)(0x80 | (code & 63))};
            char three[3] = {(char)(0xE0 | code >> 12), (char)(0x80 | (code >> 6 & 63)), (char)(0x80 | (code & 63))};
            put(id, code < 0x800 ? two : three, code < 0x800 ? 2 : 3 - (kind == 99 && n == 1));
        }
    }
}

/* Of this thread: others on the machine do not count. */
static double now_s(void) {
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static int compare_doubles(const void *a, const void *b) {
    const double *x = a, *y = b;
    return *x < *y ? -1 : *x > *y;
}

/* A random allowed token; every second time rather one of punctuation, so that answers have structure. */
static int32_t draw(struct rng *rng, const struct grammar_mask *mask) {
    int32_t id = -1, wanted = (int32_t)rng_below(rng, 2);
    for (int tries = 0; tries < 64; tries++) {
        int64_t nth = rng_below(rng, mask->n_allowed);
        size_t word = 0;
        for (int64_t n; (n = __builtin_popcountll(mask->bits[word])) <= nth; word++)
            nth -= n;
        uint64_t bits = mask->bits[word];
        while (nth-- > 0)
            bits &= bits - 1;
        id = (int32_t)(64 * word) + __builtin_ctzll(bits);
        if (!wanted || strcspn(texts[id], "\"{}[],:") < text_bytes[id])
            break;
    }
    return id;
}

static double all_times[2][1 << 17];
static size_t n_all[2];

static void print_times(const char *name, bool fresh, double *times, size_t n, double n_computed) {
    qsort(times, n, sizeof *times, compare_doubles);
    printf("%-14s %-5s %6zu masks", name, fresh ? "first" : "next", n);
    if (n_computed >= 0)
        printf(", %4.1f%% computed", 100 * n_computed / (double)n);
    printf(": p50 %7.2f us, p99 %8.2f us, max %8.2f us\n", times[n / 2] * 1e6, times[n * 99 / 100] * 1e6,
           times[n - 1] * 1e6);
}

static int measure(const char *name, struct l4_grammar *grammar, const struct trie_vocab *vocab, bool fresh) {
    static double times[ANSWERS * ANSWER_TOKENS];
    struct rng rng = {1};
    struct grammar_masks *masks = NULL;
    struct grammar_masks_stats stats, all = {0};
    struct l4_err err;
    size_t n = 0;
    for (int answer = 0; answer < ANSWERS; answer++) {
        struct grammar_matcher *m;
        struct grammar_mask mask;
        if ((!masks && grammar_masks_open(&masks, vocab)) || grammar_matcher_open(&m, masks, grammar))
            return 1;
        for (int i = 0; i < ANSWER_TOKENS; i++) {
            double start = now_s();
            if (grammar_matcher_mask(m, &mask, &err)) {
                fprintf(stderr, "%s: %s\n", name, err.message);
                return 1;
            }
            times[n++] = now_s() - start;
            if (mask.n_allowed == 0)
                break;
            int32_t id = draw(&rng, &mask);
            if (grammar_matcher_accept(m, texts[id], text_bytes[id], &err)) {
                fprintf(stderr, "%s: %s\n", name, err.message);
                return 1;
            }
        }
        grammar_matcher_close(m);
        if (fresh || answer + 1 == ANSWERS) {
            grammar_masks_stats(masks, &stats);
            all.n_computed += stats.n_computed;
            all.n_found += stats.n_found;
            grammar_masks_close(masks);
            masks = NULL;
        }
    }
    memcpy(all_times[fresh] + n_all[fresh], times, n * sizeof *times);
    n_all[fresh] += n;
    print_times(name, fresh, times, n, (double)all.n_computed);
    return 0;
}

static struct l4_grammar *compile(const char *text) {
    struct l4_grammar *grammar = NULL;
    struct l4_buf gbnf = {0};
    struct l4_err err;
    int rc = 0;
    if (strcmp(text, "json") == 0)
        l4_grammar_put_json_object(&gbnf);
    else if (*text == '{')
        rc = l4_grammar_from_schema(text, strlen(text), &gbnf, &err);
    else
        l4_buf_puts(&gbnf, text);
    if (rc == 0)
        rc = l4_grammar_open(&grammar, gbnf.data, gbnf.len, &err);
    if (rc)
        fprintf(stderr, "%s\n", err.message);
    l4_buf_free(&gbnf);
    return grammar;
}

int main(void) {
    static const char *const grammars[][2] = {
        {"json object", "json"},
        {"schema", "{\"type\":\"object\",\"properties\":{\"name\":{\"type\":\"string\"},\"age\":{\"type\":\"integer\","
                   "\"minimum\":0,\"maximum\":150},"
                   "\"tags\":{\"type\":\"array\",\"items\":{\"type\":\"string\",\"maxLength\":40}},\"mail\":{\"type\":"
                   "\"string\",\"format\":\"email\"},"
                   "\"kind\":{\"enum\":[\"alpha\",\"beta\",\"gamma\"]},\"score\":{\"type\":\"number\"}},\"required\":["
                   "\"name\",\"age\",\"tags\"],"
                   "\"additionalProperties\":false}"},
        {"recursive",
         "{\"$ref\":\"#/$defs/"
         "n\",\"$defs\":{\"n\":{\"type\":\"object\",\"properties\":{\"text\":{\"type\":\"string\"},\"children\":"
         "{\"type\":\"array\",\"items\":{\"$ref\":\"#/$defs/"
         "n\"}}},\"required\":[\"text\",\"children\"],\"additionalProperties\":false}}}"},
        {"long strings", "{\"type\":\"array\",\"items\":{\"type\":\"string\",\"minLength\":100,\"maxLength\":2000}}"},
        {"pattern",
         "{\"type\":\"array\",\"items\":{\"type\":\"string\",\"pattern\":\"^[A-Z][a-z]+( [a-z]+)*[.!?]$\"}}"},
        {"gbnf", "root ::= line+\nline ::= word (\" \" word)* \"\\n\"\nword ::= [a-zA-Z]+ | [0-9]+ (\".\" [0-9]+)? | "
                 "\"(\" line \")\""},
    };
    struct rng rng = {3};
    struct trie_vocab *vocab;
    int rc = 0;
    texts = calloc(N_TOKENS, sizeof *texts);
    text_bytes = calloc(N_TOKENS, sizeof *text_bytes);
    if (!texts || !text_bytes)
        return 1;
    for (int32_t id = 0; id < N_TOKENS; id++)
        make_token(&rng, id);
    double start = now_s();
    if (trie_open(&vocab, N_TOKENS, token_text, NULL))
        return 1;
    printf("%d tokens, %zu + %zu nodes, read in %.0f ms\n", N_TOKENS, vocab->plain.n_nodes, vocab->rest.n_nodes,
           (now_s() - start) * 1e3);
    for (size_t i = 0; i < sizeof grammars / sizeof *grammars && rc == 0; i++) {
        struct l4_grammar *grammar = compile(grammars[i][1]);
        if (!grammar)
            return 1;
        for (int fresh = 1; fresh >= 0 && rc == 0; fresh--)
            rc = measure(grammars[i][0], grammar, vocab, fresh);
        l4_grammar_close(grammar);
    }
    for (int fresh = 1; fresh >= 0 && rc == 0; fresh--)
        print_times("all of them", fresh, all_times[fresh], n_all[fresh], -1);
    trie_close(vocab);
    free(texts);
    free(text_bytes);
    return rc;
}
