/* JSON values as Python reads and writes them: the chat template shows tools and tool calls to the model as json.dumps
 * prints them.  A parser into doubles would lose what Python keeps: whole numbers of any length, 1.0 beside 1. */
#ifndef CORE_TEXT_JSON_TREE_H
#define CORE_TEXT_JSON_TREE_H

#include <stddef.h>
#include <stdint.h>

#include "llama4/buf.h"
#include "llama4/error.h"

enum { JSON_TREE_MAX_DEPTH = 512 };

enum json_tree_kind {
    JSON_TREE_LITERAL, /* null, true, false or a number: text is as Python prints it */
    JSON_TREE_STRING,  /* text is the string itself */
    JSON_TREE_ARRAY,
    JSON_TREE_OBJECT,
};

/* Nodes name each other by their place in json_tree.nodes; 0 is no node. */
struct json_node {
    uint32_t kind; /* enum json_tree_kind */
    uint32_t parent, child, next;
    uint32_t text, text_bytes; /* in json_tree.text */
    uint32_t key, key_bytes;   /* in json_tree.text, where the parent is an object */
};

/* All zero is empty. */
struct json_tree {
    struct json_node *nodes;
    size_t n_nodes, cap_nodes;
    struct l4_buf text; /* its data is not NULL once a text was read */
    uint32_t *keys;     /* hash table of the members of all objects, by parent and key; 0 = an empty slot */
    size_t n_key_slots, n_keys;
};

enum { JSON_TREE_ROOT = 1 };

/* json_tree_parse - read one JSON text into an empty tree, as Python's json.loads does: of equal keys the last value
 * counts, in the place of the first.
 *   Errors: L4_E_INVALID (byte offset and reason; also NaN, Infinity and numbers that overflow, which are not JSON),
 *   L4_E_NOMEM.  The tree is to be freed with json_tree_fini in either case. */
int json_tree_parse(struct json_tree *tree, const char *json, size_t len_bytes, struct l4_err *err) L4_MUST_CHECK;
void json_tree_fini(struct json_tree *tree);

/* json_tree_write - append a node as json.dumps(value, ensure_ascii=False, indent=indent) prints it; indent 0: on one
 * line. */
void json_tree_write(const struct json_tree *tree, uint32_t node, int indent, struct l4_buf *out);

/* json_tree_write_string - append a string's JSON form. */
void json_tree_write_string(const char *text, size_t len_bytes, struct l4_buf *out);

/* json_tree_member - the member of an object, 0 for none. */
uint32_t json_tree_member(const struct json_tree *tree, uint32_t object, const char *key);

#endif
