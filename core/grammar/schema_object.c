/* Objects and arrays. */
#include <stdlib.h>
#include <string.h>

#include "core/base/checked.h"
#include "core/grammar/schema.h"

struct property {
    const char *name; /* in the tree's text */
    size_t name_bytes;
    uint32_t place; /* node to blame */
    bool required;
};

struct object {
    struct schema *s;
    const struct schema_all *all;
    struct property *properties;
    size_t n, cap;
    bool extra;               /* members that are not listed may come ... */
    struct schema_all extras; /* ... and what holds for them */
    bool closed;              /* some schema allows none */
};

/* ---- what the schemas say ---------------------------------------------------------------------------------------- */

static struct property *find_property(struct object *o, const char *name, size_t name_bytes) {
    for (size_t i = 0; i < o->n; i++)
        if (o->properties[i].name_bytes == name_bytes && memcmp(o->properties[i].name, name, name_bytes) == 0)
            return &o->properties[i];
    return NULL;
}

static int add_property(struct object *o, const char *name, size_t name_bytes, uint32_t place, bool required) {
    struct property *known = find_property(o, name, name_bytes);
    if (known) {
        known->required |= required;
        return 0;
    }
    if (o->n == SCHEMA_MAX_PROPERTIES)
        return schema_fail(o->s, place, "more than %d properties", SCHEMA_MAX_PROPERTIES);
    if (!checked_grow((void **)&o->properties, &o->cap, o->n + 1, sizeof *o->properties))
        return schema_no_memory(o->s);
    o->properties[o->n++] =
        (struct property){.name = name, .name_bytes = name_bytes, .place = place, .required = required};
    return 0;
}

static uint32_t first_child(struct schema *s, uint32_t node, enum json_tree_kind kind, const char *what, int *rc) {
    if (*rc == 0 && node && s->tree.nodes[node].kind != kind)
        *rc = schema_fail(s, node, "must be %s", what);
    return node && *rc == 0 ? s->tree.nodes[node].child : 0;
}

static int collect(struct object *o) {
    struct schema *s = o->s;
    int rc = 0;
    for (int required = 0; required <= 1; required++)
        for (size_t i = 0; i < o->all->n && rc == 0; i++) {
            uint32_t node = o->all->nodes[i], at;
            if (!required) {
                at = first_child(s, schema_get(s, node, "properties"), JSON_TREE_OBJECT, "an object", &rc);
            } else {
                uint32_t list = schema_get(s, node, "required");
                at = list && (schema_is(s, list, "true") || schema_is(s, list, "false")) /* draft 3 */
                         ? 0
                         : first_child(s, list, JSON_TREE_ARRAY, "an array of names", &rc);
            }
            for (; at && rc == 0; at = s->tree.nodes[at].next) {
                const struct json_node *n = &s->tree.nodes[at];
                if (!required)
                    rc = add_property(o, s->tree.text.data + n->key, n->key_bytes, at, false);
                else if (n->kind != JSON_TREE_STRING)
                    rc = schema_fail(s, at, "must be a name");
                else
                    rc = add_property(o, s->tree.text.data + n->text, n->text_bytes, at, true);
            }
        }
    return rc;
}

static int find_extras(struct object *o) {
    struct schema *s = o->s;
    bool listed = false;
    int rc = 0;
    for (size_t i = 0; i < o->all->n && rc == 0; i++) {
        uint32_t extra = schema_get(s, o->all->nodes[i], "additionalProperties");
        if (!extra)
            extra = schema_get(s, o->all->nodes[i], "unevaluatedProperties");
        listed |= schema_get(s, o->all->nodes[i], "properties") != 0;
        if (!extra)
            continue;
        if (schema_is(s, extra, "false")) {
            o->closed = true;
        } else {
            o->extra = true;
            rc = schema_all_add(s, &o->extras, extra);
        }
    }
    o->extra = (o->extra || !listed) && !o->closed;
    return rc;
}

static uint32_t tree_member(const struct schema *s, uint32_t object, const char *name, size_t name_bytes) {
    uint32_t at = object && s->tree.nodes[object].kind == JSON_TREE_OBJECT ? s->tree.nodes[object].child : 0;
    while (at && (s->tree.nodes[at].key_bytes != name_bytes ||
                  memcmp(s->tree.text.data + s->tree.nodes[at].key, name, name_bytes) != 0))
        at = s->tree.nodes[at].next;
    return at;
}

/* What holds for a property: its own schemas, and additionalProperties where it is not listed. */
static int property_all(struct object *o, const struct property *property, struct schema_all *all, bool *forbidden) {
    struct schema *s = o->s;
    all->n = 0;
    *forbidden = false;
    for (size_t i = 0; i < o->all->n; i++) {
        uint32_t node = o->all->nodes[i];
        uint32_t own = tree_member(s, schema_get(s, node, "properties"), property->name, property->name_bytes);
        if (!own)
            own = schema_get(s, node, "additionalProperties");
        if (schema_is(s, own, "false"))
            *forbidden = true;
        int rc = own && !*forbidden ? schema_all_add(s, all, own) : 0;
        if (rc)
            return rc;
    }
    return 0;
}

/* The counts of members are not counted: they are allowed where every derivation keeps to them anyway. */
static int check_counts(struct object *o, size_t n_least, size_t n_most) {
    for (size_t i = 0; i < o->all->n; i++) {
        uint32_t min = schema_get(o->s, o->all->nodes[i], "minProperties"), count = 0;
        uint32_t max = schema_get(o->s, o->all->nodes[i], "maxProperties");
        int rc;
        if (min && ((rc = schema_count(o->s, min, &count)) || n_least < count))
            return rc ? rc
                      : schema_fail(o->s, min, "'minProperties' is supported up to the number of required properties");
        if (max && ((rc = schema_count(o->s, max, &count)) || n_most > count))
            return rc ? rc : schema_fail(o->s, max, "'maxProperties' is supported from the number of properties on");
    }
    return 0;
}

/* ---- names that are not listed ----------------------------------------------------------------------------------- */

/* Names are compared as they are written: unlisted ones take no escapes, and listed ones that need some are none. */
#define NAME_CHAR "\\\"\\\\\\x00-\\x1f"

static int compare_names(const void *a, const void *b) {
    const struct property *x = a, *y = b;
    size_t n = x->name_bytes < y->name_bytes ? x->name_bytes : y->name_bytes;
    int order = memcmp(x->name, y->name, n);
    return order ? order : (x->name_bytes > y->name_bytes) - (x->name_bytes < y->name_bytes);
}

static size_t char_bytes(const char *text) {
    unsigned char c = (unsigned char)*text;
    return c < 0x80 ? 1 : c < 0xE0 ? 2 : c < 0xF0 ? 3 : 4;
}

/* A rule for what may follow the first `at` bytes, which names[0..n) share; n >= 1.  Its number in *rule. */
static int put_other_names(struct schema *s, const struct property *names, size_t n, size_t at, size_t *rule) {
    struct l4_buf body = {0};
    bool complete = names[0].name_bytes == at; /* a listed name: not here */
    int rc = 0;
    if (++s->depth > 4 * L4_GRAMMAR_MAX_NESTING)
        return schema_fail(s, names[0].place, "a name of more than %d characters beside additionalProperties",
                           3 * L4_GRAMMAR_MAX_NESTING);
    l4_buf_puts(&body, complete ? "[^" NAME_CHAR : "(\"\" | [^" NAME_CHAR);
    for (size_t i = complete; i < n; i++)
        if (i == complete || memcmp(names[i].name + at, names[i - 1].name + at, char_bytes(names[i].name + at)) != 0) {
            const char *c = names[i].name + at;
            if (strchr("]^-", *c))
                l4_buf_puts(&body, "\\");
            l4_buf_append(&body, c, char_bytes(c));
        }
    l4_buf_puts(&body, complete ? "] [^" NAME_CHAR "]*" : "] [^" NAME_CHAR "]*)");
    for (size_t i = complete, next; i < n && rc == 0; i = next) {
        size_t len = char_bytes(names[i].name + at), below;
        for (next = i + 1; next < n && memcmp(names[next].name + at, names[i].name + at, len) == 0;)
            next++;
        rc = put_other_names(s, names + i, next - i, at + len, &below);
        l4_buf_puts(&body, " | ");
        schema_put_literal(&body, names[i].name + at, len);
        l4_buf_printf(&body, " %sh%zu", s->prefix, below);
    }
    s->depth--;
    *rule = s->n_helpers++;
    l4_buf_printf(s->out, "%sh%zu ::= %s\n", s->prefix, *rule, body.data ? body.data : "");
    s->out->failed |= body.failed;
    l4_buf_free(&body);
    return rc;
}

static int put_extra_member(struct object *o, size_t *rule) {
    struct schema *s = o->s;
    struct l4_buf value = {0};
    struct property *names = checked_array(o->n, sizeof *names);
    size_t n = 0, name = 0;
    if (!names)
        return schema_no_memory(s);
    for (size_t i = 0; i < o->n; i++) {
        bool plain = true;
        for (size_t k = 0; k < o->properties[i].name_bytes; k++) {
            unsigned char c = (unsigned char)o->properties[i].name[k];
            plain &= c >= 0x20 && c != '"' && c != '\\';
        }
        if (plain)
            names[n++] = o->properties[i];
    }
    qsort(names, n, sizeof *names, compare_names);
    int rc = n ? put_other_names(s, names, n, 0, &name) : 0;
    free(names);
    if (rc == 0)
        rc = schema_put_ref(s, &o->extras, &value);
    *rule = s->n_helpers++;
    if (n)
        l4_buf_printf(s->out, "%sh%zu ::= \"\\\"\" %sh%zu \"\\\"\" ws \":\" ws %s\n", s->prefix, *rule, s->prefix, name,
                      value.data ? value.data : "");
    else
        l4_buf_printf(s->out, "%sh%zu ::= \"\\\"\" [^" NAME_CHAR "]* \"\\\"\" ws \":\" ws %s\n", s->prefix, *rule,
                      value.data ? value.data : "");
    s->out->failed |= value.failed;
    l4_buf_free(&value);
    return rc;
}

/* ---- objects ----------------------------------------------------------------------------------------------------- */

/* A rule for one member. */
static int put_member(struct object *o, const struct property *property, const struct schema_all *all, size_t *rule) {
    struct schema *s = o->s;
    struct l4_buf key = {0}, line = {0};
    json_tree_write_string(property->name, property->name_bytes, &key);
    schema_put_literal(&line, key.data ? key.data : "", key.len);
    l4_buf_puts(&line, " ws \":\" ws ");
    int rc = schema_put_ref(s, all, &line);
    *rule = s->n_helpers++;
    l4_buf_printf(s->out, "%sh%zu ::= %s\n", s->prefix, *rule, line.data ? line.data : "");
    s->out->failed |= key.failed || line.failed;
    l4_buf_free(&key);
    l4_buf_free(&line);
    return rc;
}

/* From the last member to the first: what may follow once there is a member (tail), and what may come first (first).
 * *first: its rule, -1 = nothing; *must: there has to be a first one. */
static int put_members(struct object *o, long *first, bool *must) {
    struct schema *s = o->s;
    size_t rule = 0, tail = s->n_helpers++, n_least = 0, n_most = 0;
    int rc = 0;
    *first = -1;
    *must = false;
    if (o->extra) {
        if ((rc = put_extra_member(o, &rule)))
            return rc;
        l4_buf_printf(s->out, "%sh%zu ::= (ws \",\" ws %sh%zu)*\n", s->prefix, tail, s->prefix, rule);
        *first = (long)s->n_helpers++;
        l4_buf_printf(s->out, "%sh%ld ::= %sh%zu %sh%zu\n", s->prefix, *first, s->prefix, rule, s->prefix, tail);
        n_most = SIZE_MAX / 2;
    } else {
        l4_buf_printf(s->out, "%sh%zu ::= \"\"\n", s->prefix, tail);
    }
    for (size_t i = o->n; i-- > 0;) {
        const struct property *property = &o->properties[i];
        struct schema_all all;
        bool forbidden;
        if ((rc = property_all(o, property, &all, &forbidden)))
            return rc;
        if (forbidden && property->required)
            return schema_fail(s, property->place, "the property is required, and not allowed");
        if (forbidden)
            continue;
        if ((rc = put_member(o, property, &all, &rule)))
            return rc;
        size_t now = s->n_helpers++, next_tail = s->n_helpers++;
        l4_buf_printf(s->out, "%sh%zu ::= %sh%zu %sh%zu", s->prefix, now, s->prefix, rule, s->prefix, tail);
        if (!property->required && *first >= 0)
            l4_buf_printf(s->out, " | %sh%ld", s->prefix, *first);
        l4_buf_printf(s->out, "\n%sh%zu ::= (ws \",\" ws %sh%zu)%s %sh%zu\n", s->prefix, next_tail, s->prefix, rule,
                      property->required ? "" : "?", s->prefix, tail);
        *first = (long)now;
        *must |= property->required;
        n_least += property->required;
        n_most++;
        tail = next_tail;
    }
    return check_counts(o, n_least, n_most);
}

int schema_put_object(struct schema *s, const struct schema_all *all, struct l4_buf *out) {
    struct object o = {.s = s, .all = all};
    long first = -1;
    bool must = false;
    int rc = collect(&o);
    if (rc == 0)
        rc = find_extras(&o);
    if (rc == 0)
        rc = put_members(&o, &first, &must);
    free(o.properties);
    if (rc)
        return rc;
    if (first < 0)
        l4_buf_puts(out, "\"{\" ws \"}\"");
    else
        l4_buf_printf(out, must ? "\"{\" ws %sh%ld ws \"}\"" : "\"{\" ws (%sh%ld ws)? \"}\"", s->prefix, first);
    return 0;
}

/* ---- arrays ------------------------------------------------------------------------------------------------------ */

/* The schemas of the items at the beginning: prefixItems, or items as an array. */
static uint32_t prefix_of(const struct schema *s, uint32_t node) {
    uint32_t prefix = schema_get(s, node, "prefixItems"), items = schema_get(s, node, "items");
    return prefix ? prefix : items && s->tree.nodes[items].kind == JSON_TREE_ARRAY ? items : 0;
}

static uint32_t rest_of(const struct schema *s, uint32_t node) {
    uint32_t items = schema_get(s, node, "items");
    return items && s->tree.nodes[items].kind == JSON_TREE_ARRAY ? schema_get(s, node, "additionalItems") : items;
}

/* What holds for the item at place i.  *forbidden: there is none. */
static int item_all(struct schema *s, const struct schema_all *all, uint32_t i, struct schema_all *out,
                    bool *forbidden) {
    out->n = 0;
    *forbidden = false;
    for (size_t k = 0; k < all->n; k++) {
        uint32_t prefix = prefix_of(s, all->nodes[k]), at = prefix ? s->tree.nodes[prefix].child : 0;
        for (uint32_t n = i; at && n > 0; n--)
            at = s->tree.nodes[at].next;
        if (!at)
            at = rest_of(s, all->nodes[k]);
        if (schema_is(s, at, "false"))
            *forbidden = true;
        int rc = at && !*forbidden ? schema_all_add(s, out, at) : 0;
        if (rc)
            return rc;
    }
    return 0;
}

static int array_bounds(struct schema *s, const struct schema_all *all, uint32_t *n_prefix, uint32_t *min,
                        uint32_t *max) {
    int rc = 0;
    *n_prefix = *min = 0;
    *max = GRAMMAR_NO_MAX;
    for (size_t i = 0; i < all->n && rc == 0; i++) {
        uint32_t node = all->nodes[i], at, count, n = 0;
        for (at = first_child(s, prefix_of(s, node), JSON_TREE_ARRAY, "an array of schemas", &rc); at;
             at = s->tree.nodes[at].next)
            n++;
        *n_prefix = n > *n_prefix ? n : *n_prefix;
        if (rc == 0 && (at = schema_get(s, node, "minItems")) && !(rc = schema_count(s, at, &count)) && count > *min)
            *min = count;
        if (rc == 0 && (at = schema_get(s, node, "maxItems")) && !(rc = schema_count(s, at, &count)) && count < *max)
            *max = count;
    }
    return rc;
}

static void put_counts(uint32_t min, uint32_t max, struct l4_buf *out) {
    if (max == GRAMMAR_NO_MAX)
        l4_buf_printf(out, "{%u,}", (unsigned)min);
    else
        l4_buf_printf(out, "{%u,%u}", (unsigned)min, (unsigned)max);
}

/* The items behind the n_before first ones. */
static int put_items(struct schema *s, const struct schema_all *items, uint32_t n_before, uint32_t min, uint32_t max,
                     struct l4_buf *out) {
    struct l4_buf ref = {0};
    int rc = schema_put_ref(s, items, &ref);
    const char *name = ref.data ? ref.data : "";
    out->failed |= ref.failed;
    if (n_before > 0) {
        l4_buf_printf(out, "(ws \",\" ws %s)", name);
        put_counts(min, max, out);
        l4_buf_puts(out, " ws ");
    } else {
        l4_buf_printf(out, min ? "%s (ws \",\" ws %s)" : "(%s (ws \",\" ws %s)", name, name);
        put_counts(min ? min - 1 : 0, max == GRAMMAR_NO_MAX ? max : max - 1, out);
        l4_buf_puts(out, min ? " ws " : " ws)? ");
    }
    l4_buf_free(&ref);
    return rc;
}

int schema_put_array(struct schema *s, const struct schema_all *all, struct l4_buf *out) {
    uint32_t n_prefix, min, max, n = 0;
    struct schema_all items;
    bool forbidden = false, listed = false;
    int rc = array_bounds(s, all, &n_prefix, &min, &max);
    if (rc)
        return rc;
    if (n_prefix > SCHEMA_MAX_PROPERTIES)
        return schema_fail(s, all->nodes[0], "more than %d items with schemas of their own", SCHEMA_MAX_PROPERTIES);
    l4_buf_puts(out, "\"[\" ws ");
    for (; n < n_prefix && n < max; n++) {
        if ((rc = item_all(s, all, n, &items, &forbidden)))
            return rc;
        if (forbidden)
            break;
        if (n > 0)
            l4_buf_puts(out, "ws \",\" ws ");
        if ((rc = schema_put_ref(s, &items, out)))
            return rc;
        l4_buf_puts(out, " ");
    }
    if (!forbidden && (rc = item_all(s, all, n, &items, &forbidden)))
        return rc;
    for (size_t i = 0; i < all->n; i++)
        listed |= rest_of(s, all->nodes[i]) != 0;
    if (n_prefix > 0 && !listed && min <= n) /* whatever follows is allowed, and of no use */
        max = max < n ? max : n;
    if (forbidden)
        max = max < n ? max : n;
    if (min > max)
        return schema_fail(s, all->nodes[0], "no number of items is allowed");
    if (max > n)
        rc = put_items(s, &items, n, min > n ? min - n : 0, max == GRAMMAR_NO_MAX ? max : max - n, out);
    else if (n > 0)
        l4_buf_puts(out, "ws ");
    l4_buf_puts(out, "\"]\"");
    return rc;
}
