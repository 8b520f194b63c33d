/* Between the files that turn a JSON schema into GBNF.
 *
 * What a value has to obey is a list of schemas at once (struct schema_all): `allOf`, `$ref` and what stands beside
 * them are flattened into it, so that each keyword is looked for in all of them.  Every such list becomes one rule,
 * which makes recursive schemas recursive rules. */
#ifndef CORE_GRAMMAR_SCHEMA_H
#define CORE_GRAMMAR_SCHEMA_H

#include "core/text/json_tree.h"
#include "llama4/grammar.h"

enum {
    SCHEMA_MAX_ALL = 32,     /* schemas that hold for one value at once */
    SCHEMA_MAX_RULES = 4096, /* different values */
    SCHEMA_MAX_PROPERTIES = 1000,
    SCHEMA_MAX_ENUM = 1000,
    SCHEMA_MAX_DIGITS = 15,
};

#define GRAMMAR_NO_MAX UINT32_MAX

struct schema_all {
    uint32_t nodes[SCHEMA_MAX_ALL]; /* in the order in which they were found; with marks of schema.c */
    size_t n;
};

struct schema {
    struct json_tree tree;
    uint32_t root;            /* what $ref and messages begin at */
    struct l4_buf *out;       /* finished rules */
    struct schema_all *rules; /* r0, r1, ... */
    size_t n_rules, cap_rules;
    size_t n_helpers;   /* h0, h1, ... */
    const char *prefix; /* of the names of rules, so that several schemas fit into one grammar */
    int depth;
    struct l4_err *err;
};

/* schema_fail - "#/properties/a: ...": the place of a node. */
int schema_fail(struct schema *s, uint32_t node, const char *fmt, ...) L4_PRINTF(3, 4);
int schema_no_memory(struct schema *s);

/* The member of a schema that is an object; 0 for none. */
uint32_t schema_get(const struct schema *s, uint32_t node, const char *key);
const char *schema_text(const struct schema *s, uint32_t node, size_t *len_bytes); /* not terminated */
bool schema_is(const struct schema *s, uint32_t node, const char *literal);
bool schema_is_number(const struct schema *s, uint32_t node);
/* schema_count - a whole number from 0 to 2^20; INVALID names the place otherwise. */
int schema_count(struct schema *s, uint32_t node, uint32_t *count) L4_MUST_CHECK;

/* Append "..." with what GBNF asks to be escaped. */
void schema_put_literal(struct l4_buf *out, const char *text, size_t len_bytes);

/* ---- schema_number.c ---- */
/* The GBNF of a number within the bounds of all. */
int schema_put_number(struct schema *s, const struct schema_all *all, bool integer, struct l4_buf *out) L4_MUST_CHECK;

/* ---- schema_string.c ---- */
int schema_put_string(struct schema *s, const struct schema_all *all, struct l4_buf *out) L4_MUST_CHECK;

/* ---- schema_pattern.c ---- */
/* schema_put_pattern - the insides of JSON strings that an ECMA 262 pattern finds a match in; of min to max characters.
 */
int schema_put_pattern(struct schema *s, uint32_t node, uint32_t *min, uint32_t *max, struct l4_buf *out) L4_MUST_CHECK;

/* ---- schema_object.c ---- */
int schema_put_object(struct schema *s, const struct schema_all *all, struct l4_buf *out) L4_MUST_CHECK;
int schema_put_array(struct schema *s, const struct schema_all *all, struct l4_buf *out) L4_MUST_CHECK;

/* ---- schema.c ---- */
int schema_all_add(struct schema *s, struct schema_all *all, uint32_t node) L4_MUST_CHECK;
/* schema_put_ref - append the name of the rule for these schemas, which is written if it is new. */
int schema_put_ref(struct schema *s, const struct schema_all *all, struct l4_buf *out) L4_MUST_CHECK;
/* schema_put_value - a constant. */
void schema_put_value(struct schema *s, uint32_t node, struct l4_buf *out);

/* schema_compile - the rule `name` for the schema at `node` of s->tree and those that it needs.  s->tree, prefix and
 * err are set. */
int schema_compile(struct schema *s, uint32_t node, const char *name, struct l4_buf *out) L4_MUST_CHECK;

#endif
