/* The content of a message: a string, or an array of parts whose texts are joined.  Pure functions.  Thread: any. */
#ifndef SERVER_CODEC_CONTENT_H
#define SERVER_CODEC_CONTENT_H

#include "server/codec_json.h"

/* A type of part that is text, and the member that holds the text. */
struct content_part_type {
    const char *type, *field;
};

/* content_decode - the member `name` of a message; absent leaves *text as it is.
 *   types: what parts may be, ended by a NULL type; the first is the one that errors ask for
 *   joined: the caller's, empty; holds the text of parts, *text borrows from it or from the tree
 *   Errors: L4_E_INVALID ("content[2].type"), L4_E_NOMEM (*err filled). */
int content_decode(const cJSON *message, const char *name, const struct content_part_type *types, struct l4_buf *joined,
                   struct l4_text *text, struct codec_err *err) L4_MUST_CHECK;

#endif
