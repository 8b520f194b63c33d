/* What the endpoints with tools share: names, and decoding that is held to calls.  Pure functions.  Thread: any. */
#ifndef SERVER_CODEC_TOOLS_H
#define SERVER_CODEC_TOOLS_H

#include "llama4/grammar.h"
#include "server/codec_json.h"
#include "server/tool_calls.h"

enum { TOOLS_MAX_N = 1024 };

/* tools_open_names - an empty set for the names of a request's array of tools.
 *   Errors: L4_E_INVALID (too many tools), L4_E_NOMEM (*err filled). */
int tools_open_names(const cJSON *tools, struct tool_names **names, struct codec_err *err) L4_MUST_CHECK;
/* tools_add_name - check a tool's name, and that no other has it.  param: where it stands.
 *   Errors: L4_E_INVALID, L4_E_NOMEM (*err filled). */
int tools_add_name(struct tool_names *names, struct l4_text name, const char *param,
                   struct codec_err *err) L4_MUST_CHECK;

/* A request's tools, written anew as the chat API has them. */
struct tool_texts {
    struct l4_text *json;   /* [n], into storage */
    struct l4_buf *storage; /* [n] */
    size_t n;
};
/* One of them, the i-th: check it, add its name to names, append its text to *out.
 *   Errors: L4_E_INVALID (*err names the place within the tool), L4_E_NOMEM (*err filled). */
typedef int tools_read_one(void *user, const cJSON *tool, struct codec_slice slice, size_t i, struct tool_names *names,
                           struct l4_buf *out, struct codec_err *err);
/* tools_read - all of the body's "tools" into *texts and *names, which stay empty where there are none.  Free both
 * whatever comes back.  Errors: as tools_read_one's, with "tools[i]" before the place. */
int tools_read(const struct codec_body *body, tools_read_one *read_one, void *user, struct tool_names **names,
               struct tool_texts *texts, struct codec_err *err) L4_MUST_CHECK;
void tool_texts_free(struct tool_texts *texts); /* all zero is allowed */

/* tools_check_json - arguments and schemas must pass the template, which writes them as Python would: better refused
 * here, by the name of their place.  Errors: L4_E_INVALID, L4_E_NOMEM (*err filled). */
int tools_check_json(struct codec_slice json, const char *param, struct codec_err *err) L4_MUST_CHECK;

/* tools_force_call - *grammar holds decoding to calls of the chat's tools, in Llama 4's JSON form.
 *   only: the one tool to call, NULL = any      parallel: several calls are allowed
 *   *grammar must be NULL, else the request asks for two forms at once.
 *   Errors: L4_E_INVALID (names 'tool_choice' or the tool), L4_E_NOMEM (*err filled). */
int tools_force_call(const struct l4_chat *chat, const char *only, bool parallel, struct l4_grammar **grammar,
                     struct codec_err *err) L4_MUST_CHECK;

#endif
