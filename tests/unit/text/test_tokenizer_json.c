/* tokenizer.json as it should not be: each fault refused with a message that names the place, nothing leaked. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "llama4/text.h"
#include "tests/lib/tempdir.h"

#define SPLIT                                                                                                          \
    "{\"type\":\"Split\",\"pattern\":{\"Regex\":\"\\\\s+|\\\\S+\"},\"behavior\":\"Isolated\",\"invert\":false}"
#define BYTE_LEVEL "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":false}"
#define PRE        "{\"type\":\"Sequence\",\"pretokenizers\":[" SPLIT "," BYTE_LEVEL "]}"
#define DECODER    "{\"type\":\"ByteLevel\"}"
#define TEMPLATE                                                                                                       \
    "{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"<s>\"}},{\"Sequence\":{\"id\":\"A\"}}]," \
    "\"special_tokens\":{\"<s>\":{\"ids\":[300]}}}"
#define ADDED  "[{\"id\":300,\"content\":\"<s>\",\"special\":true},{\"id\":302,\"content\":\"<x>\",\"special\":false}]"
#define MERGES "[\"a b\",[\"ab\",\"c\"]]"
#define BYTES  "@" /* stands for the 256 tokens of single bytes */
#define VOCAB  "{" BYTES ",\"ab\":256,\"abc\":257}"

/* The parts of a file; NULL takes the sound one. */
struct parts {
    const char *normalizer, *pre, *post, *decoder, *added, *model, *vocab, *merges;
};

static struct tempdir dir;

static void put_vocab(FILE *file, const char *vocab) {
    for (; *vocab; vocab++) {
        if (*vocab != '@') {
            fputc(*vocab, file);
            continue;
        }
        for (unsigned byte = 0, other = 256; byte < 256; byte++) {
            bool same = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
            fprintf(file, "%s\"\\u%04x\":%u", byte ? "," : "", same ? byte : other++, byte);
        }
    }
}

static const char * or (const char *part, const char *sound) {
    return part ? part : sound;
}

static const char *write_parts(const struct parts *parts) {
    const char *path = tempdir_file(&dir, "tokenizer.json");
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fprintf(file, "{\"normalizer\":%s,\"pre_tokenizer\":%s,\"post_processor\":%s,\"decoder\":%s,\"added_tokens\":%s,",
            or (parts->normalizer, "null"), or (parts->pre, PRE), or (parts->post, TEMPLATE),
            or (parts->decoder, DECODER), or (parts->added, ADDED));
    fprintf(file, "\"model\":{\"type\":\"BPE\",%s\"vocab\":", or (parts->model, ""));
    put_vocab(file, or (parts->vocab, VOCAB));
    fprintf(file, ",\"merges\":%s}}", or (parts->merges, MERGES));
    assert_int_equal(fclose(file), 0);
    return path;
}

static void assert_path_refused(const char *path, int code, const char *part) {
    struct l4_tokenizer *tokenizer = NULL;
    struct l4_err err = {0};
    int rc = l4_tokenizer_open(&tokenizer, path, &err);
    if (rc != code || err.code != code || !strstr(err.message, part) || !strstr(err.message, path))
        fail_msg("expected %d with \"%s\", found %d: %s", code, part, rc, err.message);
    assert_null(tokenizer);
}

static void assert_refused(struct parts parts, int code, const char *part) {
    assert_path_refused(write_parts(&parts), code, part);
}

static void assert_text_refused(const char *text, const char *part) {
    const char *path = tempdir_file(&dir, "tokenizer.json");
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs(text, file);
    assert_int_equal(fclose(file), 0);
    assert_path_refused(path, L4_E_FORMAT, part);
}

static void test_sound(void **state) {
    (void)state;
    struct l4_tokenizer *tokenizer = NULL;
    struct l4_err err;
    struct l4_tokens tokens = {0};
    if (l4_tokenizer_open(&tokenizer, write_parts(&(struct parts){0}), &err) != 0)
        fail_msg("%s", err.message);
    assert_int_equal(l4_tokenizer_vocab_size(tokenizer), 303);
    assert_int_equal(l4_tokenizer_bos(tokenizer), 300);
    size_t n;
    assert_null(l4_tokenizer_bytes(tokenizer, 301, &n)); /* a gap */
    const char text[] = "abc<s>ab<x>b";
    const int32_t special[] = {300, 257, 300, 256, 302, 'b'};
    assert_int_equal(l4_encode(tokenizer, text, strlen(text), L4_ENCODE_BOS | L4_ENCODE_SPECIAL, &tokens, &err), 0);
    assert_int_equal(tokens.len, 6);
    assert_memory_equal(tokens.ids, special, sizeof special);
    /* An added token that is not special is found always. */
    const int32_t plain[] = {257, '<', 's', '>', 256, 302, 'b'};
    tokens.len = 0;
    assert_int_equal(l4_encode(tokenizer, text, strlen(text), 0, &tokens, &err), 0);
    assert_int_equal(tokens.len, 7);
    assert_memory_equal(tokens.ids, plain, sizeof plain);
    l4_tokens_free(&tokens);
    l4_tokenizer_close(tokenizer);
}

static void test_no_bos(void **state) {
    (void)state;
    static const char *const posts[] = {"null", DECODER, "{\"type\":\"Sequence\",\"processors\":[" DECODER "]}",
                                        "{\"type\":\"TemplateProcessing\",\"single\":[{\"Sequence\":{\"id\":\"A\"}}]}"};
    for (int i = 0; i < 4; i++) {
        struct l4_tokenizer *tokenizer = NULL;
        struct l4_tokens tokens = {0};
        assert_int_equal(l4_tokenizer_open(&tokenizer, write_parts(&(struct parts){.post = posts[i]}), NULL), 0);
        assert_int_equal(l4_tokenizer_bos(tokenizer), -1);
        assert_int_equal(l4_encode(tokenizer, "a", 1, L4_ENCODE_BOS, &tokens, NULL), 0);
        assert_int_equal(tokens.len, 1);
        l4_tokens_free(&tokens);
        l4_tokenizer_close(tokenizer);
    }
}

/* A token that stands in the vocabulary and among the added ones is one token. */
static void test_added_in_vocab(void **state) {
    (void)state;
    struct l4_tokenizer *tokenizer = NULL;
    struct l4_err err;
    const struct parts parts = {.vocab = "{" BYTES ",\"ab\":256,\"abc\":257,\"<s>\":300,\"<x>\":302,\"a b\":303}"};
    if (l4_tokenizer_open(&tokenizer, write_parts(&parts), &err) != 0)
        fail_msg("%s", err.message);
    assert_int_equal(l4_tokenizer_vocab_size(tokenizer), 304);
    assert_true(l4_tokenizer_is_special(tokenizer, 300));
    assert_false(l4_tokenizer_is_special(tokenizer, 302));
    assert_int_equal(l4_tokenizer_find(tokenizer, "<s>"), 300);
    l4_tokenizer_close(tokenizer);
}

static void test_not_json(void **state) {
    (void)state;
    assert_text_refused("", "not JSON");
    assert_text_refused("{\"model\":", "not JSON");
    assert_text_refused("[]", "expected an object, found an array of 0");
    assert_text_refused("{}", "expected an object, found nothing");
    assert_text_refused("{\"model\":1,\"model\":2}", "model stands there twice");
    assert_text_refused("{\"a\":\"\\u0000\"}", "\\u0000");
    char *deep = malloc(100001);
    assert_non_null(deep);
    memset(deep, '[', 100000);
    deep[100000] = '\0';
    assert_text_refused(deep, "nested deeper than");
    free(deep);
    assert_path_refused(tempdir_file(&dir, "nothing.json"), L4_E_NOT_FOUND, "nothing.json");
    assert_path_refused(dir.path, L4_E_IO, dir.path);
}

static void test_huge(void **state) {
    (void)state;
    /* A hole of 300 MB takes no disk; a file of 100 MB of one array is read and refused by its number of values. */
    const char *path = tempdir_file(&dir, "huge.json");
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    assert_int_equal(ftruncate(fileno(file), 300L << 20), 0);
    assert_int_equal(fclose(file), 0);
    assert_path_refused(path, L4_E_FORMAT, "at most 268435456 are accepted");
    char *commas = malloc(100 << 20);
    assert_non_null(commas);
    for (size_t i = 0; i < 100 << 20; i += 2)
        memcpy(commas + i, i ? ",1" : "[1", 2);
    file = fopen(path, "w");
    assert_non_null(file);
    assert_int_equal(fwrite(commas, 1, 100 << 20, file), 100 << 20);
    assert_int_equal(fclose(file), 0);
    free(commas);
    assert_path_refused(path, L4_E_FORMAT, "more than 4194304 values");
    assert_int_equal(unlink(path), 0);
}

static void test_vocab(void **state) {
    (void)state;
    assert_refused((struct parts){.vocab = "[]"}, L4_E_FORMAT, "model.vocab: expected an object, found an array");
    assert_refused((struct parts){.vocab = "null"}, L4_E_FORMAT, "model.vocab: expected an object, found nothing");
    assert_refused((struct parts){.vocab = "{\"a\":\"1\"}"}, L4_E_FORMAT, "\"a\": expected an integer 0..4194303");
    assert_refused((struct parts){.vocab = "{\"a\":-1}"}, L4_E_FORMAT, "found -1");
    assert_refused((struct parts){.vocab = "{\"a\":1.5}"}, L4_E_FORMAT, "found 1.5");
    assert_refused((struct parts){.vocab = "{\"a\":4194304}"}, L4_E_FORMAT, "found 4194304");
    assert_refused((struct parts){.vocab = "{\"a\":1e300}"}, L4_E_FORMAT, "expected an integer");
    assert_refused((struct parts){.vocab = "{\"a\":18446744073709551617}"}, L4_E_FORMAT, "expected an integer");
    assert_refused((struct parts){.vocab = "{\"a\":1,\"b\":1}"}, L4_E_FORMAT, "\"b\": two tokens have the id 1");
    assert_refused((struct parts){.vocab = "{\"a\":1,\"a\":2}"}, L4_E_FORMAT, "1 and 2 have the same text");
    assert_refused((struct parts){.vocab = "{\"\":1}"}, L4_E_FORMAT, "token 1 is empty");
    assert_refused((struct parts){.vocab = "{\"a\":4194303}", .added = "[]", .merges = "[]"}, L4_E_UNSUPPORTED,
                   "no token for the byte 0x00");
    assert_refused((struct parts){.vocab = "{}", .merges = "[]"}, L4_E_UNSUPPORTED, "no token for the byte 0x00");
}

static void test_merges(void **state) {
    (void)state;
    assert_refused((struct parts){.merges = "{}"}, L4_E_FORMAT, "model.merges: expected an array, found an object");
    assert_refused((struct parts){.merges = "[1]"}, L4_E_FORMAT, "model.merges[0]: expected");
    assert_refused((struct parts){.merges = "[\"a b\",\"ab\"]"}, L4_E_FORMAT, "model.merges[1]: expected");
    assert_refused((struct parts){.merges = "[\"a b c\"]"}, L4_E_FORMAT, "model.merges[0]: expected");
    assert_refused((struct parts){.merges = "[[\"a\",\"b\",\"c\"]]"}, L4_E_FORMAT, "found an array of 3");
    assert_refused((struct parts){.merges = "[[\"a\",1]]"}, L4_E_FORMAT, "model.merges[0]: expected");
    assert_refused((struct parts){.merges = "[\"q\\u0120 b\"]"}, L4_E_FORMAT, "first part is not in the vocabulary");
    assert_refused((struct parts){.merges = "[\"a zz\"]"}, L4_E_FORMAT, "second part is not in the vocabulary");
    assert_refused((struct parts){.merges = "[\"b a\"]"}, L4_E_FORMAT, "what it makes is not in the vocabulary");
    assert_refused((struct parts){.merges = "[[\"a\",\"\\u4e00\"]]"}, L4_E_FORMAT, "byte-level alphabet");
    assert_refused((struct parts){.merges = "[[\"\",\"a\"]]"}, L4_E_FORMAT, "first part is not in the vocabulary");
    /* No merge makes a special token: text could forge one. */
    assert_refused((struct parts){.vocab = "{" BYTES ",\"<s\":256,\"<s>\":300}", .merges = "[\"< s\",\"<s >\"]"},
                   L4_E_FORMAT, "model.merges[1]: what it makes");
}

static void test_added(void **state) {
    (void)state;
    assert_refused((struct parts){.added = "{}"}, L4_E_FORMAT, "added_tokens: expected an array");
    assert_refused((struct parts){.added = "[1]"}, L4_E_FORMAT, "added_tokens[0]: expected an object");
    assert_refused((struct parts){.added = "[{\"content\":\"x\"}]"}, L4_E_FORMAT, "added_tokens[0].id: expected");
    assert_refused((struct parts){.added = "[{\"id\":-5,\"content\":\"x\"}]"}, L4_E_FORMAT, "added_tokens[0].id");
    assert_refused((struct parts){.added = "[{\"id\":4194304,\"content\":\"x\"}]"}, L4_E_FORMAT, "found 4194304");
    assert_refused((struct parts){.added = "[{\"id\":300}]"}, L4_E_FORMAT, "token 300 is empty");
    assert_refused((struct parts){.added = "[{\"id\":300,\"content\":7}]"}, L4_E_FORMAT, "content: expected a string");
    assert_refused((struct parts){.added = "[{\"id\":300,\"content\":\"x<\",\"special\":1}]"}, L4_E_FORMAT,
                   "special: expected true or false");
    assert_refused((struct parts){.added = "[{\"id\":256,\"content\":\"<s>\"}]"}, L4_E_FORMAT, "the id 256");
    assert_refused((struct parts){.added = "[{\"id\":300,\"content\":\"ab\"}]"}, L4_E_FORMAT, "text of token 256");
    assert_refused((struct parts){.added = "[{\"id\":300,\"content\":\"<s>\"},{\"id\":301,\"content\":\"<s>\"}]"},
                   L4_E_FORMAT, "added_tokens[1]: the added tokens 300 and 301");
    static const char *const flags[] = {"lstrip", "rstrip", "single_word"};
    for (int i = 0; i < 3; i++) {
        char added[80], part[80];
        snprintf(added, sizeof added, "[{\"id\":300,\"content\":\"<s>\",\"%s\":true}]", flags[i]);
        snprintf(part, sizeof part, "added_tokens[0].%s: expected false, found true", flags[i]);
        assert_refused((struct parts){.added = added}, L4_E_UNSUPPORTED, part);
    }
    char longer[700];
    memset(longer, 'q', sizeof longer);
    longer[snprintf(longer, sizeof longer, "[{\"id\":300,\"content\":\"")] = 'q';
    snprintf(longer + sizeof longer - 8, 8, "\"}]");
    assert_refused((struct parts){.added = longer}, L4_E_FORMAT, "an added token has 1..512 bytes");
}

static void test_components(void **state) {
    (void)state;
    assert_refused((struct parts){.normalizer = "{\"type\":\"NFC\"}"}, L4_E_UNSUPPORTED, "normalizer: expected null");
    assert_refused((struct parts){.decoder = "{\"type\":\"WordPiece\"}"}, L4_E_UNSUPPORTED,
                   "decoder.type: expected \"ByteLevel\", found \"WordPiece\"");
    assert_refused((struct parts){.decoder = "null"}, L4_E_FORMAT, "decoder: expected an object");
    assert_refused((struct parts){.pre = "null"}, L4_E_FORMAT, "pre_tokenizer: expected an object");
    assert_refused((struct parts){.pre = BYTE_LEVEL}, L4_E_UNSUPPORTED, "pre_tokenizer.type: expected \"Sequence\"");
    assert_refused((struct parts){.pre = "{\"type\":\"Sequence\",\"pretokenizers\":7}"}, L4_E_FORMAT,
                   "pre_tokenizer.pretokenizers: expected an array");
    assert_refused((struct parts){.pre = "{\"type\":\"Sequence\",\"pretokenizers\":[" SPLIT "]}"}, L4_E_UNSUPPORTED,
                   "expected Split and ByteLevel, found an array of 1");
    assert_refused((struct parts){.pre = "{\"type\":\"Sequence\",\"pretokenizers\":[" BYTE_LEVEL "," SPLIT "]}"},
                   L4_E_UNSUPPORTED, "pretokenizers[0].type: expected \"Split\"");
    assert_refused((struct parts){.pre = "{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\",\"behavior\":"
                                         "\"Removed\"}," BYTE_LEVEL "]}"},
                   L4_E_UNSUPPORTED, "pretokenizers[0].behavior: expected \"Isolated\"");
    assert_refused((struct parts){.pre = "{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\",\"behavior\":"
                                         "\"Isolated\",\"pattern\":{\"String\":\" \"}}," BYTE_LEVEL "]}"},
                   L4_E_UNSUPPORTED, "pattern.Regex: expected a regular expression");
    assert_refused((struct parts){.pre = "{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\",\"behavior\":"
                                         "\"Isolated\",\"pattern\":{\"Regex\":\"(a\"}}," BYTE_LEVEL "]}"},
                   L4_E_FORMAT, "does not compile");
    assert_refused((struct parts){.pre = "{\"type\":\"Sequence\",\"pretokenizers\":[" SPLIT
                                         ",{\"type\":\"ByteLevel\",\"add_prefix_space\":false}]}"},
                   L4_E_UNSUPPORTED, "pretokenizers[1].use_regex: expected false");
    assert_refused((struct parts){.post = "{\"type\":\"BertProcessing\"}"}, L4_E_UNSUPPORTED, "post_processor.type");
    assert_refused((struct parts){.post = "{\"type\":\"TemplateProcessing\",\"single\":7}"}, L4_E_UNSUPPORTED,
                   "post_processor.single");
    assert_refused((struct parts){.post = "{\"type\":\"TemplateProcessing\",\"single\":[]}"}, L4_E_UNSUPPORTED,
                   "post_processor.single");
    assert_refused((struct parts){.post = "{\"type\":\"TemplateProcessing\",\"single\":[{\"Sequence\":{}},"
                                          "{\"SpecialToken\":{\"id\":\"<s>\"}}]}"},
                   L4_E_UNSUPPORTED, "at most one special token, then the text");
    assert_refused((struct parts){.post = "{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":"
                                          "\"<s>\"}},{\"Sequence\":{}}]}"},
                   L4_E_FORMAT, "post_processor.special_tokens: expected one id");
    assert_refused((struct parts){.post = "{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":"
                                          "\"<s>\"}},{\"Sequence\":{}}],\"special_tokens\":{\"<s>\":{\"ids\":[301]}}}"},
                   L4_E_FORMAT, "there is no token 301");
    assert_refused((struct parts){.model = "\"byte_fallback\":true,"}, L4_E_UNSUPPORTED, "model.byte_fallback");
    assert_refused((struct parts){.model = "\"dropout\":0.5,"}, L4_E_FORMAT, "model.dropout");
    assert_refused((struct parts){.model = "\"end_of_word_suffix\":\"</w>\","}, L4_E_UNSUPPORTED, "end_of_word_suffix");
    assert_refused((struct parts){.model = "\"continuing_subword_prefix\":\"##\","}, L4_E_UNSUPPORTED,
                   "continuing_subword_prefix");
    assert_refused((struct parts){.model = "\"ignore_merges\":1,"}, L4_E_FORMAT, "ignore_merges: expected true or");
    assert_refused((struct parts){.model = "\"type\":\"Unigram\","}, L4_E_FORMAT, "model.type stands there twice");
}

static int make_dir(void **state) {
    (void)state;
    tempdir_init(&dir);
    return 0;
}

static int remove_dir(void **state) {
    (void)state;
    tempdir_fini(&dir);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sound),    cmocka_unit_test(test_no_bos), cmocka_unit_test(test_added_in_vocab),
        cmocka_unit_test(test_not_json), cmocka_unit_test(test_huge),   cmocka_unit_test(test_vocab),
        cmocka_unit_test(test_merges),   cmocka_unit_test(test_added),  cmocka_unit_test(test_components),
    };
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
