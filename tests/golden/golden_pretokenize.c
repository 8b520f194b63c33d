/* golden pretokenize: the pieces that a regular expression gives, and a small vocabulary with and without
 * ignore_merges. */
#include <stdlib.h>
#include <string.h>

#include "core/text/pretokenize.h"
#include "core/text/tokenizer.h"
#include "core/text/utf8.h"
#include "llama4/buf.h"
#include "tests/golden/golden.h"

static const cJSON *member(const cJSON *object, const char *key) {
    const cJSON *value = cJSON_GetObjectItemCaseSensitive(object, key);
    if (!value)
        golden_fail("\"%s\" is missing", key);
    return value;
}

/* `text`, or `repeat`: pairs of a text and how often. */
static void read_text(const cJSON *item, struct l4_buf *text) {
    const cJSON *repeat = cJSON_GetObjectItemCaseSensitive(item, "repeat"), *pair;
    l4_buf_puts(text, repeat ? "" : member(item, "text")->valuestring);
    cJSON_ArrayForEach(pair, repeat) {
        for (int i = 0; i < pair->child->next->valueint; i++)
            l4_buf_puts(text, pair->child->valuestring);
    }
}

static int count_characters(const char *text, size_t len_bytes) {
    int n = 0;
    for (size_t i = 0; i < len_bytes; i++)
        n += ((unsigned char)text[i] & 0xC0) != 0x80;
    return n;
}

/* Is the piece what the list says: its text, or its length in characters? */
static bool is_piece(const cJSON *want, const char *piece, size_t len_bytes) {
    if (cJSON_IsNumber(want))
        return count_characters(piece, len_bytes) == want->valueint;
    return cJSON_IsString(want) && strlen(want->valuestring) == len_bytes &&
           memcmp(want->valuestring, piece, len_bytes) == 0;
}

static bool check_case(struct pretoken_scan *scan, const cJSON *item) {
    struct l4_buf text = {0};
    struct l4_err err;
    size_t start = 0, end = 0;
    int rc;
    read_text(item, &text);
    const cJSON *pieces = cJSON_GetObjectItemCaseSensitive(item, "pieces");
    const cJSON *want = (pieces ? pieces : member(item, "lengths"))->child;
    bool same = true;
    pretoken_scan_begin(scan, text.data, text.len);
    while ((rc = pretoken_scan_next(scan, &start, &end, &err)) > 0) {
        same = same && want && is_piece(want, text.data + start, end - start);
        want = want ? want->next : NULL;
    }
    if (rc < 0)
        golden_fail("%s", err.message);
    l4_buf_free(&text);
    return same && !want;
}

static bool check_cases(const cJSON *json) {
    const char *pattern = member(json, "pattern")->valuestring;
    const cJSON *item;
    struct pretokenizer *pretokenizer = NULL;
    struct pretoken_scan scan;
    struct l4_err err;
    size_t n = 0, n_matched = 0;
    if (pretokenizer_open(&pretokenizer, pattern, strlen(pattern), &err) < 0 ||
        pretoken_scan_init(&scan, pretokenizer, &err) < 0)
        golden_fail("%s", err.message);
    cJSON_ArrayForEach(item, member(json, "cases")) {
        n_matched += check_case(&scan, item);
        n++;
    }
    pretoken_scan_fini(&scan);
    pretokenizer_close(pretokenizer);
    return golden_report("cases", n_matched, n);
}

static struct l4_tokenizer *build_tokenizer(const cJSON *small, const char *pattern) {
    struct l4_tokenizer *tokenizer = NULL;
    struct l4_err err;
    const cJSON *item;
    int rc = tokenizer_new(&tokenizer, &err);
    cJSON_ArrayForEach(item, member(small, "vocab")) {
        if (rc == 0)
            rc = tokenizer_add_token(tokenizer, item->valueint, item->string, strlen(item->string), &err);
    }
    cJSON_ArrayForEach(item, member(small, "merges")) {
        const char *left = cJSON_GetArrayItem(item, 0)->valuestring, *right = cJSON_GetArrayItem(item, 1)->valuestring;
        if (rc == 0)
            rc = tokenizer_add_merge(tokenizer, left, strlen(left), right, strlen(right), &err);
    }
    if (rc == 0)
        rc = tokenizer_finish(tokenizer, pattern, strlen(pattern), &err);
    if (rc < 0)
        golden_fail("%s", err.message);
    return tokenizer;
}

static bool check_ignore_merges(const cJSON *json) {
    const cJSON *small = member(json, "ignore_merges"), *item;
    struct l4_tokenizer *tokenizer = build_tokenizer(small, member(json, "pattern")->valuestring);
    size_t n = 0, n_matched = 0;
    cJSON_ArrayForEach(item, member(small, "cases")) {
        const char *text = member(item, "text")->valuestring;
        const cJSON *want = member(item, "ids")->child;
        struct l4_tokens tokens = {0};
        struct l4_err err;
        tokenizer->ignore_merges = cJSON_IsTrue(member(item, "ignore_merges"));
        if (l4_encode(tokenizer, text, strlen(text), 0, &tokens, &err) < 0)
            golden_fail("%s", err.message);
        size_t i = 0;
        for (; i < tokens.len && want && want->valueint == tokens.ids[i]; i++)
            want = want->next;
        n_matched += i == tokens.len && !want;
        n++;
        l4_tokens_free(&tokens);
    }
    l4_tokenizer_close(tokenizer);
    return golden_report("ignore_merges", n_matched, n);
}

int golden_pretokenize(int argc, char **argv) {
    if (argc != 2)
        return GOLDEN_USAGE;
    cJSON *json = golden_read_json(argv[1]);
    bool has_cases = cJSON_HasObjectItem(json, "cases"), has_merges = cJSON_HasObjectItem(json, "ignore_merges");
    if (!has_cases && !has_merges)
        golden_fail("%s: neither cases nor ignore_merges", argv[1]);
    bool ok = !has_cases || check_cases(json);
    ok &= !has_merges || check_ignore_merges(json);
    cJSON_Delete(json);
    return ok ? GOLDEN_OK : GOLDEN_MISMATCH;
}
