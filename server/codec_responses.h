/* POST /v1/responses (OpenAI's Responses API): request JSON to a struct.  Answers: responses_answer.h.
 * Pure functions.  Thread: any.
 *
 * Nothing is kept between requests: what leans on earlier answers (previous_response_id, conversation, item references,
 * prompt templates, background) is refused, `store` is taken and answered with false.
 *
 * The chat that a request becomes is the one that /v1/chat/completions makes of the same talk:
 *   instructions          a message of role system, before all others
 *   message               a message; the texts of its parts are joined; developer is system
 *   function_call         a call in the assistant's message right before it, else in one of its own
 *   function_call_output  a message of role tool
 *   reasoning             nothing
 *   tools                 {"type": "function", "function": {...}} with all other members of the flat form that are not
 *                         null, as the client wrote them
 * prompt_cache_key is the prefix cache's salt where cache_salt is not given.  reasoning, service_tier, max_tool_calls,
 * text.verbosity, safety_identifier and all of `include` but log-probabilities change nothing. */
#ifndef SERVER_CODEC_RESPONSES_H
#define SERVER_CODEC_RESPONSES_H

#include "server/codec_params.h"
#include "server/tool_calls.h"

struct responses_storage;

struct responses_request {
    struct codec_body body;
    struct gen_params params;
    struct l4_chat chat;      /* points into the body and into storage */
    struct tool_names *tools; /* names of chat's tools, NULL where the chat has none; owned */
    bool parallel_tool_calls; /* false: one call at most */
    struct l4_buf echo;       /* members of the answer that repeat the request: "instructions":...,"tools":[...] */
    struct responses_storage *storage; /* owned */
};

/* responses_decode - text [len_bytes] is borrowed and must outlive *request.  Free with responses_request_free whatever
 * comes back.  Errors: as params_decode. */
int responses_decode(const char *text, size_t len_bytes, const struct codec_limits *limits,
                     struct responses_request *request, struct codec_err *err) L4_MUST_CHECK;
void responses_request_free(struct responses_request *request);

#endif
