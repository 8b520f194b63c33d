/* POST /v1/messages (Anthropic's Messages API): request JSON to a struct, answers to JSON and to a stream's events.
 * Pure functions.  Thread: any.
 *
 * The chat that a request becomes is the one that /v1/chat/completions makes of the same talk:
 *   system       the first message, of role system; text blocks are joined
 *   text         the message's content; blocks next to each other are joined
 *   tool_use     a tool call of the assistant's message, after its text
 *   tool_result  a message of role tool; "Error: " before its text says is_error, for which the template has no place
 *   tools        {"type": "function", "function": {"name", "description", "parameters": input_schema}}
 *   a last message of the assistant is left open: the answer goes on from there
 *
 * temperature may be 0 to 2 as on the other endpoints: Anthropic's 0 to 1 lies within, so that what is right there is
 * right here, and a client that moves between endpoints finds one scale. */
#ifndef SERVER_CODEC_MESSAGES_H
#define SERVER_CODEC_MESSAGES_H

#include "server/codec_answer.h"
#include "server/codec_params.h"
#include "server/tool_calls.h"

struct messages_storage;

struct messages_request {
    struct codec_body body;
    struct gen_params params;
    struct l4_chat chat;              /* points into the body and into storage */
    struct tool_names *tools;         /* names of chat's tools, NULL where the chat has none; owned */
    bool parallel_tool_calls;         /* false: one call at most */
    struct messages_storage *storage; /* owned */
};

enum messages_use { MESSAGES_ANSWER, MESSAGES_COUNT /* max_tokens may be missing */ };

/* messages_decode - text [len_bytes] is borrowed and must outlive *request.  Free with messages_request_free whatever
 * comes back.  Errors: as params_decode_shared. */
int messages_decode(const char *text, size_t len_bytes, enum messages_use use, const struct codec_limits *limits,
                    struct messages_request *request, struct codec_err *err) L4_MUST_CHECK;
void messages_request_free(struct messages_request *request);

/* ---- answers ------------------------------------------------------------------------------------------------------
 */

/* What an answer needs to the end: the stop strings to name, and the place in a stream. */
struct messages_answer;
/* messages_answer_open - copies what it needs of params; NULL when out of memory.  Close may be given NULL. */
struct messages_answer *messages_answer_open(const struct gen_params *params);
void messages_answer_close(struct messages_answer *answer);

/* Where usage says how much came out of the prefix cache, input_tokens are the others. */
void messages_put_whole(struct l4_buf *out, const struct answer_head *head, const struct answer_usage *usage,
                        const struct messages_answer *answer, const struct answer_choice *choice);

/* A stream, in whole events: start, text and calls in their order, finish, end.  A block begins with its first text or
 * the name of its call, and ends when another begins, or at the finish.  At the start nothing is known of the cache:
 * all input_tokens count, and the usage at the finish is the right one.
 *
 * A call is announced when its name is there.  When it breaks off after that, it cannot be taken back: its block ends
 * with its JSON cut off, as in Anthropic's own streams when max_tokens cuts a call, and its text follows as a text
 * block. What clients' libraries make of such a block may look like a call with fewer arguments, so a stream with a
 * broken call never ends with tool_use, even if other calls in it are whole: who acts on stop_reason runs nothing by
 * mistake. */
void messages_put_start(struct l4_buf *out, const struct answer_head *head, const struct answer_usage *usage);
void messages_put_text(struct l4_buf *out, struct messages_answer *answer, struct l4_text text);
void messages_put_call(struct l4_buf *out, struct messages_answer *answer, const struct answer_choice *choice);
void messages_put_finish(struct l4_buf *out, struct messages_answer *answer, const struct answer_usage *usage,
                         const struct answer_choice *choice);
void messages_put_end(struct l4_buf *out);

#endif
