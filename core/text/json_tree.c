#include "core/text/json_tree.h"

#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

#include "core/base/checked.h"
#include "core/text/utf8.h"

/* Python refuses longer ones: turning them into text takes time that grows with the square of the length. */
enum { MAX_INTEGER_DIGITS = 4300 };

/* 1e15 becomes 18 bytes: places in the tree's text stay below 2^32. */
enum { MAX_JSON_BYTES = 1 << 28 };

struct parser {
    struct json_tree *tree;
    const char *json;
    size_t len_bytes, at;
    int depth;
    struct l4_err *err;
};

static int fail(const struct parser *parser, size_t at, const char *reason) {
    return l4_err_set(parser->err, L4_E_INVALID, "byte %zu: %s", at, reason);
}

static int fail_memory(const struct parser *parser) {
    return l4_err_set(parser->err, L4_E_NOMEM, "out of memory for a JSON text of %zu bytes", parser->len_bytes);
}

/* The byte at the reading place; 0 at the end (a NUL in the text is refused just the same). */
static char peek(const struct parser *parser) {
    return parser->at < parser->len_bytes ? parser->json[parser->at] : '\0';
}

static void skip_space(struct parser *parser) {
    for (char c; (c = peek(parser)) == ' ' || c == '\t' || c == '\n' || c == '\r';)
        parser->at++;
}

/* ---- strings ------------------------------------------------------------------------------------------------------
 */

/* The four hexadecimal digits at `at`; -1 where there are not four. */
static long hex4(const struct parser *parser, size_t at) {
    long value = 0;
    for (size_t i = at; i < at + 4; i++) {
        char c = i < parser->len_bytes ? parser->json[i] : '\0';
        int digit = c >= '0' && c <= '9'   ? c - '0'
                    : c >= 'a' && c <= 'f' ? c - 'a' + 10
                    : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                           : -1;
        if (digit < 0)
            return -1;
        value = value * 16 + digit;
    }
    return value;
}

/* \uXXXX, or a pair of them that is one character; the reading place is on the first u. */
static int parse_unicode_escape(struct parser *parser) {
    size_t start = parser->at - 1;
    long code = hex4(parser, parser->at + 1);
    parser->at += 5;
    if (code < 0)
        return fail(parser, start, "\\u takes four hexadecimal digits");
    if (code >= 0xD800 && code <= 0xDFFF) {
        long low = code < 0xDC00 && peek(parser) == '\\' && parser->at + 1 < parser->len_bytes &&
                           parser->json[parser->at + 1] == 'u'
                       ? hex4(parser, parser->at + 2)
                       : -1;
        if (low < 0xDC00 || low > 0xDFFF)
            return fail(parser, start, "half a surrogate pair");
        code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
        parser->at += 6;
    }
    char bytes[4];
    l4_buf_append(&parser->tree->text, bytes, utf8_encode((uint32_t)code, bytes));
    return 0;
}

static int parse_escape(struct parser *parser) {
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    parser->at++;
    char c = peek(parser);
    if (c == 'u')
        return parse_unicode_escape(parser);
    const char *found = c ? strchr(from, c) : NULL;
    if (!found)
        return fail(parser, parser->at - 1, "unknown escape");
    l4_buf_append(&parser->tree->text, &to[found - from], 1);
    parser->at++;
    return 0;
}

/* A string, decoded, onto the end of tree->text. */
static int parse_string(struct parser *parser, uint32_t *text, uint32_t *text_bytes) {
    size_t start = parser->at;
    if (peek(parser) != '"')
        return fail(parser, start, "expected a string");
    parser->at++;
    *text = (uint32_t)parser->tree->text.len;
    for (;;) {
        size_t run = parser->at, n;
        while (parser->at < parser->len_bytes) {
            char c = parser->json[parser->at];
            if (c == '"' || c == '\\' || (unsigned char)c < 0x20)
                break;
            if (utf8_next(parser->json + parser->at, parser->len_bytes - parser->at, &n) != UTF8_CHAR)
                return fail(parser, parser->at, "not UTF-8");
            parser->at += n;
        }
        l4_buf_append(&parser->tree->text, parser->json + run, parser->at - run);
        if (parser->at == parser->len_bytes)
            return fail(parser, start, "a string without an end");
        if (peek(parser) == '"')
            break;
        int rc = peek(parser) == '\\' ? parse_escape(parser)
                                      : fail(parser, parser->at, "a control character inside a string");
        if (rc < 0)
            return rc;
    }
    parser->at++;
    *text_bytes = (uint32_t)(parser->tree->text.len - *text);
    return parser->tree->text.failed ? fail_memory(parser) : 0;
}

/* ---- numbers ------------------------------------------------------------------------------------------------------
 */

/* value with `digits` significant digits; true when reading it back gives value again. */
static bool print_digits(double value, int digits, char out[32]) {
    snprintf(out, 32, "%.*e", digits - 1, value);
    return strtod(out, NULL) == value;
}

/* Below a power of two doubles lie closer together than above it.  The nearest decimal of 16 digits may then miss on
 * the near side while the next one up reads back: true with that one in out. */
static bool print_next_up(double value, char out[32]) {
    int exponent;
    if (fabs(frexp(value, &exponent)) != 0.5)
        return false;
    snprintf(out, 32, "%.15e", value);
    char *last = strchr(out, 'e') - 1;
    *last += *last < '9';
    return strtod(out, NULL) == value;
}

/* As Python's repr: the fewest digits that read back as the same number, with an exponent from 1e16 on and below 1e-4.
 * Up to 15 digits survive in a normal double, so that fewer only means zeros at the end of those 15. */
static void append_float(struct l4_buf *out, double value) {
    char text[32];
    int digits = fabs(value) < 2.2250738585072014e-308 ? 1 : 15;
    while (digits < 17 && !print_digits(value, digits, text))
        digits++;
    if (digits == 17 && !print_next_up(value, text))
        print_digits(value, 17, text);
    const char *sign = text[0] == '-' ? "-" : "", *number = text[0] == '-' ? text + 1 : text;
    char *mark = strchr(text, 'e');
    int exponent = atoi(mark + 1);
    char mantissa[24];
    size_t n = 0;
    for (const char *p = number; p < mark; p++)
        if (*p != '.')
            mantissa[n++] = *p;
    while (n > 1 && mantissa[n - 1] == '0')
        n--;
    mantissa[n] = '\0';
    l4_buf_puts(out, sign);
    if (exponent < -4 || exponent >= 16) {
        l4_buf_printf(out, n > 1 ? "%c.%se%c%02d" : "%c%se%c%02d", mantissa[0], mantissa + 1, exponent < 0 ? '-' : '+',
                      abs(exponent));
    } else if (exponent < 0) {
        l4_buf_printf(out, "0.%.*s%s", -exponent - 1, "000", mantissa);
    } else if (n <= (size_t)exponent + 1) {
        l4_buf_printf(out, "%s%.*s.0", mantissa, (int)((size_t)exponent + 1 - n), "0000000000000000");
    } else {
        l4_buf_printf(out, "%.*s.%s", exponent + 1, mantissa, mantissa + exponent + 1);
    }
}

static size_t skip_digits(struct parser *parser) {
    size_t start = parser->at;
    while (peek(parser) >= '0' && peek(parser) <= '9')
        parser->at++;
    return parser->at - start;
}

static int parse_number(struct parser *parser) {
    size_t start = parser->at;
    bool negative = peek(parser) == '-', whole = true;
    parser->at += negative;
    bool zero = peek(parser) == '0';
    size_t n_digits = skip_digits(parser);
    if (n_digits == 0 || (zero && n_digits > 1))
        return fail(parser, start, "expected a value");
    if (peek(parser) == '.') {
        whole = false;
        parser->at++;
        if (!skip_digits(parser))
            return fail(parser, start, "a number without digits after the point");
    }
    if (peek(parser) == 'e' || peek(parser) == 'E') {
        whole = false;
        parser->at++;
        if (peek(parser) == '+' || peek(parser) == '-')
            parser->at++;
        if (!skip_digits(parser))
            return fail(parser, start, "a number without digits in its exponent");
    }
    struct l4_buf *text = &parser->tree->text;
    const char *number = parser->json + start;
    size_t len_bytes = parser->at - start;
    if (whole) {
        if (n_digits > MAX_INTEGER_DIGITS)
            return fail(parser, start, "a whole number of more than 4300 digits");
        size_t sign = negative && zero; /* there is no -0 among the integers */
        l4_buf_append(text, number + sign, len_bytes - sign);
        return 0;
    }
    /* strtod wants an end; the copy lives at the end of the text for a moment. */
    size_t mark = text->len;
    l4_buf_append(text, number, len_bytes);
    if (text->failed)
        return fail_memory(parser);
    double value = strtod(text->data + mark, NULL);
    text->len = mark;
    if (isinf(value))
        return fail(parser, start, "a number past 1.8e308");
    append_float(text, value);
    return 0;
}

/* ---- objects ------------------------------------------------------------------------------------------------------
 */

static const char *key_of(const struct json_tree *tree, uint32_t node) {
    return tree->text.data + tree->nodes[node].key;
}

/* The slot of the member `key` of `object`, or the empty slot where it belongs. */
static size_t key_slot(const struct json_tree *tree, uint32_t object, const char *key, size_t key_bytes) {
    size_t mask = tree->n_key_slots - 1;
    size_t slot = (size_t)XXH3_64bits_withSeed(key, key_bytes, object) & mask;
    for (uint32_t node; (node = tree->keys[slot]); slot = (slot + 1) & mask)
        if (tree->nodes[node].parent == object && tree->nodes[node].key_bytes == key_bytes &&
            memcmp(key_of(tree, node), key, key_bytes) == 0)
            break;
    return slot;
}

static bool keys_reserve(struct json_tree *tree) {
    if (2 * (tree->n_keys + 1) <= tree->n_key_slots)
        return true;
    size_t n_old = tree->n_key_slots, n_slots = n_old ? 2 * n_old : 32;
    uint32_t *old = tree->keys, *slots = calloc(n_slots, sizeof *slots);
    if (!slots)
        return false;
    tree->keys = slots;
    tree->n_key_slots = n_slots;
    for (size_t i = 0; i < n_old; i++)
        if (old[i])
            slots[key_slot(tree, tree->nodes[old[i]].parent, key_of(tree, old[i]), tree->nodes[old[i]].key_bytes)] =
                old[i];
    free(old);
    return true;
}

static int parse_value(struct parser *parser, uint32_t parent, uint32_t *node);

/* "key": value.  *node is 0 where an earlier member has the same key and took the value. */
static int parse_member(struct parser *parser, uint32_t object, uint32_t *node) {
    struct json_tree *tree = parser->tree;
    uint32_t key, key_bytes;
    int rc = parse_string(parser, &key, &key_bytes);
    if (rc < 0)
        return rc;
    skip_space(parser);
    if (peek(parser) != ':')
        return fail(parser, parser->at, "expected ':'");
    parser->at++;
    rc = parse_value(parser, object, node);
    if (rc < 0)
        return rc;
    if (!keys_reserve(tree))
        return fail_memory(parser);
    tree->nodes[*node].key = key;
    tree->nodes[*node].key_bytes = key_bytes;
    size_t slot = key_slot(tree, object, key_of(tree, *node), key_bytes);
    uint32_t same = tree->keys[slot];
    if (!same) {
        tree->keys[slot] = *node;
        tree->n_keys++;
        return 0;
    }
    struct json_node *first = &tree->nodes[same];
    const struct json_node *last = &tree->nodes[*node];
    first->kind = last->kind;
    first->child = last->child;
    first->text = last->text;
    first->text_bytes = last->text_bytes;
    *node = 0;
    return 0;
}

/* The elements of an array or the members of an object; the reading place is on the bracket. */
static int parse_container(struct parser *parser, uint32_t container, bool object) {
    struct json_tree *tree = parser->tree;
    char close = object ? '}' : ']';
    uint32_t last = 0;
    if (++parser->depth > JSON_TREE_MAX_DEPTH)
        return fail(parser, parser->at, "nested deeper than 512");
    parser->at++;
    skip_space(parser);
    while (peek(parser) != close || last) {
        uint32_t node;
        skip_space(parser);
        int rc = object ? parse_member(parser, container, &node) : parse_value(parser, container, &node);
        if (rc < 0)
            return rc;
        if (node && last)
            tree->nodes[last].next = node;
        else if (node)
            tree->nodes[container].child = node;
        last = node ? node : last;
        skip_space(parser);
        if (peek(parser) == close)
            break;
        if (peek(parser) != ',')
            return fail(parser, parser->at, object ? "expected ',' or '}'" : "expected ',' or ']'");
        parser->at++;
    }
    parser->at++;
    parser->depth--;
    return 0;
}

static int parse_literal(struct parser *parser) {
    static const char *const words[] = {"null", "true", "false"};
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++) {
        size_t n = strlen(words[i]);
        if (parser->len_bytes - parser->at >= n && memcmp(parser->json + parser->at, words[i], n) == 0) {
            l4_buf_append(&parser->tree->text, words[i], n);
            parser->at += n;
            return 0;
        }
    }
    return parse_number(parser);
}

static int parse_value(struct parser *parser, uint32_t parent, uint32_t *node) {
    struct json_tree *tree = parser->tree;
    skip_space(parser);
    if (!checked_grow((void **)&tree->nodes, &tree->cap_nodes, tree->n_nodes + 1, sizeof *tree->nodes))
        return fail_memory(parser);
    *node = (uint32_t)tree->n_nodes++;
    struct json_node value = {.parent = parent, .text = (uint32_t)tree->text.len};
    char c = peek(parser);
    value.kind = c == '"'   ? JSON_TREE_STRING
                 : c == '[' ? JSON_TREE_ARRAY
                 : c == '{' ? JSON_TREE_OBJECT
                            : JSON_TREE_LITERAL;
    tree->nodes[*node] = value;
    if (c == '[' || c == '{')
        return parse_container(parser, *node, c == '{');
    int rc = c == '"' ? parse_string(parser, &value.text, &value.text_bytes) : parse_literal(parser);
    if (rc == 0 && tree->text.failed)
        rc = fail_memory(parser);
    if (rc < 0)
        return rc;
    value.text_bytes = (uint32_t)(tree->text.len - value.text);
    tree->nodes[*node] = value;
    return 0;
}

int json_tree_parse(struct json_tree *tree, const char *json, size_t len_bytes, struct l4_err *err) {
    struct parser parser = {.tree = tree, .json = json, .len_bytes = len_bytes, .err = err};
    uint32_t root;
    if (len_bytes > MAX_JSON_BYTES)
        return l4_err_set(err, L4_E_INVALID, "a JSON text of %zu bytes: at most %d are allowed", len_bytes,
                          MAX_JSON_BYTES);
    l4_buf_puts(&tree->text, ""); /* so that there is a text to point into, though it be empty */
    if (tree->text.failed || !checked_grow((void **)&tree->nodes, &tree->cap_nodes, 1, sizeof *tree->nodes))
        return fail_memory(&parser);
    tree->nodes[0] = (struct json_node){0};
    tree->n_nodes = JSON_TREE_ROOT;
    int rc = parse_value(&parser, 0, &root);
    if (rc < 0)
        return rc;
    skip_space(&parser);
    if (parser.at < len_bytes)
        return fail(&parser, parser.at, "something follows the value");
    return 0;
}

void json_tree_fini(struct json_tree *tree) {
    free(tree->nodes);
    free(tree->keys);
    l4_buf_free(&tree->text);
    *tree = (struct json_tree){0};
}

uint32_t json_tree_member(const struct json_tree *tree, uint32_t object, const char *key) {
    size_t key_bytes = strlen(key);
    uint32_t node = tree->nodes[object].kind == JSON_TREE_OBJECT ? tree->nodes[object].child : 0;
    while (node && (tree->nodes[node].key_bytes != key_bytes || memcmp(key_of(tree, node), key, key_bytes) != 0))
        node = tree->nodes[node].next;
    return node;
}

/* ---- writing ------------------------------------------------------------------------------------------------------
 */

void json_tree_write_string(const char *text, size_t len_bytes, struct l4_buf *out) {
    static const char from[] = "\"\\\b\f\n\r\t", to[] = "\"\\bfnrt";
    size_t run = 0;
    l4_buf_puts(out, "\"");
    for (size_t i = 0; i < len_bytes; i++) {
        unsigned char c = (unsigned char)text[i];
        if (c >= 0x20 && c != '"' && c != '\\')
            continue;
        l4_buf_append(out, text + run, i - run);
        run = i + 1;
        const char *found = c ? strchr(from, c) : NULL;
        if (found)
            l4_buf_printf(out, "\\%c", to[found - from]);
        else
            l4_buf_printf(out, "\\u%04x", c);
    }
    l4_buf_append(out, text + run, len_bytes - run);
    l4_buf_puts(out, "\"");
}

static void write_newline(int indent, int depth, struct l4_buf *out) {
    l4_buf_puts(out, "\n");
    for (int i = 0; i < indent * depth; i++)
        l4_buf_append(out, " ", 1);
}

static void write_node(const struct json_tree *tree, uint32_t at, int indent, int depth, struct l4_buf *out) {
    const struct json_node *node = &tree->nodes[at];
    if (node->kind == JSON_TREE_LITERAL) {
        l4_buf_append(out, tree->text.data + node->text, node->text_bytes);
        return;
    }
    if (node->kind == JSON_TREE_STRING) {
        json_tree_write_string(tree->text.data + node->text, node->text_bytes, out);
        return;
    }
    bool object = node->kind == JSON_TREE_OBJECT;
    l4_buf_puts(out, object ? "{" : "[");
    for (uint32_t child = node->child; child; child = tree->nodes[child].next) {
        if (indent)
            write_newline(indent, depth + 1, out);
        if (object) {
            json_tree_write_string(key_of(tree, child), tree->nodes[child].key_bytes, out);
            l4_buf_puts(out, ": ");
        }
        write_node(tree, child, indent, depth + 1, out);
        if (tree->nodes[child].next)
            l4_buf_puts(out, indent ? "," : ", ");
    }
    if (indent && node->child)
        write_newline(indent, depth, out);
    l4_buf_puts(out, object ? "}" : "]");
}

void json_tree_write(const struct json_tree *tree, uint32_t node, int indent, struct l4_buf *out) {
    write_node(tree, node, indent, 0, out);
}
