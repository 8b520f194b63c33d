/* GBNF text to struct l4_grammar. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

#include "core/base/checked.h"
#include "core/grammar/grammar.h"
#include "core/text/utf8.h"

enum { MAX_CHARSETS = 4096 };

struct parser {
    struct l4_grammar *grammar;
    const char *text;
    size_t len_bytes, at;
    int depth;
    /* Of the alternatives that are being read, innermost last. */
    struct grammar_element *open;
    size_t n_open, cap_open;
    uint32_t *open_alts;
    size_t n_open_alts, cap_open_alts;
    struct grammar_range *ranges; /* of the class that is being read */
    size_t cap_ranges;
    uint32_t *names; /* hash table of rules by name: index + 1 */
    size_t n_name_slots;
    uint32_t ascii[128]; /* charset + 1 of a single character */
    struct l4_err *err;
};

/* ---- errors ------------------------------------------------------------------------------------------------------ */

static int fail(const struct parser *parser, size_t at, const char *fmt, ...) L4_PRINTF(3, 4);
static int fail(const struct parser *parser, size_t at, const char *fmt, ...) {
    size_t line = 1, begin = 0, column = 1;
    for (size_t i = 0; i < at; i++)
        if (parser->text[i] == '\n') {
            line++;
            begin = i + 1;
        }
    for (size_t i = begin; i < at; i++)
        column += ((unsigned char)parser->text[i] & 0xC0) != 0x80;
    char reason[256];
    va_list args;
    va_start(args, fmt);
    vsnprintf(reason, sizeof reason, fmt, args);
    va_end(args);
    return l4_err_set(parser->err, L4_E_INVALID, "line %zu, column %zu: %s", line, column, reason);
}

static int no_memory(const struct parser *parser) {
    return l4_err_set(parser->err, L4_E_NOMEM, "no memory for a grammar of %zu bytes", parser->len_bytes);
}

/* ---- characters -------------------------------------------------------------------------------------------------- */

static char peek(const struct parser *parser) {
    return parser->at < parser->len_bytes ? parser->text[parser->at] : '\0';
}

static bool is_name(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '_';
}

static void skip_space(struct parser *parser) {
    for (;; parser->at++) {
        char c = peek(parser);
        if (c == '#')
            while (parser->at < parser->len_bytes && parser->text[parser->at] != '\n')
                parser->at++;
        else if (c != ' ' && c != '\t' && c != '\n' && c != '\r')
            return;
        if (parser->at >= parser->len_bytes)
            return;
    }
}

static int parse_hex(struct parser *parser, size_t start, int n_digits, uint32_t *code) {
    *code = 0;
    for (int i = 0; i < n_digits; i++, parser->at++) {
        char c = peek(parser);
        int digit = c >= '0' && c <= '9'   ? c - '0'
                    : c >= 'a' && c <= 'f' ? c - 'a' + 10
                    : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                           : -1;
        if (digit < 0)
            return fail(parser, start, "this escape takes %d hexadecimal digits", n_digits);
        *code = *code * 16 + (uint32_t)digit;
    }
    if (*code > 0x10FFFF || (*code >= 0xD800 && *code <= 0xDFFF))
        return fail(parser, start, "U+%X is not a character", (unsigned)*code);
    return 0;
}

/* A character of a text or a class, escaped or not. */
static int parse_char(struct parser *parser, uint32_t *code) {
    size_t start = parser->at, n;
    if (start == parser->len_bytes)
        return fail(parser, start, "the grammar ends inside a text or a class");
    if (parser->text[start] != '\\') {
        (void)utf8_next(parser->text + start, parser->len_bytes - start, &n); /* the text was checked */
        *code = utf8_decode(parser->text + start, n);
        parser->at += n;
        return 0;
    }
    parser->at++;
    char c = peek(parser);
    static const char from[] = "nrt\\\"[]-^'/", to[] = "\n\r\t\\\"[]-^'/";
    const char *found = c ? strchr(from, c) : NULL;
    if (!found && c != 'x' && c != 'u' && c != 'U')
        return fail(parser, start, "unknown escape");
    parser->at++;
    if (!found)
        return parse_hex(parser, start, c == 'x' ? 2 : c == 'u' ? 4 : 8, code);
    *code = (unsigned char)to[found - from];
    return 0;
}

/* ---- parts of the grammar ---------------------------------------------------------------------------------------- */

static int put_element(struct parser *parser, enum grammar_kind kind, uint32_t arg) {
    if (!checked_grow((void **)&parser->open, &parser->cap_open, parser->n_open + 1, sizeof *parser->open))
        return no_memory(parser);
    parser->open[parser->n_open++] = (struct grammar_element){.kind = kind, .arg = arg, .min = 1, .max = 1};
    return 0;
}

static int put_charset(struct parser *parser, struct grammar_range *ranges, size_t n, bool negated) {
    uint32_t charset;
    int rc = grammar_charset_add(parser->grammar, ranges, n, negated, &charset, parser->err);
    if (rc == 0 && parser->grammar->n_charsets > MAX_CHARSETS)
        return fail(parser, parser->at, "more than %d different classes and characters", MAX_CHARSETS);
    return rc ? rc : put_element(parser, GRAMMAR_CHARS, charset);
}

static int put_char(struct parser *parser, uint32_t code) {
    if (code < 128 && parser->ascii[code])
        return put_element(parser, GRAMMAR_CHARS, parser->ascii[code] - 1);
    struct grammar_range range = {code, code};
    int rc = put_charset(parser, &range, 1, false);
    if (rc == 0 && code < 128)
        parser->ascii[code] = parser->open[parser->n_open - 1].arg + 1;
    return rc;
}

static int add_rule(struct parser *parser, size_t name, size_t name_bytes, uint32_t *rule) {
    struct l4_grammar *grammar = parser->grammar;
    if (grammar->n_rules == L4_GRAMMAR_MAX_RULES)
        return fail(parser, name, "more than %d rules and groups", L4_GRAMMAR_MAX_RULES);
    if (!checked_grow((void **)&grammar->rules, &grammar->cap_rules, grammar->n_rules + 1, sizeof *grammar->rules))
        return no_memory(parser);
    *rule = (uint32_t)grammar->n_rules;
    grammar->rules[grammar->n_rules++] = (struct grammar_rule){
        .name = (uint32_t)name, .name_bytes = (uint32_t)name_bytes, .used_at = (uint32_t)name, .defined = !name_bytes};
    return 0;
}

/* The rule named by these bytes of the text, a new one where there is none yet. */
static int find_rule(struct parser *parser, size_t name, size_t name_bytes, uint32_t *rule) {
    size_t mask = parser->n_name_slots - 1, slot = (size_t)XXH3_64bits(parser->text + name, name_bytes) & mask;
    for (; parser->names[slot]; slot = (slot + 1) & mask) {
        const struct grammar_rule *known = &parser->grammar->rules[parser->names[slot] - 1];
        if (known->name_bytes == name_bytes &&
            memcmp(parser->text + known->name, parser->text + name, name_bytes) == 0) {
            *rule = parser->names[slot] - 1;
            return 0;
        }
    }
    int rc = add_rule(parser, name, name_bytes, rule);
    if (rc == 0)
        parser->names[slot] = *rule + 1;
    return rc;
}

/* The elements from `from` on are an alternative: move them to the grammar. */
static int close_alternative(struct parser *parser, size_t from) {
    struct l4_grammar *grammar = parser->grammar;
    int rc = put_element(parser, GRAMMAR_END, 0);
    size_t n = parser->n_open - from;
    if (rc)
        return rc;
    if (!checked_grow((void **)&grammar->elements, &grammar->cap_elements, grammar->n_elements + n,
                      sizeof *grammar->elements) ||
        !checked_grow((void **)&parser->open_alts, &parser->cap_open_alts, parser->n_open_alts + 1,
                      sizeof *parser->open_alts))
        return no_memory(parser);
    memcpy(grammar->elements + grammar->n_elements, parser->open + from, n * sizeof *parser->open);
    parser->open_alts[parser->n_open_alts++] = (uint32_t)grammar->n_elements;
    grammar->n_elements += n;
    parser->n_open = from;
    return 0;
}

/* The alternatives from `from` on are a rule's. */
static int close_rule(struct parser *parser, uint32_t rule, size_t from) {
    struct l4_grammar *grammar = parser->grammar;
    size_t n = parser->n_open_alts - from;
    if (!checked_grow((void **)&grammar->alts, &grammar->cap_alts, grammar->n_alts + n, sizeof *grammar->alts))
        return no_memory(parser);
    memcpy(grammar->alts + grammar->n_alts, parser->open_alts + from, n * sizeof *grammar->alts);
    grammar->rules[rule].first_alt = (uint32_t)grammar->n_alts;
    grammar->rules[rule].n_alts = (uint32_t)n;
    grammar->rules[rule].defined = true;
    grammar->n_alts += n;
    parser->n_open_alts = from;
    return 0;
}

/* What was read from `from` on becomes one element: a group. */
static int wrap(struct parser *parser, size_t from) {
    uint32_t rule;
    size_t alts = parser->n_open_alts;
    int rc;
    if ((rc = add_rule(parser, parser->at, 0, &rule)) || (rc = close_alternative(parser, from)) ||
        (rc = close_rule(parser, rule, alts)))
        return rc;
    return put_element(parser, GRAMMAR_CALL, rule);
}

/* ---- items ------------------------------------------------------------------------------------------------------- */

static int parse_text(struct parser *parser) {
    size_t start = parser->at++;
    uint32_t code;
    int rc;
    while (peek(parser) != '"') {
        if (parser->at >= parser->len_bytes || peek(parser) == '\n')
            return fail(parser, start, "a text without an end");
        if ((rc = parse_char(parser, &code)) || (rc = put_char(parser, code)))
            return rc;
    }
    parser->at++;
    return 0;
}

static int parse_class(struct parser *parser) {
    size_t start = parser->at++, n = 0;
    bool negated = peek(parser) == '^';
    parser->at += negated;
    while (peek(parser) != ']') {
        if (parser->at >= parser->len_bytes || peek(parser) == '\n')
            return fail(parser, start, "a class without an end");
        uint32_t low, high;
        size_t at = parser->at;
        int rc = parse_char(parser, &low);
        if (rc)
            return rc;
        high = low;
        if (peek(parser) == '-' && parser->at + 1 < parser->len_bytes && parser->text[parser->at + 1] != ']') {
            parser->at++;
            if ((rc = parse_char(parser, &high)))
                return rc;
        }
        if (low > high)
            return fail(parser, at, "a range that goes from U+%X down to U+%X", (unsigned)low, (unsigned)high);
        if (!checked_grow((void **)&parser->ranges, &parser->cap_ranges, n + 1, sizeof *parser->ranges))
            return no_memory(parser);
        parser->ranges[n++] = (struct grammar_range){low, high};
    }
    parser->at++;
    if (n == 0 && !negated)
        return fail(parser, start, "a class that holds no character");
    return put_charset(parser, parser->ranges, n, negated);
}

static int parse_alternatives(struct parser *parser, uint32_t rule);

static int parse_group(struct parser *parser) {
    size_t start = parser->at++;
    uint32_t rule;
    int rc;
    if (++parser->depth > L4_GRAMMAR_MAX_NESTING)
        return fail(parser, start, "parentheses nested deeper than %d", L4_GRAMMAR_MAX_NESTING);
    if ((rc = add_rule(parser, start, 0, &rule)) || (rc = parse_alternatives(parser, rule)))
        return rc;
    parser->depth--;
    if (peek(parser) != ')')
        return fail(parser, start, "a parenthesis that is not closed");
    parser->at++;
    return put_element(parser, GRAMMAR_CALL, rule);
}

static int parse_count(struct parser *parser, uint32_t *count) {
    size_t start = parser->at;
    *count = 0;
    for (char c; (c = peek(parser)) >= '0' && c <= '9'; parser->at++) {
        *count = *count * 10 + (uint32_t)(c - '0');
        if (*count > L4_GRAMMAR_MAX_REPEAT)
            return fail(parser, start, "a repetition of more than %d times", L4_GRAMMAR_MAX_REPEAT);
    }
    return 0;
}

/* {m} {m,} {m,n} {,n} */
static int parse_braces(struct parser *parser, uint32_t *min, uint32_t *max) {
    size_t start = parser->at++;
    int rc;
    skip_space(parser);
    bool has_min = peek(parser) >= '0' && peek(parser) <= '9';
    if ((rc = parse_count(parser, min)))
        return rc;
    skip_space(parser);
    *max = *min;
    bool comma = peek(parser) == ',';
    if (comma) {
        parser->at++;
        skip_space(parser);
        *max = GRAMMAR_INF;
        bool has_max = peek(parser) >= '0' && peek(parser) <= '9';
        if (has_max && (rc = parse_count(parser, max)))
            return rc;
        has_min |= has_max;
        skip_space(parser);
    }
    if (peek(parser) != '}' || !has_min)
        return fail(parser, start, "a repetition is {m}, {m,}, {m,n} or {,n}");
    parser->at++;
    if (*max < *min)
        return fail(parser, start, "a repetition of at least %u and at most %u times", (unsigned)*min, (unsigned)*max);
    return 0;
}

/* Repetitions behind what was read from `from` on. */
static int parse_repeats(struct parser *parser, size_t from) {
    for (;;) {
        skip_space(parser);
        uint32_t min = 0, max = GRAMMAR_INF;
        char c = peek(parser);
        int rc = 0;
        if (c == '{') {
            rc = parse_braces(parser, &min, &max);
        } else if (c == '*' || c == '+' || c == '?') {
            min = c == '+';
            max = c == '?' ? 1 : GRAMMAR_INF;
            parser->at++;
        } else {
            return 0;
        }
        if (rc)
            return rc;
        size_t n = parser->n_open - from;
        if (max == 0 || n == 0) {
            parser->n_open = from;
            continue;
        }
        const struct grammar_element *only = &parser->open[from];
        if ((n > 1 || only->min != 1 || only->max != 1) && (rc = wrap(parser, from)))
            return rc;
        parser->open[from].min = min;
        parser->open[from].max = max;
    }
}

/* Whether a rule begins here: NAME ::= */
static bool at_rule(struct parser *parser) {
    size_t start = parser->at;
    while (is_name(peek(parser)))
        parser->at++;
    bool found = parser->at > start;
    skip_space(parser);
    found &= parser->len_bytes - parser->at >= 3 && memcmp(parser->text + parser->at, "::=", 3) == 0;
    parser->at = start;
    return found;
}

static int parse_item(struct parser *parser) {
    size_t start = parser->at;
    char c = peek(parser);
    uint32_t rule;
    if (c == '"')
        return parse_text(parser);
    if (c == '[')
        return parse_class(parser);
    if (c == '(')
        return parse_group(parser);
    if (c == '.') {
        parser->at++;
        return put_charset(parser, NULL, 0, true);
    }
    while (is_name(peek(parser)))
        parser->at++;
    if (parser->at == start)
        return fail(parser, start, "expected a text, a class, a name or a group");
    int rc = find_rule(parser, start, parser->at - start, &rule);
    return rc ? rc : put_element(parser, GRAMMAR_CALL, rule);
}

static int parse_alternatives(struct parser *parser, uint32_t rule) {
    size_t alts = parser->n_open_alts;
    for (;;) {
        size_t from = parser->n_open;
        int rc;
        for (skip_space(parser); parser->at < parser->len_bytes; skip_space(parser)) {
            char c = peek(parser);
            if (c == '|' || c == ')' || (parser->depth == 0 && is_name(c) && at_rule(parser)))
                break;
            size_t item = parser->n_open;
            if ((rc = parse_item(parser)) || (rc = parse_repeats(parser, item)))
                return rc;
        }
        if ((rc = close_alternative(parser, from)))
            return rc;
        if (peek(parser) != '|')
            return close_rule(parser, rule, alts);
        parser->at++;
    }
}

static int parse_rule(struct parser *parser) {
    size_t start = parser->at;
    uint32_t rule;
    while (is_name(peek(parser)))
        parser->at++;
    size_t name_bytes = parser->at - start;
    skip_space(parser);
    if (name_bytes == 0 || parser->len_bytes - parser->at < 3 || memcmp(parser->text + parser->at, "::=", 3) != 0)
        return fail(parser, start, "expected a rule: NAME ::= ...");
    int rc = find_rule(parser, start, name_bytes, &rule);
    if (rc)
        return rc;
    if (parser->grammar->rules[rule].defined)
        return fail(parser, start, "the rule '%.*s' is there twice", (int)(name_bytes < 80 ? name_bytes : 80),
                    parser->text + start);
    parser->at += 3;
    if ((rc = parse_alternatives(parser, rule)))
        return rc;
    if (peek(parser) == ')')
        return fail(parser, parser->at, "a closing parenthesis without an opening one");
    return 0;
}

static int parse(struct parser *parser) {
    bool has_root = false;
    int rc;
    for (skip_space(parser); parser->at < parser->len_bytes; skip_space(parser))
        if ((rc = parse_rule(parser)))
            return rc;
    struct l4_grammar *grammar = parser->grammar;
    for (size_t i = 0; i < grammar->n_rules; i++) {
        const struct grammar_rule *rule = &grammar->rules[i];
        if (!rule->defined)
            return fail(parser, rule->used_at, "there is no rule '%.*s'",
                        (int)(rule->name_bytes < 80 ? rule->name_bytes : 80), parser->text + rule->name);
        if (rule->name_bytes == 4 && memcmp(parser->text + rule->name, "root", 4) == 0) {
            grammar->root = (uint32_t)i;
            has_root = true;
        }
    }
    if (!has_root)
        return l4_err_set(parser->err, L4_E_INVALID, "there is no rule 'root', which a grammar begins with");
    return grammar_analyse(grammar, parser->err);
}

/* ---- open and close ---------------------------------------------------------------------------------------------- */

static int check_text(const struct parser *parser) {
    if (parser->len_bytes > L4_GRAMMAR_MAX_BYTES)
        return l4_err_set(parser->err, L4_E_INVALID, "the grammar has %zu bytes: allowed are at most %d",
                          parser->len_bytes, L4_GRAMMAR_MAX_BYTES);
    for (size_t i = 0, n; i < parser->len_bytes; i += n)
        if (utf8_next(parser->text + i, parser->len_bytes - i, &n) != UTF8_CHAR)
            return fail(parser, i, "not UTF-8");
        else if (parser->text[i] == '\0')
            return fail(parser, i, "a NUL in the grammar");
    return 0;
}

int l4_grammar_open(struct l4_grammar **out, const char *gbnf, size_t len_bytes, struct l4_err *err) {
    struct parser parser = {.text = gbnf, .len_bytes = len_bytes, .err = err, .n_name_slots = 2 * L4_GRAMMAR_MAX_RULES};
    int rc = check_text(&parser);
    *out = NULL;
    if (rc)
        return rc;
    struct l4_grammar *grammar = parser.grammar = calloc(1, sizeof *grammar);
    parser.names = calloc(parser.n_name_slots, sizeof *parser.names);
    if (grammar)
        grammar->text = malloc(len_bytes + 1);
    if (!grammar || !grammar->text || !parser.names) {
        rc = no_memory(&parser);
    } else {
        atomic_init(&grammar->refs, 1);
        memcpy(grammar->text, gbnf, len_bytes);
        grammar->text[len_bytes] = '\0';
        grammar->text_bytes = len_bytes;
        grammar->text_hash = XXH3_64bits(gbnf, len_bytes);
        rc = parse(&parser);
    }
    free(parser.open);
    free(parser.open_alts);
    free(parser.ranges);
    free(parser.names);
    if (rc)
        l4_grammar_close(grammar);
    else
        *out = grammar;
    return rc;
}

struct l4_grammar *l4_grammar_ref(struct l4_grammar *grammar) {
    if (grammar)
        atomic_fetch_add(&grammar->refs, 1);
    return grammar;
}

void l4_grammar_close(struct l4_grammar *grammar) {
    if (!grammar || atomic_fetch_sub(&grammar->refs, 1) > 1)
        return;
    free(grammar->text);
    free(grammar->elements);
    free(grammar->rules);
    free(grammar->alts);
    free(grammar->charsets);
    free(grammar->ranges);
    free(grammar);
}
