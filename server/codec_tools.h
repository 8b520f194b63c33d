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
