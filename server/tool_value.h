/* One value of a tool call's arguments, JSON's or Python's, written again as JSON while it comes in.  The grammar is in
 * tool_calls.h.  Pure, no allocation but the output's.  Thread: any, a value belongs to one at a time. */
#ifndef SERVER_TOOL_VALUE_H
#define SERVER_TOOL_VALUE_H

#include <stdbool.h>
#include <stdint.h>

#include "server/tool_calls.h"

enum { TOOL_VALUE_MAX_WORD_BYTES = 512 }; /* of a number */

enum tool_value_result {
    TOOL_VALUE_MORE,        /* the byte belongs to the value, which goes on */
    TOOL_VALUE_DONE,        /* the byte is the value's last one */
    TOOL_VALUE_DONE_BEFORE, /* the value was whole before the byte, which is not part of it */
    TOOL_VALUE_BAD,         /* no value; *out holds a beginning of one */
};

struct tool_value {
    enum tool_value_state {
        VALUE_BEGIN, /* a value, or the end of a list */
        VALUE_KEY,   /* a key, or the end of a dict */
        VALUE_COLON,
        VALUE_NEXT, /* a comma, or the end of the list or dict */
        VALUE_STRING,
        VALUE_ESCAPE,
        VALUE_HEX,
        VALUE_WORD, /* a number or a literal */
    } state;
    int depth;
    bool in_dict[TOOL_CALLS_MAX_DEPTH]; /* else in a list */
    bool needs_comma, is_key;
    char quote;
    char escape; /* which one its digits belong to: 'x', 'u' or 'U' */
    int hex_left;
    uint32_t code, high; /* high: half of a surrogate pair, 0 = none */
    char word[TOOL_VALUE_MAX_WORD_BYTES];
    size_t word_bytes;
};

void tool_value_init(struct tool_value *value);
enum tool_value_result tool_value_step(struct tool_value *value, char byte, struct l4_buf *out);

/* tool_value_put_char - one character (below U+80: one byte) inside a JSON string. */
void tool_value_put_char(struct l4_buf *out, uint32_t code);

#endif
