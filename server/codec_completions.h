/* POST /v1/completions: request JSON to a struct, choices to answer JSON.  Pure functions.  Thread: any. */
#ifndef SERVER_CODEC_COMPLETIONS_H
#define SERVER_CODEC_COMPLETIONS_H

#include "server/codec_answer.h"
#include "server/codec_params.h"
#include "server/codec_prompts.h"

struct completions_request {
    struct codec_body body;
    struct gen_params params;
    struct codec_prompt *prompts;
    size_t n_prompts;
};

/* completions_decode - text [len_bytes] is borrowed and must outlive *request.  Free with completions_request_free
 * whatever comes back.  Errors: as params_decode. */
int completions_decode(const char *text, size_t len_bytes, const struct codec_limits *limits,
                       struct completions_request *request, struct codec_err *err) L4_MUST_CHECK;
void completions_request_free(struct completions_request *request);

/* A stream's chunk.  usage_null: the stream ends with usage, the other chunks say "usage":null. */
void completions_put_chunk(struct l4_buf *out, const struct answer_head *head, const struct answer_choice *choice,
                           bool usage_null);
/* The whole answer. */
void completions_put_whole(struct l4_buf *out, const struct answer_head *head, const struct answer_choice *choices,
                           size_t n_choices, const struct answer_usage *usage);

#endif
