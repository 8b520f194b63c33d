#include "server/codec_prompts.h"

#include <stdlib.h>

int prompts_decode_ids(const cJSON *array, int32_t vocab_size, int32_t **ids, size_t *n_ids, struct codec_err *err) {
    const cJSON *item;
    *n_ids = 0;
    *ids = calloc((size_t)cJSON_GetArraySize(array) + 1, sizeof **ids);
    if (!*ids)
        return codec_no_memory(err);
    cJSON_ArrayForEach(item, array) {
        int64_t id;
        if (!codec_to_int(item, 0, vocab_size - 1, &id)) {
            codec_fail(err, "", "token ids must be integers from 0 to %d", (int)vocab_size - 1);
            return codec_within(err, "[%zu]", *n_ids);
        }
        (*ids)[(*n_ids)++] = (int32_t)id;
    }
    return 0;
}

static int decode_one(const cJSON *item, const char *name, int32_t vocab_size, struct codec_prompt *out,
                      struct codec_err *err) {
    if (cJSON_IsString(item)) {
        out->text = codec_text(item);
        return 0;
    }
    if (!cJSON_IsArray(item))
        return codec_fail(err, "", "'%s' must hold strings or arrays of token ids, not %s", name, codec_kind(item));
    if (!item->child)
        return codec_fail(err, "", "an array of token ids must hold at least one id");
    return prompts_decode_ids(item, vocab_size, &out->ids, &out->n_ids, err);
}

int prompts_decode(const cJSON *root, const char *name, int32_t vocab_size, struct codec_prompt **prompts,
                   size_t *n_prompts, struct codec_err *err) {
    const cJSON *value = codec_get(root, name), *item;
    if (!value)
        return codec_fail(err, name, "'%s' is missing", name);
    bool is_list = cJSON_IsArray(value) && !cJSON_IsNumber(value->child);
    size_t n = is_list ? (size_t)cJSON_GetArraySize(value) : 1;
    if (!cJSON_IsArray(value) && !cJSON_IsString(value))
        return codec_fail(err, name, "'%s' must be a string or an array, not %s", name, codec_kind(value));
    if (n == 0)
        return codec_fail(err, name, "'%s' must not be an empty array", name);
    *prompts = calloc(n, sizeof **prompts);
    if (!*prompts)
        return codec_no_memory(err);
    for (item = is_list ? value->child : value; item && *n_prompts < n; item = item->next) {
        struct codec_prompt *at = &(*prompts)[(*n_prompts)++];
        int rc = decode_one(item, name, vocab_size, at, err);
        if (rc && is_list)
            rc = codec_within(err, "[%zu]", *n_prompts - 1);
        if (rc)
            return codec_within(err, "%s", name);
        if (cJSON_IsString(item) != cJSON_IsString(is_list ? value->child : value))
            return codec_fail(err, name, "'%s' mixes strings and arrays of token ids", name);
    }
    return 0;
}

void prompts_free(struct codec_prompt *prompts, size_t n_prompts) {
    for (size_t i = 0; i < n_prompts; i++)
        free(prompts[i].ids);
    free(prompts);
}
