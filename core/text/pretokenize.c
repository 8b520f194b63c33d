#include "core/text/pretokenize.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "llama4/buf.h"

enum {
    PATTERN_MAX_BYTES = 1 << 16,
    JIT_STACK_START_BYTES = 1 << 16,
    JIT_STACK_MAX_BYTES = 1 << 26,
    HEAP_LIMIT_KIB = 1 << 18,
};

struct pretokenizer {
    pcre2_code *code;
};

/* Unicode's White_Space, which Oniguruma means by \s.  PCRE2 adds U+180E to it. */
#define WHITE_SPACE "\\x{9}-\\x{D}\\x{85}\\p{Z}"

/* translate - Oniguruma's pattern in PCRE2's syntax: only \s and \S mean something else. */
static void translate(const char *pattern, size_t len_bytes, struct l4_buf *out) {
    bool in_class = false;
    for (size_t i = 0; i < len_bytes; i++) {
        char c = pattern[i];
        if (c == '\\' && i + 1 < len_bytes) {
            char escaped = pattern[++i];
            if (escaped == 's')
                l4_buf_puts(out, in_class ? WHITE_SPACE : "[" WHITE_SPACE "]");
            else if (escaped == 'S')
                l4_buf_puts(out, in_class ? "\\S\\x{180E}" : "[^" WHITE_SPACE "]");
            else
                l4_buf_append(out, pattern + i - 1, 2);
            continue;
        }
        l4_buf_append(out, &c, 1);
        if (c == '[' && !in_class) {
            in_class = true;
            if (i + 1 < len_bytes && pattern[i + 1] == '^')
                l4_buf_append(out, &pattern[++i], 1);
            if (i + 1 < len_bytes && pattern[i + 1] == ']')
                l4_buf_append(out, &pattern[++i], 1);
        } else if (c == ']') {
            in_class = false;
        }
    }
}

static int compile(struct pretokenizer *pretokenizer, const struct l4_buf *pattern, struct l4_err *err) {
    int code = 0;
    size_t offset = 0;
    pretokenizer->code = pcre2_compile((PCRE2_SPTR)pattern->data, pattern->len,
                                       PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C, &code, &offset, NULL);
    if (!pretokenizer->code && code == PCRE2_ERROR_HEAP_FAILED)
        return l4_err_set(err, L4_E_NOMEM, "out of memory for the regular expression");
    if (!pretokenizer->code) {
        char reason[160];
        pcre2_get_error_message(code, (PCRE2_UCHAR *)reason, sizeof reason);
        return l4_err_set(err, L4_E_FORMAT, "the regular expression does not compile: %s, near byte %zu", reason,
                          offset);
    }
    uint32_t matches_empty = 0;
    pcre2_pattern_info(pretokenizer->code, PCRE2_INFO_MATCHEMPTY, &matches_empty);
    if (matches_empty)
        return l4_err_set(err, L4_E_UNSUPPORTED, "the regular expression can match the empty string");
    /* Without the JIT (a kernel that forbids writable code) the interpreter does the same, slower. */
    (void)pcre2_jit_compile(pretokenizer->code, PCRE2_JIT_COMPLETE);
    return 0;
}

int pretokenizer_open(struct pretokenizer **out, const char *pattern, size_t len_bytes, struct l4_err *err) {
    *out = NULL;
    if (len_bytes > PATTERN_MAX_BYTES)
        return l4_err_set(err, L4_E_FORMAT, "a regular expression of %zu bytes: at most %d are allowed", len_bytes,
                          PATTERN_MAX_BYTES);
    struct pretokenizer *pretokenizer = calloc(1, sizeof *pretokenizer);
    struct l4_buf translated = {0};
    translate(pattern, len_bytes, &translated);
    l4_buf_append(&translated, "", 0);
    int rc = !pretokenizer || translated.failed
                 ? l4_err_set(err, L4_E_NOMEM, "out of memory for the regular expression")
                 : compile(pretokenizer, &translated, err);
    l4_buf_free(&translated);
    if (rc < 0) {
        pretokenizer_close(pretokenizer);
        return rc;
    }
    *out = pretokenizer;
    return 0;
}

void pretokenizer_close(struct pretokenizer *pretokenizer) {
    if (!pretokenizer)
        return;
    pcre2_code_free(pretokenizer->code);
    free(pretokenizer);
}

int pretoken_scan_init(struct pretoken_scan *scan, const struct pretokenizer *pretokenizer, struct l4_err *err) {
    *scan = (struct pretoken_scan){.pretokenizer = pretokenizer};
    scan->match = pcre2_match_data_create(1, NULL);
    scan->context = pcre2_match_context_create(NULL);
    if (!scan->match || !scan->context) {
        pretoken_scan_fini(scan);
        return l4_err_set(err, L4_E_NOMEM, "out of memory for the regular expression");
    }
    pcre2_set_heap_limit(scan->context, HEAP_LIMIT_KIB);
    return 0;
}

void pretoken_scan_fini(struct pretoken_scan *scan) {
    pcre2_match_data_free(scan->match);
    pcre2_match_context_free(scan->context);
    pcre2_jit_stack_free(scan->jit_stack);
    *scan = (struct pretoken_scan){0};
}

void pretoken_scan_begin(struct pretoken_scan *scan, const char *text, size_t len_bytes) {
    scan->text = text;
    scan->len_bytes = len_bytes;
    scan->piece_end = scan->match_start = scan->match_end = 0;
    /* A sane expression tries each place a few times: a run of white space is walked back over twice.  A limit that
     * grows with the text lets any length through and still stops one that backtracks without end. */
    size_t limit = len_bytes < (UINT32_MAX >> 5) ? 1000000 + 16 * len_bytes : UINT32_MAX;
    pcre2_set_match_limit(scan->context, (uint32_t)limit);
}

static int match_at(struct pretoken_scan *scan, size_t at) {
    return pcre2_match(scan->pretokenizer->code, (PCRE2_SPTR)scan->text, scan->len_bytes, at, PCRE2_NO_UTF_CHECK,
                       scan->match, scan->context);
}

/* Find the match at or after piece_end; none counts as one at the end of the text. */
static int find_match(struct pretoken_scan *scan, struct l4_err *err) {
    int rc = match_at(scan, scan->piece_end);
    if (rc == PCRE2_ERROR_JIT_STACKLIMIT && !scan->jit_stack) {
        scan->jit_stack = pcre2_jit_stack_create(JIT_STACK_START_BYTES, JIT_STACK_MAX_BYTES, NULL);
        if (!scan->jit_stack)
            return l4_err_set(err, L4_E_NOMEM, "out of memory for the regular expression");
        pcre2_jit_stack_assign(scan->context, NULL, scan->jit_stack);
        rc = match_at(scan, scan->piece_end);
    }
    scan->match_start = scan->match_end = scan->len_bytes;
    if (rc == PCRE2_ERROR_NOMATCH)
        return 0;
    if (rc == PCRE2_ERROR_NOMEMORY)
        return l4_err_set(err, L4_E_NOMEM, "out of memory for the regular expression");
    if (rc < 0) {
        char reason[160];
        pcre2_get_error_message(rc, (PCRE2_UCHAR *)reason, sizeof reason);
        return l4_err_set(err, L4_E_INTERNAL, "the tokenizer's regular expression gave up: %s", reason);
    }
    const size_t *place = pcre2_get_ovector_pointer(scan->match);
    if (place[1] > place[0] && place[0] >= scan->piece_end) {
        scan->match_start = place[0];
        scan->match_end = place[1];
    }
    return 0;
}

int pretoken_scan_next(struct pretoken_scan *scan, size_t *start, size_t *end, struct l4_err *err) {
    if (scan->piece_end == scan->len_bytes)
        return 0;
    if (scan->match_end <= scan->piece_end) {
        int rc = find_match(scan, err);
        if (rc < 0)
            return rc;
    }
    *start = scan->piece_end;
    *end = scan->match_start > *start ? scan->match_start : scan->match_end;
    scan->piece_end = *end;
    return 1;
}
