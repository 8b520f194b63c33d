#include "core/grammar/schema.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/checked.h"
#include "core/grammar/json_grammar.h"

/* In struct schema_all: alternatives of this node have been taken. */
#define ANY_OF_TAKEN (UINT32_C(1) << 31)
#define ONE_OF_TAKEN (UINT32_C(1) << 30)
#define NODE_BITS    (ONE_OF_TAKEN - 1)

enum type { NULL_, BOOLEAN, STRING, INTEGER, NUMBER, ARRAY, OBJECT, N_TYPES };
static const char *const type_names[N_TYPES] = {"null", "boolean", "string", "integer", "number", "array", "object"};

/* ---- nodes ------------------------------------------------------------------------------------------------------- */

static const struct json_node *node_at(const struct schema *s, uint32_t node) {
    return &s->tree.nodes[node & NODE_BITS];
}

/* "#/properties/a", from the end to the beginning. */
static void put_place(const struct schema *s, uint32_t node, char *out, size_t size) {
    char text[256];
    size_t begin = sizeof text - 1;
    text[begin] = '\0';
    for (uint32_t parent; node != s->root && (parent = s->tree.nodes[node].parent); node = parent) {
        char part[64];
        const struct json_node *n = &s->tree.nodes[node];
        if (s->tree.nodes[parent].kind == JSON_TREE_OBJECT) {
            snprintf(part, sizeof part, "/%.*s", (int)(n->key_bytes < 48 ? n->key_bytes : 48),
                     s->tree.text.data + n->key);
        } else {
            int i = 0;
            for (uint32_t child = s->tree.nodes[parent].child; child && child != node;
                 child = s->tree.nodes[child].next)
                i++;
            snprintf(part, sizeof part, "/%d", i);
        }
        size_t len = strlen(part);
        if (len > begin)
            break;
        begin -= len;
        memcpy(text + begin, part, len);
    }
    snprintf(out, size, "#%s", text + begin);
}

int schema_fail(struct schema *s, uint32_t node, const char *fmt, ...) {
    char place[256], reason[256];
    va_list args;
    va_start(args, fmt);
    vsnprintf(reason, sizeof reason, fmt, args);
    va_end(args);
    put_place(s, node & NODE_BITS, place, sizeof place);
    return l4_err_set(s->err, L4_E_INVALID, "%s: %s", place, reason);
}

int schema_no_memory(struct schema *s) {
    return l4_err_set(s->err, L4_E_NOMEM, "no memory for a JSON schema");
}

uint32_t schema_get(const struct schema *s, uint32_t node, const char *key) {
    if (((node & ANY_OF_TAKEN) && strcmp(key, "anyOf") == 0) || ((node & ONE_OF_TAKEN) && strcmp(key, "oneOf") == 0))
        return 0;
    return json_tree_member(&s->tree, node & NODE_BITS, key);
}

const char *schema_text(const struct schema *s, uint32_t node, size_t *len_bytes) {
    *len_bytes = node_at(s, node)->text_bytes;
    return s->tree.text.data + node_at(s, node)->text;
}

bool schema_is(const struct schema *s, uint32_t node, const char *literal) {
    size_t n;
    const char *text = schema_text(s, node, &n);
    return node && node_at(s, node)->kind == JSON_TREE_LITERAL && n == strlen(literal) && memcmp(text, literal, n) == 0;
}

bool schema_is_number(const struct schema *s, uint32_t node) {
    size_t n;
    const char *text = schema_text(s, node, &n);
    return node && node_at(s, node)->kind == JSON_TREE_LITERAL && n > 0 &&
           (text[0] == '-' || (text[0] >= '0' && text[0] <= '9'));
}

static double number_of(const struct schema *s, uint32_t node) {
    char copy[64];
    size_t n;
    const char *text = schema_text(s, node, &n);
    snprintf(copy, sizeof copy, "%.*s", (int)(n < 60 ? n : 60), text);
    return strtod(copy, NULL);
}

int schema_count(struct schema *s, uint32_t node, uint32_t *count) {
    double value = schema_is_number(s, node) ? number_of(s, node) : -1;
    if (!(value >= 0) || value != floor(value))
        return schema_fail(s, node, "must be a whole number from 0 on");
    *count = value < L4_GRAMMAR_MAX_REPEAT ? (uint32_t)value : L4_GRAMMAR_MAX_REPEAT;
    return 0;
}

void schema_put_literal(struct l4_buf *out, const char *text, size_t len_bytes) {
    l4_buf_puts(out, "\"");
    for (size_t i = 0; i < len_bytes; i++) {
        unsigned char c = (unsigned char)text[i];
        if (c < 0x20 || c == '"' || c == '\\')
            l4_buf_printf(out, "\\x%02x", c);
        else
            l4_buf_append(out, text + i, 1);
    }
    l4_buf_puts(out, "\"");
}

void schema_put_value(struct schema *s, uint32_t node, struct l4_buf *out) {
    struct l4_buf text = {0};
    json_tree_write(&s->tree, node, 0, &text);
    out->failed |= text.failed;
    schema_put_literal(out, text.data ? text.data : "", text.len);
    l4_buf_free(&text);
}

/* ---- $ref and allOf ---------------------------------------------------------------------------------------------- */

static int hex_digit(char c) {
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                  : -1;
}

/* One part of a JSON pointer, %XX and ~0 ~1 undone. */
static size_t pointer_part(const char **p, const char *end, char out[256]) {
    size_t n = 0;
    for (; *p < end && **p != '/'; ++*p) {
        char c = **p;
        if (c == '%' && end - *p > 2 && hex_digit((*p)[1]) >= 0 && hex_digit((*p)[2]) >= 0) {
            c = (char)(hex_digit((*p)[1]) * 16 + hex_digit((*p)[2]));
            *p += 2;
        } else if (c == '~' && end - *p > 1 && ((*p)[1] == '0' || (*p)[1] == '1')) {
            c = (*p)[1] == '0' ? '~' : '/';
            ++*p;
        }
        if (n < 255)
            out[n++] = c;
    }
    out[n] = '\0';
    return n;
}

static uint32_t child_at(const struct schema *s, uint32_t node, const char *part) {
    if (s->tree.nodes[node].kind == JSON_TREE_OBJECT)
        return json_tree_member(&s->tree, node, part);
    if (s->tree.nodes[node].kind != JSON_TREE_ARRAY || strspn(part, "0123456789") != strlen(part) || !*part)
        return 0;
    uint32_t child = s->tree.nodes[node].child;
    for (long i = strtol(part, NULL, 10); child && i > 0; i--)
        child = s->tree.nodes[child].next;
    return child;
}

static int resolve(struct schema *s, uint32_t ref, uint32_t *target) {
    size_t n;
    const char *p = schema_text(s, ref, &n), *end = p + n;
    char part[256];
    if (node_at(s, ref)->kind != JSON_TREE_STRING || n == 0 || *p != '#' || (n > 1 && p[1] != '/'))
        return schema_fail(s, ref,
                           "a $ref must be '#' or begin with '#/': other documents and anchors are not supported");
    *target = s->root;
    for (p++; p < end && *target;) {
        p++;
        pointer_part(&p, end, part);
        *target = child_at(s, *target, part);
    }
    return *target ? 0 : schema_fail(s, ref, "there is no '%.*s' in this schema", (int)(n < 100 ? n : 100), end - n);
}

struct way {
    const struct way *before;
    uint32_t node;
};

static int check_keywords(struct schema *s, uint32_t node) {
    static const char *const refused[] = {"not",
                                          "if",
                                          "then",
                                          "else",
                                          "dependentRequired",
                                          "dependentSchemas",
                                          "dependencies",
                                          "propertyNames",
                                          "contains",
                                          "$dynamicRef",
                                          "$recursiveRef"};
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        uint32_t at = schema_get(s, node, refused[i]);
        if (at)
            return schema_fail(s, at, "'%s' is not supported", refused[i]);
    }
    uint32_t at = schema_get(s, node, "uniqueItems");
    if (at && !schema_is(s, at, "false"))
        return schema_fail(s, at, "'uniqueItems' is not supported");
    at = schema_get(s, node, "patternProperties");
    if (at && s->tree.nodes[at].child)
        return schema_fail(s, at, "'patternProperties' is not supported");
    at = schema_get(s, node, "multipleOf");
    if (at && (!schema_is_number(s, at) || number_of(s, at) != 1))
        return schema_fail(s, at, "'multipleOf' is supported for 1 only");
    return 0;
}

static int add(struct schema *s, struct schema_all *all, uint32_t node, const struct way *before) {
    int rc;
    const struct way way = {before, node};
    for (const struct way *w = before; w; w = w->before)
        if (w->node == node)
            return schema_fail(s, node, "refers to itself without an end");
    for (size_t i = 0; i < all->n; i++)
        if (all->nodes[i] == node)
            return 0;
    if (schema_is(s, node, "true"))
        return 0;
    if (schema_is(s, node, "false"))
        return schema_fail(s, node, "no value is allowed here");
    if (s->tree.nodes[node].kind != JSON_TREE_OBJECT)
        return schema_fail(s, node, "a schema must be an object or true");
    if (all->n == SCHEMA_MAX_ALL)
        return schema_fail(s, node, "more than %d schemas hold for one value at once", SCHEMA_MAX_ALL);
    all->nodes[all->n++] = node;
    if ((rc = check_keywords(s, node)))
        return rc;
    uint32_t ref = schema_get(s, node, "$ref"), target, all_of = schema_get(s, node, "allOf");
    if (ref && ((rc = resolve(s, ref, &target)) || (rc = add(s, all, target, &way))))
        return rc;
    if (all_of && s->tree.nodes[all_of].kind != JSON_TREE_ARRAY)
        return schema_fail(s, all_of, "must be an array of schemas");
    for (uint32_t child = all_of ? s->tree.nodes[all_of].child : 0; child; child = s->tree.nodes[child].next)
        if ((rc = add(s, all, child, &way)))
            return rc;
    return 0;
}

int schema_all_add(struct schema *s, struct schema_all *all, uint32_t node) {
    return add(s, all, node, NULL);
}

/* ---- types ------------------------------------------------------------------------------------------------------- */

static int type_bits(struct schema *s, uint32_t type, unsigned *bits) {
    size_t n;
    const char *text = schema_text(s, type, &n);
    for (int i = 0; node_at(s, type)->kind == JSON_TREE_STRING && i < N_TYPES; i++)
        if (n == strlen(type_names[i]) && memcmp(text, type_names[i], n) == 0) {
            *bits |= 1U << i;
            if (i == NUMBER)
                *bits |= 1U << INTEGER;
            return 0;
        }
    return schema_fail(s, type, "a type must be 'null', 'boolean', 'string', 'integer', 'number', 'array' or 'object'");
}

/* The types that all allow; what has no type but keywords of one kind is taken to be of that kind. */
static int find_types(struct schema *s, const struct schema_all *all, unsigned *types) {
    static const struct {
        const char *key;
        enum type type;
    } hints[] = {{"properties", OBJECT}, {"required", OBJECT},         {"additionalProperties", OBJECT},
                 {"items", ARRAY},       {"prefixItems", ARRAY},       {"minItems", ARRAY},
                 {"maxItems", ARRAY},    {"pattern", STRING},          {"format", STRING},
                 {"minLength", STRING},  {"maxLength", STRING},        {"minimum", NUMBER},
                 {"maximum", NUMBER},    {"exclusiveMinimum", NUMBER}, {"exclusiveMaximum", NUMBER},
                 {"multipleOf", INTEGER}};
    bool typed = false;
    *types = (1U << N_TYPES) - 1;
    for (size_t i = 0; i < all->n; i++) {
        uint32_t type = schema_get(s, all->nodes[i], "type");
        unsigned bits = 0;
        int rc = 0;
        if (!type)
            continue;
        typed = true;
        if (node_at(s, type)->kind == JSON_TREE_ARRAY) {
            for (uint32_t child = s->tree.nodes[type].child; child && rc == 0; child = s->tree.nodes[child].next)
                rc = type_bits(s, child, &bits);
        } else {
            rc = type_bits(s, type, &bits);
        }
        if (rc)
            return rc;
        *types &= bits;
    }
    for (size_t k = 0; !typed && k < sizeof hints / sizeof *hints; k++)
        for (size_t i = 0; !typed && i < all->n; i++)
            if (schema_get(s, all->nodes[i], hints[k].key)) {
                *types = 1U << hints[k].type | (hints[k].type == NUMBER ? 1U << INTEGER : 0);
                typed = true;
            }
    for (size_t i = 0; i < all->n; i++) /* multiples of 1 are integers */
        if ((*types & 1U << NUMBER) && schema_get(s, all->nodes[i], "multipleOf"))
            *types &= ~(1U << NUMBER);
    return 0;
}

/* ---- enum and const ---------------------------------------------------------------------------------------------- */

static unsigned types_of_value(const struct schema *s, uint32_t node) {
    size_t n;
    const char *text = schema_text(s, node, &n);
    switch (node_at(s, node)->kind) {
    case JSON_TREE_STRING:
        return 1U << STRING;
    case JSON_TREE_ARRAY:
        return 1U << ARRAY;
    case JSON_TREE_OBJECT:
        return 1U << OBJECT;
    default:
        break;
    }
    if (!schema_is_number(s, node))
        return text[0] == 'n' ? 1U << NULL_ : 1U << BOOLEAN;
    return number_of(s, node) == floor(number_of(s, node)) ? 1U << NUMBER | 1U << INTEGER : 1U << NUMBER;
}

static bool same_value(const struct schema *s, uint32_t a, uint32_t b) {
    struct l4_buf x = {0}, y = {0};
    json_tree_write(&s->tree, a, 0, &x);
    json_tree_write(&s->tree, b, 0, &y);
    bool same = x.len == y.len && (x.len == 0 || memcmp(x.data, y.data, x.len) == 0);
    l4_buf_free(&x);
    l4_buf_free(&y);
    return same;
}

static bool listed(const struct schema *s, uint32_t list, uint32_t value) {
    for (uint32_t child = s->tree.nodes[list].child; child; child = s->tree.nodes[child].next)
        if (same_value(s, child, value))
            return true;
    return false;
}

/* Whether a value of an enum obeys what else is said; keywords of its contents beside an enum are refused before. */
static int value_allowed(struct schema *s, const struct schema_all *all, uint32_t value, bool *allowed) {
    unsigned types;
    int rc = find_types(s, all, &types);
    bool typed = false;
    for (size_t i = 0; i < all->n; i++)
        typed |= schema_get(s, all->nodes[i], "type") != 0;
    *allowed = !typed || (types & types_of_value(s, value));
    for (size_t i = 0; i < all->n && *allowed; i++) {
        uint32_t constant = schema_get(s, all->nodes[i], "const"), list = schema_get(s, all->nodes[i], "enum");
        *allowed = (!constant || same_value(s, constant, value)) && (!list || listed(s, list, value));
    }
    return rc;
}

static int refuse_beside_enum(struct schema *s, const struct schema_all *all) {
    static const char *const keys[] = {"properties",       "required",  "items",   "prefixItems", "pattern",
                                       "minLength",        "maxLength", "minimum", "maximum",     "exclusiveMinimum",
                                       "exclusiveMaximum", "minItems",  "maxItems"};
    for (size_t i = 0; i < all->n; i++)
        for (size_t k = 0; k < sizeof keys / sizeof *keys; k++) {
            uint32_t at = schema_get(s, all->nodes[i], keys[k]);
            if (at)
                return schema_fail(s, at, "'%s' beside an enum or const is not supported", keys[k]);
        }
    return 0;
}

/* *found: there is an enum or a const, and its values are written. */
static int put_enum(struct schema *s, const struct schema_all *all, struct l4_buf *out, bool *found) {
    uint32_t list = 0, value = 0;
    int rc, n = 0, n_put = 0;
    for (size_t i = 0; i < all->n && !value; i++) {
        if ((value = schema_get(s, all->nodes[i], "const")))
            list = 0;
        else if (!list)
            list = schema_get(s, all->nodes[i], "enum");
    }
    *found = list || value;
    if (!*found)
        return 0;
    if ((rc = refuse_beside_enum(s, all)))
        return rc;
    uint32_t place = value ? value : list;
    if (list && (node_at(s, list)->kind != JSON_TREE_ARRAY || !s->tree.nodes[list].child))
        return schema_fail(s, list, "must be an array of at least one value");
    for (value = value ? value : s->tree.nodes[list].child; value; value = list ? s->tree.nodes[value].next : 0) {
        bool allowed;
        if (++n > SCHEMA_MAX_ENUM)
            return schema_fail(s, list, "has more than %d values", SCHEMA_MAX_ENUM);
        if ((rc = value_allowed(s, all, value, &allowed)))
            return rc;
        if (!allowed)
            continue;
        l4_buf_puts(out, n_put++ ? " | " : "");
        schema_put_value(s, value, out);
    }
    return n_put ? 0 : schema_fail(s, place, "no value is left that all of the schema allows");
}

/* ---- anyOf and oneOf --------------------------------------------------------------------------------------------- */

/* The constant that every object of a schema has in a member, 0 for none. */
static uint32_t constant_member(const struct schema *s, uint32_t node, uint32_t name) {
    char key[128];
    uint32_t required = json_tree_member(&s->tree, node, "required");
    bool is_required = false;
    snprintf(key, sizeof key, "%.*s", (int)(s->tree.nodes[name].key_bytes < 127 ? s->tree.nodes[name].key_bytes : 127),
             s->tree.text.data + s->tree.nodes[name].key);
    for (uint32_t at = required ? s->tree.nodes[required].child : 0; at; at = s->tree.nodes[at].next)
        is_required |= s->tree.nodes[at].text_bytes == strlen(key) &&
                       memcmp(s->tree.text.data + s->tree.nodes[at].text, key, strlen(key)) == 0;
    uint32_t properties = json_tree_member(&s->tree, node, "properties");
    uint32_t member = properties && is_required ? json_tree_member(&s->tree, properties, key) : 0;
    if (!member)
        return 0;
    uint32_t constant = json_tree_member(&s->tree, member, "const"), list = json_tree_member(&s->tree, member, "enum");
    return constant                                                     ? constant
           : list && s->tree.nodes[s->tree.nodes[list].child].next == 0 ? s->tree.nodes[list].child
                                                                        : 0;
}

/* The types of the values that a schema may allow. */
static int possible_types(struct schema *s, const struct schema_all *all, unsigned *types) {
    int rc = find_types(s, all, types);
    for (size_t i = 0; i < all->n && rc == 0; i++) {
        uint32_t constant = schema_get(s, all->nodes[i], "const"), list = schema_get(s, all->nodes[i], "enum");
        unsigned listed_types = 0;
        for (uint32_t at = list ? s->tree.nodes[list].child : 0; at; at = s->tree.nodes[at].next)
            listed_types |= types_of_value(s, at);
        if (constant)
            *types &= types_of_value(s, constant);
        if (list)
            *types &= listed_types;
    }
    return rc;
}

/* Whether no value can match both: other types, other constants, or a member whose constants differ. */
static int apart(struct schema *s, const struct schema_all *a, const struct schema_all *b, bool *yes) {
    unsigned x, y;
    int rc;
    *yes = true;
    if ((rc = possible_types(s, a, &x)) || (rc = possible_types(s, b, &y)) || !(x & y))
        return rc;
    for (size_t i = 0; i < a->n; i++)
        for (size_t k = 0; k < b->n; k++) {
            uint32_t p = a->nodes[i] & NODE_BITS, q = b->nodes[k] & NODE_BITS;
            uint32_t c = json_tree_member(&s->tree, p, "const"), d = json_tree_member(&s->tree, q, "const");
            uint32_t e = json_tree_member(&s->tree, p, "enum"), f = json_tree_member(&s->tree, q, "enum");
            bool common = true;
            if (c && d)
                common = same_value(s, c, d);
            else if ((c && f) || (d && e))
                common = c ? listed(s, f, c) : listed(s, e, d);
            else if (e && f) {
                common = false;
                for (uint32_t at = s->tree.nodes[e].child; at && !common; at = s->tree.nodes[at].next)
                    common = listed(s, f, at);
            }
            if (!common)
                return 0;
            uint32_t properties = json_tree_member(&s->tree, p, "properties");
            for (uint32_t at = properties ? s->tree.nodes[properties].child : 0; at; at = s->tree.nodes[at].next) {
                uint32_t one = constant_member(s, p, at), other = constant_member(s, q, at);
                if (one && other && !same_value(s, one, other))
                    return 0;
            }
        }
    *yes = false;
    return 0;
}

/* oneOf allows what exactly one alternative allows: held to only where no two can allow the same. */
static int check_apart(struct schema *s, uint32_t list) {
    int i = 0, k, rc;
    for (uint32_t a = s->tree.nodes[list].child; a; a = s->tree.nodes[a].next, i++) {
        k = i + 1;
        for (uint32_t b = s->tree.nodes[a].next; b; b = s->tree.nodes[b].next, k++) {
            struct schema_all x = {.n = 0}, y = {.n = 0};
            bool yes;
            if ((rc = schema_all_add(s, &x, a)) || (rc = schema_all_add(s, &y, b)) || (rc = apart(s, &x, &y, &yes)))
                return rc;
            if (!yes)
                return schema_fail(s, list,
                                   "alternatives %d and %d of 'oneOf' may both match; 'anyOf' allows that, or a "
                                   "required member with a const of its own in each tells them apart",
                                   i, k);
        }
    }
    return 0;
}

/* Alternatives that contradict the rest are left out. */
static int put_alternatives(struct schema *s, const struct schema_all *all, size_t at, uint32_t list, uint32_t taken,
                            struct l4_buf *out) {
    int n_put = 0, rc;
    if (node_at(s, list)->kind != JSON_TREE_ARRAY || !s->tree.nodes[list].child)
        return schema_fail(s, list, "must be an array of at least one schema");
    if (taken == ONE_OF_TAKEN && (rc = check_apart(s, list)))
        return rc;
    for (uint32_t child = s->tree.nodes[list].child; child; child = s->tree.nodes[child].next) {
        struct schema_all one = *all;
        unsigned types;
        if (schema_is(s, child, "false"))
            continue;
        one.nodes[at] |= taken;
        if ((rc = schema_all_add(s, &one, child)) || (rc = find_types(s, &one, &types)))
            return rc;
        if (types == 0)
            continue;
        l4_buf_puts(out, n_put++ ? " | " : "");
        if ((rc = schema_put_ref(s, &one, out)))
            return rc;
    }
    return n_put ? 0 : schema_fail(s, list, "no alternative is left that all of the schema allows");
}

/* ---- rules ------------------------------------------------------------------------------------------------------- */

static int put_type(struct schema *s, const struct schema_all *all, enum type type, struct l4_buf *out) {
    switch (type) {
    case NULL_:
        l4_buf_puts(out, "\"null\"");
        return 0;
    case BOOLEAN:
        l4_buf_puts(out, "\"true\" | \"false\"");
        return 0;
    case STRING:
        return schema_put_string(s, all, out);
    case ARRAY:
        return schema_put_array(s, all, out);
    case OBJECT:
        return schema_put_object(s, all, out);
    default:
        return schema_put_number(s, all, type == INTEGER, out);
    }
}

static int put_body(struct schema *s, const struct schema_all *all, struct l4_buf *out) {
    bool found;
    unsigned types;
    int rc, n_put = 0;
    for (size_t i = 0; i < all->n; i++) {
        uint32_t any_of = schema_get(s, all->nodes[i], "anyOf"), one_of = schema_get(s, all->nodes[i], "oneOf");
        if (any_of)
            return put_alternatives(s, all, i, any_of, ANY_OF_TAKEN, out);
        if (one_of)
            return put_alternatives(s, all, i, one_of, ONE_OF_TAKEN, out);
    }
    if ((rc = put_enum(s, all, out, &found)) || found || (rc = find_types(s, all, &types)))
        return rc;
    if (types == (1U << N_TYPES) - 1) {
        l4_buf_puts(out, "value");
        return 0;
    }
    if (types & 1U << NUMBER)
        types &= ~(1U << INTEGER);
    for (int type = 0; type < N_TYPES; type++) {
        if (!(types & 1U << type))
            continue;
        l4_buf_puts(out, n_put++ ? " | " : "");
        if ((rc = put_type(s, all, (enum type)type, out)))
            return rc;
    }
    return n_put ? 0 : schema_fail(s, all->nodes[0], "no type is left that all of the schema allows");
}

int schema_put_ref(struct schema *s, const struct schema_all *all, struct l4_buf *out) {
    size_t i = 0;
    while (i < s->n_rules &&
           (s->rules[i].n != all->n || memcmp(s->rules[i].nodes, all->nodes, all->n * sizeof *all->nodes) != 0))
        i++;
    l4_buf_printf(out, "%sr%zu", s->prefix, i);
    if (i < s->n_rules)
        return 0;
    uint32_t place = all->n ? all->nodes[all->n - 1] : s->root;
    if (i == SCHEMA_MAX_RULES)
        return schema_fail(s, place, "the schema comes to more than %d different values", SCHEMA_MAX_RULES);
    if (!checked_grow((void **)&s->rules, &s->cap_rules, i + 1, sizeof *s->rules))
        return schema_no_memory(s);
    s->rules[s->n_rules++] = *all;
    if (++s->depth > L4_GRAMMAR_MAX_NESTING)
        return schema_fail(s, place, "nested deeper than %d", L4_GRAMMAR_MAX_NESTING);
    struct l4_buf body = {0};
    int rc = put_body(s, all, &body);
    s->depth--;
    l4_buf_printf(s->out, "%sr%zu ::= ", s->prefix, i);
    l4_buf_append(s->out, body.data ? body.data : "", body.len);
    l4_buf_puts(s->out, "\n");
    if (rc == 0 && (body.failed || s->out->failed))
        rc = schema_no_memory(s);
    l4_buf_free(&body);
    if (rc == 0 && s->out->len > L4_GRAMMAR_MAX_BYTES)
        rc = schema_fail(s, place, "the schema comes to a grammar of more than %d bytes", L4_GRAMMAR_MAX_BYTES);
    return rc;
}

int schema_compile(struct schema *s, uint32_t node, const char *name, struct l4_buf *out) {
    struct schema_all all = {.n = 0};
    struct l4_buf ref = {0};
    s->out = out;
    s->root = node;
    int rc = schema_all_add(s, &all, node);
    if (rc == 0)
        rc = schema_put_ref(s, &all, &ref);
    if (rc == 0)
        l4_buf_printf(out, "%s ::= %s\n", name, ref.data ? ref.data : "");
    if (rc == 0 && (ref.failed || out->failed))
        rc = schema_no_memory(s);
    l4_buf_free(&ref);
    free(s->rules);
    s->rules = NULL;
    return rc;
}

static int parse(struct schema *s, const char *json, size_t len_bytes) {
    if (len_bytes > L4_SCHEMA_MAX_BYTES)
        return l4_err_set(s->err, L4_E_INVALID, "the schema has %zu bytes: allowed are at most %d", len_bytes,
                          L4_SCHEMA_MAX_BYTES);
    return json_tree_parse(&s->tree, json, len_bytes, s->err);
}

int l4_grammar_from_schema(const char *schema, size_t len_bytes, struct l4_buf *gbnf, struct l4_err *err) {
    struct schema s = {.prefix = "", .err = err};
    int rc = parse(&s, schema, len_bytes);
    if (rc == 0)
        rc = schema_compile(&s, JSON_TREE_ROOT, "root", gbnf);
    json_grammar_put_rules(gbnf);
    if (rc == 0 && gbnf->failed)
        rc = schema_no_memory(&s);
    json_tree_fini(&s.tree);
    return rc;
}
