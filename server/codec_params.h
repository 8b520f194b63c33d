/* The fields that every generating endpoint shares: sampling, stopping, number of choices, streaming.
 *
 * Pure functions.  Thread: any. */
#ifndef SERVER_CODEC_PARAMS_H
#define SERVER_CODEC_PARAMS_H

#include "llama4/engine.h"
#include "server/codec_json.h"

enum {
    PARAMS_MAX_N = 128,
    PARAMS_MAX_CHOICES = 1024, /* n (or best_of) times prompts, whatever the queue holds */
    PARAMS_MAX_STOP = 16,
    PARAMS_MAX_STOP_BYTES = 1024, /* of one stop string */
    PARAMS_MAX_STOP_IDS = 64,
    PARAMS_MAX_LOGIT_BIAS = 1024,
};

/* What a decoder must know of the server.  Borrowed strings. */
struct codec_limits {
    const char *model_name;
    int32_t vocab_size;
    struct l4_sampling defaults; /* for what a request leaves out */
    int max_choices;             /* n (or best_of) times prompts */
};

struct gen_params {
    struct l4_sampling sampling; /* logit_bias is owned */
    bool has_seed;
    int64_t max_tokens; /* -1 = to the end of the context */
    int n;
    int best_of; /* >= n: candidates per prompt */
    bool stream, include_usage;
    bool ignore_eos;
    struct l4_text stop[PARAMS_MAX_STOP]; /* borrowed from the body's tree */
    size_t n_stop;
    int32_t *stop_ids; /* owned */
    size_t n_stop_ids;
    struct l4_grammar *grammar; /* owned; NULL = any text */
    bool logprobs;
    int n_top_logprobs;
    bool echo;
    bool no_prefix_cache;             /* "cache_prompt": false */
    char salt[L4_MAX_SALT_BYTES + 1]; /* of the prefix cache */
};

/* params_decode_shared - what all generating endpoints read alike: model, sampling, seed, stop_token_ids, logit_bias,
 * ignore_eos, stream, the prefix cache, grammar and response_format.  Free *params with params_free whatever comes
 * back. Errors: L4_E_INVALID (*err filled; a model that is not served is a 404), L4_E_NOMEM (*err filled). */
int params_decode_shared(const struct codec_body *body, const struct codec_limits *limits, struct gen_params *params,
                         struct codec_err *err) L4_MUST_CHECK;
/* params_decode - the same and what OpenAI's completions and chat have besides: stop, n, stream_options.  Neither reads
 * max_tokens, logprobs, best_of and echo, which differ between endpoints. */
int params_decode(const struct codec_body *body, const struct codec_limits *limits, struct gen_params *params,
                  struct codec_err *err) L4_MUST_CHECK;
void params_free(struct gen_params *params);
/* params_decode_stops - add the stop strings of an array, which errors call `name`. */
int params_decode_stops(const cJSON *array, const char *name, struct gen_params *params,
                        struct codec_err *err) L4_MUST_CHECK;

/* params_check_model - refuse (404) a request for a model that is not served; without `model` any will do. */
int params_check_model(const cJSON *root, const struct codec_limits *limits, struct codec_err *err) L4_MUST_CHECK;
/* params_check_choices - refuse more choices than the server could ever hold, which no retry would change. */
int params_check_choices(const struct gen_params *params, const struct codec_limits *limits, size_t n_prompts,
                         struct codec_err *err) L4_MUST_CHECK;

/* The seed of the k-th choice of a prompt: the first choice takes the request's own. */
uint64_t params_choice_seed(const struct gen_params *params, int k);

#endif
