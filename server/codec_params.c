#include "server/codec_params.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "server/codec_grammar.h"

int params_check_model(const cJSON *root, const struct codec_limits *limits, struct codec_err *err) {
    struct l4_text model = {0};
    int rc = codec_get_text(root, "model", &model, err);
    if (rc || !model.data || strcmp(model.data, limits->model_name) == 0)
        return rc;
    codec_fail(err, "model", "the model '%.100s' does not exist; this server serves '%.100s'", model.data,
               limits->model_name);
    err->status = 404;
    err->code = "model_not_found";
    return L4_E_INVALID;
}

static int decode_sampling(const cJSON *root, struct l4_sampling *s, struct codec_err *err) {
    int64_t top_k = s->top_k;
    int rc;
    if ((rc = codec_get_float(root, "temperature", 0, 2, &s->temperature, err)) ||
        (rc = codec_get_float(root, "top_p", 0, 1, &s->top_p, err)) ||
        (rc = codec_get_float(root, "min_p", 0, 1, &s->min_p, err)) ||
        (rc = codec_get_int(root, "top_k", 0, INT32_MAX, &top_k, err)) ||
        (rc = codec_get_float(root, "repetition_penalty", 0.01, 100, &s->repetition_penalty, err)) ||
        (rc = codec_get_float(root, "presence_penalty", -2, 2, &s->presence_penalty, err)) ||
        (rc = codec_get_float(root, "frequency_penalty", -2, 2, &s->frequency_penalty, err)))
        return rc;
    s->top_k = (int)top_k;
    return 0;
}

/* Seeds are whole 64-bit numbers, which doubles do not hold: read from the request's own text. */
static int decode_seed(const struct codec_body *body, struct gen_params *params, struct codec_err *err) {
    const cJSON *item = codec_get(body->root, "seed");
    if (!item)
        return 0;
    if (!cJSON_IsNumber(item))
        return codec_fail(err, "seed", "'seed' must be an integer, not %s", codec_kind(item));
    struct codec_slice slice = codec_slice_child(codec_slice_root(body), body->root, item);
    char text[32], *stop = text;
    size_t len = (size_t)(slice.end - slice.p);
    params->has_seed = true;
    if (len < sizeof text) {
        memcpy(text, slice.p, len);
        text[len] = '\0';
        errno = 0;
        params->sampling.seed = text[0] == '-' ? (uint64_t)strtoll(text, &stop, 10) : strtoull(text, &stop, 10);
        if (errno == 0 && stop == text + len)
            return 0;
    }
    int64_t whole; /* 1e3 and 7.0 are integers, too */
    if (!codec_to_int(item, -(1LL << 53), 1LL << 53, &whole))
        return codec_fail(err, "seed", "'seed' must be an integer from -2^63 to 2^64 - 1, not %.17g",
                          item->valuedouble);
    params->sampling.seed = (uint64_t)whole;
    return 0;
}

int params_check_choices(const struct gen_params *params, const struct codec_limits *limits, size_t n_prompts,
                         struct codec_err *err) {
    if (n_prompts * (size_t)params->best_of <= (size_t)limits->max_choices)
        return 0;
    const char *param = n_prompts > (size_t)limits->max_choices ? "prompt"
                        : params->best_of > params->n           ? "best_of"
                                                                : "n";
    return codec_fail(err, param, "%zu prompts times %d choices are more than the %d that this server takes at once",
                      n_prompts, params->best_of, limits->max_choices);
}

uint64_t params_choice_seed(const struct gen_params *params, int k) {
    if (k == 0)
        return params->sampling.seed;
    /* splitmix64: neighbouring seeds and choices have nothing in common */
    uint64_t x = params->sampling.seed + (uint64_t)k * 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

static int decode_one_stop(const cJSON *item, const char *name, struct gen_params *params, struct codec_err *err) {
    if (!cJSON_IsString(item))
        return codec_fail(err, name, "'%s' must hold strings, not %s", name, codec_kind(item));
    struct l4_text text = codec_text(item);
    if (text.len_bytes == 0)
        return codec_fail(err, name, "'%s' must not hold an empty string", name);
    if (text.len_bytes > PARAMS_MAX_STOP_BYTES)
        return codec_fail(err, name, "a string in '%s' has %zu bytes, %d are allowed", name, text.len_bytes,
                          PARAMS_MAX_STOP_BYTES);
    params->stop[params->n_stop++] = text;
    return 0;
}

int params_decode_stops(const cJSON *array, const char *name, struct gen_params *params, struct codec_err *err) {
    const cJSON *item;
    cJSON_ArrayForEach(item, array) {
        if (params->n_stop == PARAMS_MAX_STOP)
            return codec_fail(err, name, "'%s' holds more than %d strings", name, PARAMS_MAX_STOP);
        int rc = decode_one_stop(item, name, params, err);
        if (rc)
            return rc;
    }
    return 0;
}

static int decode_stop(const cJSON *root, struct gen_params *params, struct codec_err *err) {
    const cJSON *stop = codec_get(root, "stop");
    if (!stop)
        return 0;
    if (cJSON_IsString(stop))
        return decode_one_stop(stop, "stop", params, err);
    if (!cJSON_IsArray(stop))
        return codec_fail(err, "stop", "'stop' must be a string or an array of strings, not %s", codec_kind(stop));
    return params_decode_stops(stop, "stop", params, err);
}

static int decode_stop_ids(const cJSON *root, const struct codec_limits *limits, struct gen_params *params,
                           struct codec_err *err) {
    const cJSON *ids = NULL, *item;
    int rc = codec_get_array(root, "stop_token_ids", &ids, err);
    if (rc || !ids)
        return rc;
    size_t n = (size_t)cJSON_GetArraySize(ids);
    if (n > PARAMS_MAX_STOP_IDS)
        return codec_fail(err, "stop_token_ids", "'stop_token_ids' holds %zu ids, %d are allowed", n,
                          PARAMS_MAX_STOP_IDS);
    params->stop_ids = calloc(n + 1, sizeof *params->stop_ids);
    if (!params->stop_ids)
        return codec_no_memory(err);
    cJSON_ArrayForEach(item, ids) {
        int64_t id;
        if (!codec_to_int(item, 0, limits->vocab_size - 1, &id))
            return codec_fail(err, "stop_token_ids", "'stop_token_ids' must hold token ids from 0 to %d",
                              (int)limits->vocab_size - 1);
        params->stop_ids[params->n_stop_ids++] = (int32_t)id;
    }
    return 0;
}

/* A token id as an object's key: decimal digits, no sign, no leading zero. */
static bool key_to_id(const char *key, int32_t vocab_size, int32_t *id) {
    size_t n = strlen(key);
    if (n == 0 || n > 10 || strspn(key, "0123456789") != n || (key[0] == '0' && n > 1))
        return false;
    long long value = strtoll(key, NULL, 10);
    *id = (int32_t)value;
    return value < vocab_size;
}

static int decode_logit_bias(const cJSON *root, const struct codec_limits *limits, struct l4_sampling *sampling,
                             struct codec_err *err) {
    const char *name = "logit_bias";
    const cJSON *map = NULL, *item;
    int rc = codec_get_object(root, name, &map, err);
    if (rc || !map)
        return rc;
    int n = cJSON_GetArraySize(map);
    if (n > PARAMS_MAX_LOGIT_BIAS)
        return codec_fail(err, name, "'logit_bias' holds %d ids, %d are allowed", n, PARAMS_MAX_LOGIT_BIAS);
    struct l4_logit_bias *bias = calloc((size_t)n + 1, sizeof *bias);
    if (!bias)
        return codec_no_memory(err);
    sampling->logit_bias = bias;
    cJSON_ArrayForEach(item, map) {
        int32_t id;
        if (!key_to_id(item->string, limits->vocab_size, &id))
            return codec_fail(err, name, "the key '%.40s' of 'logit_bias' is not a token id from 0 to %d", item->string,
                              (int)limits->vocab_size - 1);
        if (!cJSON_IsNumber(item) || !(fabs(item->valuedouble) <= 100))
            return codec_fail(err, name, "the bias of id %d in 'logit_bias' must be a number from -100 to 100",
                              (int)id);
        size_t at = 0; /* of a key that occurs twice the last one counts */
        while (at < sampling->n_logit_bias && bias[at].id != id)
            at++;
        bias[at] = (struct l4_logit_bias){id, (float)item->valuedouble};
        if (at == sampling->n_logit_bias)
            sampling->n_logit_bias++;
    }
    return 0;
}

static int decode_stream_options(const cJSON *root, struct gen_params *params, struct codec_err *err) {
    const cJSON *options = NULL;
    int rc = codec_get_object(root, "stream_options", &options, err);
    if (rc || !options)
        return rc;
    if (!params->stream)
        return codec_fail(err, "stream_options", "'stream_options' is allowed only with 'stream': true");
    if ((rc = codec_get_bool(options, "include_usage", &params->include_usage, err)))
        return codec_within(err, "stream_options");
    return 0;
}

/* Neither changes the answer. */
static int decode_prefix_cache(const cJSON *root, struct gen_params *params, struct codec_err *err) {
    struct l4_text salt = {"", 0};
    bool cache_prompt = true;
    int rc;
    if ((rc = codec_get_bool(root, "cache_prompt", &cache_prompt, err)) ||
        (rc = codec_get_text(root, "cache_salt", &salt, err)))
        return rc;
    if (salt.len_bytes > L4_MAX_SALT_BYTES)
        return codec_fail(err, "cache_salt", "'cache_salt' has %zu bytes, %d are allowed", salt.len_bytes,
                          L4_MAX_SALT_BYTES);
    params->no_prefix_cache = !cache_prompt;
    memcpy(params->salt, salt.data, salt.len_bytes);
    return 0;
}

/* Fields without effect here whose type is checked all the same, and fields that would change the answer if they were
 * served: to ignore those would be a lie. */
static int decode_rest(const cJSON *root, struct codec_err *err) {
    static const char *const refused[] = {"functions", "function_call"};
    struct l4_text user;
    int rc = codec_get_text(root, "user", &user, err);
    if (rc)
        return rc;
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++)
        if (codec_get(root, refused[i]))
            return codec_fail(err, refused[i], "'%s' is not served", refused[i]);
    return 0;
}

int params_decode_shared(const struct codec_body *body, const struct codec_limits *limits, struct gen_params *params,
                         struct codec_err *err) {
    const cJSON *root = body->root;
    int rc;
    *params = (struct gen_params){.sampling = limits->defaults, .max_tokens = -1, .n = 1, .best_of = 1};
    if ((rc = params_check_model(root, limits, err)) || (rc = decode_sampling(root, &params->sampling, err)) ||
        (rc = decode_seed(body, params, err)) || (rc = decode_stop_ids(root, limits, params, err)) ||
        (rc = decode_logit_bias(root, limits, &params->sampling, err)) ||
        (rc = codec_get_bool(root, "ignore_eos", &params->ignore_eos, err)) ||
        (rc = codec_get_bool(root, "stream", &params->stream, err)) || (rc = decode_prefix_cache(root, params, err)))
        return rc;
    return grammar_decode(body, &params->grammar, err);
}

int params_decode(const struct codec_body *body, const struct codec_limits *limits, struct gen_params *params,
                  struct codec_err *err) {
    const cJSON *root = body->root;
    int64_t n = 1;
    int rc;
    if ((rc = params_decode_shared(body, limits, params, err)) ||
        (rc = codec_get_int(root, "n", 1, PARAMS_MAX_N, &n, err)) || (rc = decode_stop(root, params, err)) ||
        (rc = decode_stream_options(root, params, err)))
        return rc;
    params->n = params->best_of = (int)n;
    return decode_rest(root, err);
}

void params_free(struct gen_params *params) {
    free((void *)(uintptr_t)params->sampling.logit_bias);
    free(params->stop_ids);
    l4_grammar_close(params->grammar);
    params->grammar = NULL;
    params->sampling.logit_bias = NULL;
    params->stop_ids = NULL;
}
