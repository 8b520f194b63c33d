/* What every generating endpoint has in common: decode and tokenize (on a worker where that takes long), submit one
 * request to the engine for each prompt and candidate, collect or stream what comes back, cancel when the client goes.
 *
 * An endpoint is a generation_format: how its request is read and how its answer is written.
 * Thread: the loop's, except prepare. */
#ifndef SERVER_GENERATION_H
#define SERVER_GENERATION_H

#include "server/codec_answer.h"
#include "server/codec_params.h"
#include "server/server.h"
#include "server/tool_calls.h"

struct generation_prompt {
    struct l4_tokens tokens;
    struct l4_buf text;    /* what echo shows; filled where echo or legacy logprobs want it */
    bool has_implicit_bos; /* the first token has no text in `text` */
};

/* What prepare reads and fills. */
struct generation_input {
    const char *body; /* stays until free_request has been called */
    size_t body_bytes;
    struct codec_limits limits;
    int64_t max_context_tokens;
    bool keep_text; /* generation_add_chat fills the prompt's text */
    const struct l4_tokenizer *tokenizer;

    void *request;            /* the format's own, freed with free_request once the engine has its copy */
    struct gen_params params; /* borrows from request */
    struct generation_prompt *prompts;
    size_t n_prompts;
    struct tool_names *tools; /* calls of these are taken out of the answer's text; owned; NULL = none are */
    size_t max_calls;         /* in one choice; 0 = any number */
    void *answer;             /* the format's own until the answer has ended; freed with free_answer */
};

/* What the format's functions write with. */
struct generation_output {
    struct l4_buf *out; /* appended to; frames of a stream are whole */
    const struct answer_head *head;
    const struct gen_params *params;  /* without what request owned */
    const struct answer_usage *usage; /* in a stream what is known so far: the prompts' tokens from the beginning */
    void *answer;                     /* input.answer */
};
/* Pieces of a stream.  finish has the choice's finish_reason, stop_index and n_broken_calls, and no text. */
typedef void generation_put_chunk(const struct generation_output *to, const struct answer_choice *choice);

struct generation_format {
    const char *id_prefix;
    const char *object, *chunk_object;
    const char *prompt_field; /* what is to blame when a prompt is too long */
    enum logprobs_shape logprobs_shape;

    /* Read the body, fill the rest.  Any thread.  Errors: *err filled. */
    int (*prepare)(struct generation_input *input, struct codec_err *err);
    void (*free_request)(void *request); /* NULL is allowed */

    void (*free_answer)(void *answer); /* NULL where prepare leaves none */

    /* put_text, put_call, put_call_end and put_finish are called for whole answers, too, before put_whole: to collect
     * them in `answer`, and to write nothing. */
    bool always_in_pieces;
    generation_put_chunk *put_begin, *put_text, *put_finish; /* begin may be NULL */
    generation_put_chunk *put_call;                          /* a piece of a tool call; NULL without input.tools */
    generation_put_chunk *put_call_end; /* the call that was begun last is whole, or none: breaks_call; may be NULL */
    /* The end of a stream, NULL: as OpenAI's completions end; and of one that breaks off, NULL: http_stream_fail. */
    void (*put_end)(const struct generation_output *to);
    void (*put_error)(const struct generation_output *to, const struct l4_err *err);
    void (*put_whole)(const struct generation_output *to, const struct answer_choice *choices, size_t n_choices);
};

/* generation_start - take over the exchange and answer it. */
void generation_start(struct server *server, struct http_exchange *x, const struct generation_format *format);

/* For those who prepare without generating: what prepare is given, but for the body; the end of what it made; and the
 * answer to a request that it refused. */
void generation_input_init(const struct server *server, struct generation_input *input);
void generation_free_prompts(struct generation_input *input);
void generation_reply_refusal(struct http_exchange *x, const struct codec_err *err);

/* For prepare: n zeroed prompts, and an engine error as a refusal that names a field.  Both return 0 or L4_E_*. */
int generation_add_prompts(struct generation_input *input, size_t n, struct codec_err *err) L4_MUST_CHECK;
int generation_refuse(struct codec_err *out, const char *param, const struct l4_err *err);

/* generation_check_length - for prepare: refuse n_bytes of prompt text that cannot fit the context whatever its tokens
 * are, before time goes into tokenizing it. */
int generation_check_length(const struct generation_input *input, const char *param, size_t n_bytes,
                            struct codec_err *err) L4_MUST_CHECK;
/* generation_encode_text - for prepare: append the tokens of a text that is taken as the model sees it: it begins with
 * the token that begins every prompt, and markers in it become special tokens.  An empty prompt is refused, too. */
int generation_encode_text(const struct generation_input *input, const char *param, struct l4_text text,
                           struct l4_tokens *tokens, struct codec_err *err) L4_MUST_CHECK;
/* generation_add_chat - for prepare: the prompt of a chat as the only one.  Errors name the message or the tool. */
int generation_add_chat(struct generation_input *input, const struct l4_chat *chat,
                        struct codec_err *err) L4_MUST_CHECK;

#endif
