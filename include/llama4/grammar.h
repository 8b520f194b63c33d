/* Grammars that an answer is held to, and what makes one out of JSON: any object, a schema, the tools of a chat.
 *
 * A grammar is written in GBNF:
 *   rule     ::= name "::=" choice of sequences, separated by |       the answer is what the rule `root` derives
 *   item     ::= "text" | [a-z] | [^a-z] | . | name | ( ... )         . is any character
 *   repeated ::= item* | item+ | item? | item{m} | item{m,} | item{m,n} | item{,n}
 * Escapes in texts and classes: \n \r \t \\ \" \[ \] \- \^ \xHH \uHHHH \UHHHHHHHH.  # begins a comment.  A rule ends
 * where the next begins.  Characters are code points; what is derived is always whole UTF-8. */
#ifndef LLAMA4_GRAMMAR_H
#define LLAMA4_GRAMMAR_H

#include <stdbool.h>
#include <stddef.h>

#include "llama4/buf.h"
#include "llama4/error.h"
#include "llama4/text.h"

/* Bounds; every message that refuses something for one of them names it. */
enum {
    L4_GRAMMAR_MAX_BYTES = 1 << 20,   /* of GBNF, written by hand or made of a schema */
    L4_GRAMMAR_MAX_RULES = 1 << 14,   /* groups count, too */
    L4_GRAMMAR_MAX_NESTING = 100,     /* of parentheses, and of a schema or a pattern */
    L4_GRAMMAR_MAX_REPEAT = 1 << 20,  /* m and n of {m,n} */
    L4_GRAMMAR_MAX_EMPTY_REPEAT = 64, /* the same where what is repeated may be empty */
    L4_GRAMMAR_MAX_DEPTH = 192,       /* rules that are unfinished at the same time; deeper ones are never entered */
    L4_SCHEMA_MAX_BYTES = 1 << 18,    /* of a JSON schema's text */
};

/* Immutable and counted by reference. */
struct l4_grammar;

/* l4_grammar_open - compile GBNF text.  Any thread.
 *   Errors: L4_E_INVALID ("line 3, column 7: ..."; left recursion, rules that are not there or can never end, bounds),
 *   L4_E_NOMEM.  Free with l4_grammar_close. */
int l4_grammar_open(struct l4_grammar **out, const char *gbnf, size_t len_bytes, struct l4_err *err) L4_MUST_CHECK;
void l4_grammar_close(struct l4_grammar *grammar); /* NULL is allowed */
/* l4_grammar_ref - another reference to the same; each is closed. */
struct l4_grammar *l4_grammar_ref(struct l4_grammar *grammar);

/* l4_grammar_put_json_object - append the grammar of any JSON object. */
void l4_grammar_put_json_object(struct l4_buf *gbnf);

/* l4_grammar_from_schema - append the grammar of the JSON values that a schema allows.
 *   schema: one JSON text.  What the grammar derives is valid; not all that is valid is derived: members come in the
 *   order of the schema, white space is one blank or a line break and indentation, numbers have at most 15 digits.
 *   Keywords that cannot be held to (not, if, uniqueItems, ...) are refused, unknown ones and annotations ignored.
 *   Errors: L4_E_INVALID ("#/properties/a/pattern: ..."), L4_E_NOMEM. */
int l4_grammar_from_schema(const char *schema, size_t len_bytes, struct l4_buf *gbnf, struct l4_err *err) L4_MUST_CHECK;

/* l4_grammar_from_tools - append the grammar of calls of tools in Llama 4's JSON form,
 * {"name": NAME, "parameters": OBJECT}: one, or with `parallel` one after another.
 *   tools_json [n_tools >= 1]: the tools as the chat API has them: {"type": "function", "function": {"name",
 *   "parameters"}}, or the function alone
 *   only: the name of the one tool that may be called; NULL = any
 *   Errors: as l4_grammar_from_schema ("tools[0].function.parameters: #/...: ..."; no tool named `only`). */
int l4_grammar_from_tools(const struct l4_text *tools_json, size_t n_tools, const char *only, bool parallel,
                          struct l4_buf *gbnf, struct l4_err *err) L4_MUST_CHECK;

#endif
