/* Regular expressions (ECMA 262) to GBNF: literals, classes, groups, alternatives, repetitions; anchors only where a
 * match begins and ends.  What JSON escapes appears escaped. */
#include <stdlib.h>
#include <string.h>

#include "core/base/checked.h"
#include "core/grammar/schema.h"
#include "core/text/utf8.h"

struct range {
    uint32_t low, high;
};

struct pattern {
    struct schema *s;
    uint32_t node;
    const char *text;
    size_t len, at;
    int depth;
    struct l4_buf *out;
};

/* How many characters a part matches, at least and at most. */
struct lengths {
    uint32_t min, max;
};

enum { MAX_RANGES = 256 };
struct set {
    struct range ranges[MAX_RANGES];
    size_t n;
};

static const uint32_t LAST_CODE = 0x10FFFF;

static int fail(const struct pattern *p, const char *why) {
    return schema_fail(p->s, p->node, "character %zu of the pattern: %s", p->at + 1, why);
}

static char peek(const struct pattern *p) {
    return p->at < p->len ? p->text[p->at] : '\0';
}

static uint32_t plus(uint32_t a, uint32_t b) {
    return a == GRAMMAR_NO_MAX || b == GRAMMAR_NO_MAX || a > GRAMMAR_NO_MAX - b ? GRAMMAR_NO_MAX : a + b;
}

static uint32_t times(uint32_t a, uint32_t b) {
    if (a == 0 || b == 0)
        return 0;
    return a == GRAMMAR_NO_MAX || b == GRAMMAR_NO_MAX || a > GRAMMAR_NO_MAX / b ? GRAMMAR_NO_MAX : a * b;
}

/* ---- sets of characters ------------------------------------------------------------------------------------------ */

static bool set_add(struct set *set, uint32_t low, uint32_t high) {
    if (set->n == MAX_RANGES)
        return false;
    set->ranges[set->n++] = (struct range){low, high};
    return true;
}

static int compare_ranges(const void *a, const void *b) {
    const struct range *x = a, *y = b;
    return x->low < y->low ? -1 : x->low > y->low;
}

/* In order, without overlaps. */
static void set_tidy(struct set *set) {
    size_t n = 0;
    qsort(set->ranges, set->n, sizeof *set->ranges, compare_ranges);
    for (size_t i = 0; i < set->n; i++) {
        struct range range = set->ranges[i];
        if (n > 0 && range.low <= set->ranges[n - 1].high + 1) {
            if (range.high > set->ranges[n - 1].high)
                set->ranges[n - 1].high = range.high;
        } else {
            set->ranges[n++] = range;
        }
    }
    set->n = n;
}

static bool set_negate(struct set *set, uint32_t last) {
    struct set other = {.n = 0};
    uint32_t next = 0;
    bool ok = true;
    set_tidy(set);
    for (size_t i = 0; i < set->n && ok && set->ranges[i].low <= last; i++) {
        if (set->ranges[i].low > next)
            ok = set_add(&other, next, set->ranges[i].low - 1);
        next = set->ranges[i].high + 1;
    }
    if (ok && next <= last)
        ok = set_add(&other, next, last);
    *set = other;
    return ok;
}

/* \d \w \s; what their negations match beyond ASCII is read differently by different engines and left out. */
static bool add_class(struct set *set, char c) {
    struct set one = {.n = 0};
    char kind = (char)(c | 0x20);
    bool ok = true;
    if (kind == 'd' || kind == 'w')
        ok = set_add(&one, '0', '9');
    if (kind == 'w')
        ok = ok && set_add(&one, 'a', 'z') && set_add(&one, 'A', 'Z') && set_add(&one, '_', '_');
    if (kind == 's')
        ok = set_add(&one, '\t', '\r') && set_add(&one, ' ', ' ');
    if (c != kind)
        ok = ok && set_negate(&one, 0x7F);
    for (size_t i = 0; i < one.n && ok; i++)
        ok = set_add(set, one.ranges[i].low, one.ranges[i].high);
    return ok;
}

static void put_code(uint32_t code, struct l4_buf *out) {
    l4_buf_printf(out, "\\U%08X", (unsigned)code);
}

/* How JSON writes a character that may not stand for itself. */
static void put_escape(uint32_t code, struct l4_buf *out) {
    static const char from[] = "\"\\\b\f\n\r\t", to[] = "\"\\bfnrt";
    const char *found = code ? strchr(from, (int)code) : NULL;
    if (found)
        l4_buf_printf(out, "\"\\\\\\x%02x\"", (unsigned)to[found - from]);
    else
        l4_buf_printf(out, "\"\\\\u%04x\"", (unsigned)code);
}

static bool must_escape(uint32_t code) {
    return code < 0x20 || code == '"' || code == '\\';
}

static int put_set(const struct pattern *p, struct set *set) {
    struct l4_buf plain = {0};
    const char *bar = "";
    set_tidy(set);
    if (set->n == 0)
        return fail(p, "a class that holds no character");
    l4_buf_puts(p->out, "(");
    for (size_t i = 0; i < set->n; i++) {
        uint32_t low = set->ranges[i].low, high = set->ranges[i].high;
        for (uint32_t code = low; code <= high && code < 0x80; code++)
            if (must_escape(code)) {
                l4_buf_puts(p->out, bar);
                put_escape(code, p->out);
                bar = " | ";
            } else {
                put_code(code, &plain);
            }
        if (high < 0x80)
            continue;
        put_code(low < 0x80 ? 0x80 : low, &plain);
        l4_buf_puts(&plain, "-");
        put_code(high, &plain);
    }
    if (plain.len > 0)
        l4_buf_printf(p->out, "%s[%s]", bar, plain.data);
    l4_buf_puts(p->out, ") ");
    p->out->failed |= plain.failed;
    l4_buf_free(&plain);
    return 0;
}

/* ---- characters -------------------------------------------------------------------------------------------------- */

static int parse_hex(struct pattern *p, int n, uint32_t *code) {
    *code = 0;
    for (int i = 0; i < n; i++, p->at++) {
        char c = peek(p);
        int digit = c >= '0' && c <= '9'   ? c - '0'
                    : c >= 'a' && c <= 'f' ? c - 'a' + 10
                    : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                           : -1;
        if (digit < 0)
            return fail(p, "expected a hexadecimal digit");
        *code = *code * 16 + (uint32_t)digit;
    }
    return 0;
}

/* Behind a backslash: a class (*class set), or a character. */
static int parse_escape(struct pattern *p, char *class_, uint32_t *code) {
    static const char from[] = "nrtfv0", to[] = "\n\r\t\f\v";
    char c = peek(p);
    const char *found = c ? strchr(from, c) : NULL;
    *class_ = '\0';
    if (p->at == p->len)
        return fail(p, "a backslash at the end");
    if (c && strchr("dwsDWS", c)) {
        *class_ = c;
        p->at++;
    } else if (found) {
        *code = (unsigned char)to[found - from];
        p->at++;
    } else if (c == 'x' || c == 'u') {
        p->at++;
        return parse_hex(p, c == 'x' ? 2 : 4, code);
    } else if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9')) {
        return fail(p, "this escape is not supported");
    } else {
        size_t n;
        (void)utf8_next(p->text + p->at, p->len - p->at, &n);
        *code = utf8_decode(p->text + p->at, n);
        p->at += n;
    }
    return 0;
}

static int parse_char(struct pattern *p, char *class_, uint32_t *code) {
    size_t n;
    *class_ = '\0';
    if (peek(p) == '\\') {
        p->at++;
        return parse_escape(p, class_, code);
    }
    (void)utf8_next(p->text + p->at, p->len - p->at, &n); /* JSON strings are UTF-8 */
    *code = utf8_decode(p->text + p->at, n);
    p->at += n;
    return 0;
}

static int parse_class(struct pattern *p) {
    struct set set = {.n = 0};
    bool negated = (p->at++, peek(p) == '^'), ok = true;
    p->at += negated;
    while (p->at < p->len && peek(p) != ']') {
        char class_, other;
        uint32_t low = 0, high;
        int rc = parse_char(p, &class_, &low);
        if (rc)
            return rc;
        high = low;
        if (!class_ && peek(p) == '-' && p->at + 1 < p->len && p->text[p->at + 1] != ']') {
            p->at++;
            if ((rc = parse_char(p, &other, &high)))
                return rc;
            if (other || low > high)
                return fail(p, "a range must go from one character up to another");
        }
        ok = ok && (class_ ? add_class(&set, class_) : set_add(&set, low, high));
    }
    if (p->at == p->len)
        return fail(p, "a class without an end");
    p->at++;
    if (!ok || (negated && !set_negate(&set, LAST_CODE)))
        return fail(p, "a class of too many parts");
    return put_set(p, &set);
}

/* ---- structure --------------------------------------------------------------------------------------------------- */

static int parse_alternatives(struct pattern *p, struct lengths *len);

static int parse_group(struct pattern *p, struct lengths *len) {
    p->at++;
    if (peek(p) == '?') {
        size_t name = p->at + 2;
        if (p->len - p->at >= 2 && p->text[p->at + 1] == ':') {
            p->at += 2;
        } else if (p->len - p->at >= 3 && p->text[p->at + 1] == '<' && p->text[name] != '=' && p->text[name] != '!') {
            while (p->at < p->len && peek(p) != '>')
                p->at++;
            p->at += p->at < p->len;
        } else {
            return fail(p, "looking ahead and behind is not supported");
        }
    }
    if (++p->depth > L4_GRAMMAR_MAX_NESTING / 2)
        return fail(p, "nested deeper than 50");
    l4_buf_puts(p->out, "(");
    int rc = parse_alternatives(p, len);
    l4_buf_puts(p->out, ") ");
    p->depth--;
    if (rc)
        return rc;
    if (peek(p) != ')')
        return fail(p, "a parenthesis that is not closed");
    p->at++;
    return 0;
}

static int parse_number(struct pattern *p, uint32_t *value) {
    size_t start = p->at;
    for (*value = 0; peek(p) >= '0' && peek(p) <= '9'; p->at++) {
        *value = *value * 10 + (uint32_t)(peek(p) - '0');
        if (*value > 100000)
            return fail(p, "a repetition of more than 100000 times");
    }
    return p->at > start ? 0 : fail(p, "expected a number of repetitions");
}

static int parse_repeat(struct pattern *p, struct lengths *len) {
    uint32_t min = 0, max = GRAMMAR_NO_MAX;
    int rc;
    char c = peek(p);
    if (c == '*' || c == '+' || c == '?') {
        min = c == '+';
        max = c == '?' ? 1 : GRAMMAR_NO_MAX;
        p->at++;
    } else if (c == '{') {
        p->at++;
        if ((rc = parse_number(p, &min)))
            return rc;
        max = min;
        if (peek(p) == ',') {
            p->at++;
            max = GRAMMAR_NO_MAX;
            if (peek(p) != '}' && (rc = parse_number(p, &max)))
                return rc;
        }
        if (peek(p) != '}' || min > max)
            return fail(p, "a repetition is {m}, {m,} or {m,n} with m <= n");
        p->at++;
    } else {
        return 0;
    }
    if (peek(p) == '?') /* which match is taken makes no difference */
        p->at++;
    if (max == GRAMMAR_NO_MAX)
        l4_buf_printf(p->out, "{%u,} ", (unsigned)min);
    else
        l4_buf_printf(p->out, "{%u,%u} ", (unsigned)min, (unsigned)max);
    *len = (struct lengths){times(len->min, min), times(len->max, max)};
    return 0;
}

static int parse_atom(struct pattern *p, struct lengths *len) {
    struct set set = {.n = 0};
    char class_, c = peek(p);
    uint32_t code = 0;
    int rc;
    *len = (struct lengths){1, 1};
    if (c == '(')
        return parse_group(p, len);
    if (c == '[')
        return parse_class(p);
    if (c && strchr("*+?{", c))
        return fail(p, "nothing to repeat");
    if (c == '^' || c == '$')
        return fail(p, "'^' and '$' are supported only where a pattern begins and ends");
    if (c == '.') {
        static const struct range line_ends[] = {{'\n', '\n'}, {'\r', '\r'}, {0x85, 0x85}, {0x2028, 0x2029}};
        p->at++;
        for (size_t i = 0; i < sizeof line_ends / sizeof *line_ends; i++)
            (void)set_add(&set, line_ends[i].low, line_ends[i].high);
        (void)set_negate(&set, LAST_CODE);
        return put_set(p, &set);
    }
    if ((rc = parse_char(p, &class_, &code)))
        return rc;
    if (class_)
        (void)add_class(&set, class_);
    else
        (void)set_add(&set, code, code);
    return put_set(p, &set);
}

/* One alternative.  At the top level a match may begin and end anywhere, unless it is anchored. */
static int parse_sequence(struct pattern *p, struct lengths *len) {
    bool top = p->depth == 0;
    int rc;
    *len = (struct lengths){0, 0};
    l4_buf_puts(p->out, "\"\" ");
    if (top && peek(p) == '^') {
        p->at++;
    } else if (top) {
        l4_buf_puts(p->out, "char* ");
        len->max = GRAMMAR_NO_MAX;
    }
    while (p->at < p->len && peek(p) != '|' && peek(p) != ')') {
        struct lengths one;
        if (top && peek(p) == '$' && (p->at + 1 == p->len || p->text[p->at + 1] == '|')) {
            p->at++;
            return 0;
        }
        if ((rc = parse_atom(p, &one)) || (rc = parse_repeat(p, &one)))
            return rc;
        *len = (struct lengths){plus(len->min, one.min), plus(len->max, one.max)};
    }
    if (top) {
        l4_buf_puts(p->out, "char* ");
        len->max = GRAMMAR_NO_MAX;
    }
    return 0;
}

static int parse_alternatives(struct pattern *p, struct lengths *len) {
    int rc = parse_sequence(p, len);
    while (rc == 0 && peek(p) == '|') {
        struct lengths other;
        p->at++;
        l4_buf_puts(p->out, "| ");
        rc = parse_sequence(p, &other);
        len->min = other.min < len->min ? other.min : len->min;
        len->max = other.max > len->max ? other.max : len->max;
    }
    return rc;
}

int schema_put_pattern(struct schema *s, uint32_t node, uint32_t *min, uint32_t *max, struct l4_buf *out) {
    struct pattern p = {.s = s, .node = node, .out = out};
    struct lengths len;
    if (s->tree.nodes[node].kind != JSON_TREE_STRING)
        return schema_fail(s, node, "must be a string");
    p.text = schema_text(s, node, &p.len);
    int rc = parse_alternatives(&p, &len);
    if (rc == 0 && p.at < p.len)
        return fail(&p, "a closing parenthesis without an opening one");
    *min = len.min;
    *max = len.max;
    return rc;
}
