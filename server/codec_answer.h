/* What answers are made of, written by hand into a buffer: a chunk is sent for every token, so none is built as a tree.
 *
 * Pure functions.  Thread: any. */
#ifndef SERVER_CODEC_ANSWER_H
#define SERVER_CODEC_ANSWER_H

#include "llama4/engine.h"
#include "server/codec_json.h"

/* What names an answer, and the fields that every chunk of the OpenAI completions repeats: "{"id": …, "choices":[" as
 * text, written once. */
struct answer_head {
    char id[64];
    long long created_s; /* since 1970 */
    const char *model;   /* borrowed */
    struct l4_buf text;
};
void answer_head_init(struct answer_head *head, const char *id, const char *object, long long created_s,
                      const char *model, const char *fingerprint);
void answer_head_free(struct answer_head *head);

struct answer_usage {
    int64_t prompt_tokens, completion_tokens, cached_tokens;
    double prefill_s, decode_s; /* of choices that were decoded together the longest */
};
void answer_put_usage(struct l4_buf *out, const struct answer_usage *usage);
/* The chunk that ends a stream with include_usage: no choices, and "timings" as other servers on CPUs give them. */
void answer_put_usage_chunk(struct l4_buf *out, const struct answer_head *head, const struct answer_usage *usage);

/* Log-probabilities in one of the two shapes, as JSON text: up to four parallel arrays without their brackets. */
enum logprobs_shape { LOGPROBS_CHAT, LOGPROBS_LEGACY };
struct logprob_list {
    struct l4_buf parts[4]; /* chat: content; legacy: tokens, token_logprobs, top_logprobs, text_offset */
};

struct logprob_entry {
    struct l4_logprob token; /* a NAN logprob is written as null, without alternatives */
    const struct l4_logprob *top;
    int n_top;
    int64_t text_offset; /* in characters; legacy */
};
void logprob_list_add(struct logprob_list *list, enum logprobs_shape shape, const struct l4_tokenizer *tokenizer,
                      const struct logprob_entry *entry);
void logprob_list_put(struct l4_buf *out, enum logprobs_shape shape, const struct logprob_list *list);
bool logprob_list_is_empty(const struct logprob_list *list);
bool logprob_list_failed(const struct logprob_list *list); /* out of memory */
void logprob_list_clear(struct logprob_list *list);
void logprob_list_free(struct logprob_list *list);

/* A tool call of an answer. */
#define ANSWER_CALL_PREFIX "call_" /* what ids begin with; other APIs put theirs in its place */
struct answer_call {
    char id[32];
    struct l4_buf name, arguments; /* arguments: JSON text, of a stream the next piece only */
};
/* All zero is empty. */
struct answer_calls {
    struct answer_call *list;
    size_t n, cap;
    bool failed; /* out of memory */
};
/* answer_calls_add - a call without arguments and with an id of its own; NULL when that failed. */
struct answer_call *answer_calls_add(struct answer_calls *calls, struct l4_text name);
void answer_calls_drop_last(struct answer_calls *calls);
void answer_calls_free(struct answer_calls *calls);
bool answer_calls_failed(const struct answer_calls *calls);

/* One choice, whole or a piece of it. */
struct answer_choice {
    int index;
    struct l4_text text;
    const struct answer_call *calls; /* whole answers: all of them */
    size_t n_calls;
    size_t call;                         /* streams: the number of the call that calls[0] is a piece of */
    bool begins_call;                    /* streams: the piece is the call's first */
    bool breaks_call;                    /* at the end of one: what was to be it follows as text */
    const struct logprob_list *logprobs; /* NULL = none */
    const char *finish_reason;           /* NULL = not yet */
    int stop_index;                      /* of the request's stop strings, the one that ended it; -1 = none */
    size_t n_broken_calls;               /* streams, with finish_reason: calls that began and broke off */
};

#endif
