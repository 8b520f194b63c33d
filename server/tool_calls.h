/* Tool calls in the text that a Llama 4 model answers with, found while the text comes in.
 *
 * Pure: no engine, no HTTP, no JSON tree.  Thread: any, a parser belongs to one at a time.
 *
 * What is taken for calls, with space allowed between any two tokens:
 *   calls  ::= tag* group ((";" | ",")? tag* group)* tag*
 *   group  ::= object | "[" call ("," call)* ","? "]"?
 *   call   ::= object | function
 *   object ::= "{" member ("," member)* "}"?             members in any order; the last "}" may be missing at the end
 *   member ::= "name": NAME | ("parameters" | "arguments"): dict | "type": "function"
 *   function ::= NAME "(" (identifier "=" value ("," identifier "=" value)* ","?)? ")"
 *   value  ::= string | number | list | dict | true | True | false | False | null | None
 *   list   ::= "[" (value ("," value)* ","?)? "]"
 *   dict   ::= "{" (string ":" value ("," string ":" value)* ","?)? "}"
 *   string ::= in "double" or 'single' quotes, with the escapes of JSON and of Python; any other backslash is itself
 *   number ::= as in JSON or in Python: also +1, .5, 5. and 1_000; not hexadecimal, not inf
 *   tag    ::= "<|python_start|>" | "<|python_end|>"
 * NAME is the name of one of the tools that the request brought.  Everything else is content: prose before, between and
 * after calls, and what begins like a call and does not go on like one, from its first byte to its last.  Tags, space,
 * brackets and separators next to calls are markup, which is neither content nor call.
 *
 * Arguments are written again as JSON: one object, as Python's json.dumps spaces it, numbers with the digits they had.
 */
#ifndef SERVER_TOOL_CALLS_H
#define SERVER_TOOL_CALLS_H

#include <stdbool.h>
#include <stddef.h>

#include "llama4/buf.h"
#include "llama4/text.h"

enum {
    TOOL_CALLS_MAX_NAME_BYTES = 128,
    TOOL_CALLS_MAX_DEPTH = 64,       /* of lists and dicts in arguments */
    TOOL_CALLS_MAX_BYTES = 1 << 20,  /* of one call; a longer one is content */
    TOOL_CALLS_MAX_SPACE_BYTES = 256 /* held back because a call may follow */
};

enum tool_event_type {
    TOOL_CONTENT,        /* text to show */
    TOOL_CALL_BEGIN,     /* text: the name */
    TOOL_CALL_ARGUMENTS, /* text: the next piece of the arguments' JSON */
    TOOL_CALL_END,       /* the arguments are whole; text: the call as the model wrote it, markup before it included */
    TOOL_CALL_BROKEN,    /* the call that was begun is none, its arguments so far are no JSON; text: all that was to be
                            it, markup included, which is content */
    TOOL_MARKUP,         /* text that is not shown */
};

struct tool_event {
    enum tool_event_type type;
    size_t call; /* number of the call, from 0; those that broke count */
    struct l4_text text;
};
/* The event and its text are borrowed.  The texts of CONTENT, END, BROKEN and MARKUP, in order, are the text that was
 * fed. Where the pieces fed are whole UTF-8 characters, so are the texts. */
typedef void tool_event_fn(void *user, const struct tool_event *event);

struct tool_names;
/* tool_names_open - an empty set of names; add copies.  A name holds letters, digits, '_', '-' and '.' and has at most
 * TOOL_CALLS_MAX_NAME_BYTES: tool_name_is_valid.  Both return NULL or false when out of memory.  Close may be given
 * NULL. */
struct tool_names *tool_names_open(void);
bool tool_names_add(struct tool_names *names, struct l4_text name) L4_MUST_CHECK;
bool tool_names_has(const struct tool_names *names, struct l4_text name);
void tool_names_close(struct tool_names *names);
bool tool_name_is_valid(struct l4_text name);

struct tool_calls;
/* tool_calls_open - a parser; NULL when out of memory.  names and user are borrowed until close.
 *   max_calls: calls beyond the first max_calls that are whole are markup; 0 = any number. */
struct tool_calls *tool_calls_open(const struct tool_names *names, size_t max_calls, tool_event_fn *on_event,
                                   void *user);
/* tool_calls_feed - the next piece of text.  Events come from inside; how the text is cut into pieces changes only how
 * content and arguments are cut.  A call begins at the byte that completes its name. */
void tool_calls_feed(struct tool_calls *calls, const char *text, size_t len_bytes);
/* tool_calls_finish - the text is over: what is held is decided. */
void tool_calls_finish(struct tool_calls *calls);
/* True once memory ran out: events may be missing. */
bool tool_calls_failed(const struct tool_calls *calls);
void tool_calls_close(struct tool_calls *calls); /* NULL is allowed */

#endif
