/* POST /v1/chat/completions: request JSON to a struct, choices to answer JSON.  Pure functions.  Thread: any. */
#ifndef SERVER_CODEC_CHAT_H
#define SERVER_CODEC_CHAT_H

#include "server/codec_answer.h"
#include "server/codec_params.h"
#include "server/tool_calls.h"

enum chat_tool_choice {
    CHAT_TOOLS_AUTO,
    CHAT_TOOLS_NONE,     /* as if there were no tools */
    CHAT_TOOLS_REQUIRED, /* the answer is calls */
};

struct chat_storage;

struct chat_request {
    struct codec_body body;
    struct gen_params params;
    struct l4_chat chat;      /* points into the body and into storage */
    struct tool_names *tools; /* names of chat's tools, NULL where the chat has none; owned */
    enum chat_tool_choice tool_choice;
    const char *only_tool;        /* REQUIRED: the one that must be called; NULL = any.  Borrowed */
    bool parallel_tool_calls;     /* false: one call at most */
    struct chat_storage *storage; /* owned */
};

/* chat_decode - text [len_bytes] is borrowed and must outlive *request.  Free with chat_request_free whatever comes
 * back.  A tool's JSON and a call's arguments are handed on as the client wrote them.  Errors: as params_decode. */
int chat_decode(const char *text, size_t len_bytes, const struct codec_limits *limits, struct chat_request *request,
                struct codec_err *err) L4_MUST_CHECK;
void chat_request_free(struct chat_request *request);

enum chat_delta { CHAT_DELTA_ROLE, CHAT_DELTA_TEXT, CHAT_DELTA_CALL, CHAT_DELTA_FINISH };
/* A stream's chunk.  usage_null: the stream ends with usage, the other chunks say "usage":null. */
void chat_put_chunk(struct l4_buf *out, const struct answer_head *head, enum chat_delta delta,
                    const struct answer_choice *choice, bool usage_null);
/* The whole answer. */
void chat_put_whole(struct l4_buf *out, const struct answer_head *head, const struct answer_choice *choices,
                    size_t n_choices, const struct answer_usage *usage);

#endif
