/* Reads Hugging Face's tokenizer.json.  Of all that format can say, byte-level BPE after one regular expression is
 * served; anything else is refused by name rather than half obeyed. */
#include <stdio.h>
#include <string.h>

#include "core/format/json.h"
#include "core/text/tokenizer.h"

/* Llama 4's own is 28 MB. */
enum { TOKENIZER_MAX_BYTES = 256 << 20 };

/* Refuse a flag that asks for what is not built. */
static void require_bool(struct json_object *object, const char *key, bool absent, bool wanted) {
    if (json_bool(object, key, absent) != wanted && object->rc == 0)
        json_fail(object, key, json_get(object, key), L4_E_UNSUPPORTED, "%s", wanted ? "true" : "false");
}

static void require_string(struct json_object *object, const char *key, const char *absent, const char *wanted) {
    const char *found = json_string(object, key, absent);
    if (object->rc == 0 && (!found || strcmp(found, wanted) != 0))
        json_fail(object, key, json_get(object, key), L4_E_UNSUPPORTED, "\"%s\"", wanted);
}

/* The array of a "Sequence" component's parts; NULL after an error. */
static const cJSON *sequence_parts(struct json_object *object, const char *key) {
    const cJSON *parts = json_get(object, key);
    if (object->rc == 0 && !cJSON_IsArray(parts))
        json_fail(object, key, parts, L4_E_FORMAT, "an array");
    return object->rc == 0 ? parts : NULL;
}

/* pre_tokenizer: Sequence of Split (by a regular expression, isolated) and ByteLevel.  *pattern is borrowed. */
static int read_pre_tokenizer(const cJSON *root, const char *what, const char **pattern, struct l4_err *err) {
    struct json_object outer, split, regex, bytes;
    json_object_init(&outer, cJSON_GetObjectItemCaseSensitive(root, "pre_tokenizer"), what, "pre_tokenizer.", err);
    require_string(&outer, "type", NULL, "Sequence");
    const cJSON *parts = sequence_parts(&outer, "pretokenizers");
    if (parts && cJSON_GetArraySize(parts) != 2)
        json_fail(&outer, "pretokenizers", parts, L4_E_UNSUPPORTED, "Split and ByteLevel");
    if (outer.rc < 0)
        return outer.rc;

    json_object_init(&split, parts->child, what, "pre_tokenizer.pretokenizers[0].", err);
    require_string(&split, "type", NULL, "Split");
    require_string(&split, "behavior", NULL, "Isolated");
    require_bool(&split, "invert", false, false);
    if (split.rc < 0)
        return split.rc;
    json_object_init(&regex, json_get(&split, "pattern"), what, "pre_tokenizer.pretokenizers[0].pattern.", err);
    *pattern = json_string(&regex, "Regex", NULL);
    if (!*pattern)
        json_fail(&regex, "Regex", NULL, L4_E_UNSUPPORTED, "a regular expression");
    if (regex.rc < 0)
        return regex.rc;

    json_object_init(&bytes, parts->child->next, what, "pre_tokenizer.pretokenizers[1].", err);
    require_string(&bytes, "type", NULL, "ByteLevel");
    require_bool(&bytes, "add_prefix_space", true, false);
    require_bool(&bytes, "use_regex", true, false);
    return bytes.rc;
}

/* TemplateProcessing: the text itself, at most one special token before it. */
static int read_template(const cJSON *value, const char *what, int32_t *bos, struct l4_err *err) {
    struct json_object template;
    json_object_init(&template, value, what, "post_processor.", err);
    const cJSON *single = json_get(&template, "single");
    if (template.rc < 0)
        return template.rc;
    const cJSON *text = cJSON_GetArrayItem(single, 0), *first = NULL;
    if (cJSON_GetArraySize(single) == 2) {
        first = cJSON_GetObjectItemCaseSensitive(text, "SpecialToken");
        text = text->next;
    }
    const cJSON *name = cJSON_GetObjectItemCaseSensitive(first, "id");
    if (!cJSON_IsArray(single) || cJSON_GetArraySize(single) > 2 ||
        !cJSON_GetObjectItemCaseSensitive(text, "Sequence") ||
        (cJSON_GetArraySize(single) == 2 && !cJSON_IsString(name))) {
        json_fail(&template, "single", single, L4_E_UNSUPPORTED, "at most one special token, then the text");
        return template.rc;
    }
    if (!name)
        return 0;
    const cJSON *special = cJSON_GetObjectItemCaseSensitive(json_get(&template, "special_tokens"), name->valuestring);
    const cJSON *ids = cJSON_GetObjectItemCaseSensitive(special, "ids");
    if (cJSON_GetArraySize(ids) != 1 || !json_is_integer(ids->child, 0, VOCAB_MAX_IDS - 1)) {
        json_fail(&template, "special_tokens", special, L4_E_FORMAT, "one id for the token that single names");
        return template.rc;
    }
    *bos = (int32_t)ids->child->valuedouble;
    return 0;
}

/* post_processor: a TemplateProcessing, alone or in a Sequence with ByteLevel (which only touches offsets). */
static int read_post_processor(const cJSON *root, const char *what, int32_t *bos, struct l4_err *err) {
    struct json_object outer;
    const cJSON *value = cJSON_GetObjectItemCaseSensitive(root, "post_processor");
    if (!value || cJSON_IsNull(value))
        return 0;
    json_object_init(&outer, value, what, "post_processor.", err);
    const char *type = json_string(&outer, "type", "");
    const cJSON *part = value, *parts = NULL;
    if (outer.rc == 0 && strcmp(type, "Sequence") == 0) {
        parts = sequence_parts(&outer, "processors");
        part = parts ? parts->child : NULL;
    }
    for (; outer.rc == 0 && part; part = parts ? part->next : NULL) {
        struct json_object processor;
        json_object_init(&processor, part, what, "post_processor.", err);
        type = json_string(&processor, "type", "");
        if (processor.rc < 0)
            return processor.rc;
        if (strcmp(type, "TemplateProcessing") == 0)
            outer.rc = read_template(part, what, bos, err);
        else if (strcmp(type, "ByteLevel") != 0)
            json_fail(&outer, "type", json_get(&processor, "type"), L4_E_UNSUPPORTED,
                      "\"TemplateProcessing\" or \"ByteLevel\"");
    }
    return outer.rc;
}

static int read_vocab(struct l4_tokenizer *tokenizer, const cJSON *vocab, struct l4_err *err) {
    const cJSON *token;
    char shown[JSON_SHOWN_BYTES], found[JSON_SHOWN_BYTES];
    cJSON_ArrayForEach(token, vocab) {
        if (!json_is_integer(token, 0, VOCAB_MAX_IDS - 1))
            return l4_err_set(err, L4_E_FORMAT, "model.vocab: \"%s\": expected an integer 0..%d, found %s",
                              json_show_text(shown, token->string), VOCAB_MAX_IDS - 1, json_show(found, token));
        int rc = tokenizer_add_token(tokenizer, (int64_t)token->valuedouble, token->string, strlen(token->string), err);
        if (rc < 0) {
            l4_err_context(err, "model.vocab: \"%s\"", json_show_text(shown, token->string));
            return rc;
        }
    }
    return 0;
}

static int read_added_tokens(struct l4_tokenizer *tokenizer, const cJSON *root, const char *what, struct l4_err *err) {
    const cJSON *list = cJSON_GetObjectItemCaseSensitive(root, "added_tokens"), *token;
    if (!list || cJSON_IsNull(list))
        return 0;
    if (!cJSON_IsArray(list))
        return l4_err_set(err, L4_E_FORMAT, "%s: added_tokens: expected an array", what);
    int i = 0;
    cJSON_ArrayForEach(token, list) {
        char prefix[40];
        struct json_object object;
        snprintf(prefix, sizeof prefix, "added_tokens[%d].", i++);
        json_object_init(&object, token, what, prefix, err);
        /* normalized says whether the token is sought before or after the normalizer, and there is none. */
        require_bool(&object, "single_word", false, false);
        require_bool(&object, "lstrip", false, false);
        require_bool(&object, "rstrip", false, false);
        bool special = json_bool(&object, "special", false);
        const char *content = json_string(&object, "content", "");
        int64_t id = json_integer(&object, "id", -1, 0, VOCAB_MAX_IDS - 1);
        if (object.rc == 0 && id < 0)
            json_fail(&object, "id", NULL, L4_E_FORMAT, "an integer");
        if (object.rc < 0)
            return object.rc;
        int rc = tokenizer_add_added(tokenizer, id, content, strlen(content), special, err);
        if (rc < 0) {
            l4_err_context(err, "%s: added_tokens[%d]", what, i - 1);
            return rc;
        }
    }
    return 0;
}

/* A merge is "a b" in older files, ["a", "b"] in newer ones. */
static int read_merges(struct l4_tokenizer *tokenizer, const cJSON *merges, struct l4_err *err) {
    const cJSON *merge;
    size_t i = 0;
    cJSON_ArrayForEach(merge, merges) {
        const char *left = NULL, *right = NULL;
        size_t left_bytes = 0;
        if (cJSON_IsString(merge)) {
            left = merge->valuestring;
            left_bytes = strcspn(left, " ");
            right = left[left_bytes] && !strchr(left + left_bytes + 1, ' ') ? left + left_bytes + 1 : NULL;
        } else if (cJSON_IsArray(merge) && cJSON_GetArraySize(merge) == 2 && cJSON_IsString(merge->child) &&
                   cJSON_IsString(merge->child->next)) {
            left = merge->child->valuestring;
            left_bytes = strlen(left);
            right = merge->child->next->valuestring;
        }
        char shown[JSON_SHOWN_BYTES];
        if (!right)
            return l4_err_set(err, L4_E_FORMAT, "model.merges[%zu]: expected \"a b\" or [\"a\", \"b\"], found %s", i,
                              json_show(shown, merge));
        int rc = tokenizer_add_merge(tokenizer, left, left_bytes, right, strlen(right), err);
        if (rc < 0) {
            l4_err_context(err, "model.merges[%zu]", i);
            return rc;
        }
        i++;
    }
    return 0;
}

/* Everything about the model but its tables. */
static int read_model_settings(struct l4_tokenizer *tokenizer, struct json_object *model) {
    require_string(model, "type", "BPE", "BPE");
    require_bool(model, "byte_fallback", false, false);
    require_string(model, "continuing_subword_prefix", "", "");
    require_string(model, "end_of_word_suffix", "", "");
    (void)json_number(model, "dropout", 0, 0, 0);
    tokenizer->ignore_merges = json_bool(model, "ignore_merges", false);
    if (model->rc == 0 && !cJSON_IsObject(json_get(model, "vocab")))
        json_fail(model, "vocab", json_get(model, "vocab"), L4_E_FORMAT, "an object");
    if (model->rc == 0 && !cJSON_IsArray(json_get(model, "merges")))
        json_fail(model, "merges", json_get(model, "merges"), L4_E_FORMAT, "an array");
    return model->rc;
}

static int read_tokenizer(struct l4_tokenizer *tokenizer, const cJSON *json, const char *what, struct l4_err *err) {
    struct json_object root, model, decoder;
    const char *pattern = NULL;
    json_object_init(&root, json, what, "", err);
    if (json_get(&root, "normalizer"))
        json_fail(&root, "normalizer", json_get(&root, "normalizer"), L4_E_UNSUPPORTED, "null");
    if (root.rc < 0)
        return root.rc;
    json_object_init(&decoder, json_get(&root, "decoder"), what, "decoder.", err);
    require_string(&decoder, "type", NULL, "ByteLevel");
    if (decoder.rc < 0)
        return decoder.rc;
    int rc = read_pre_tokenizer(json, what, &pattern, err);
    if (rc == 0)
        rc = read_post_processor(json, what, &tokenizer->bos, err);
    if (rc < 0)
        return rc;
    json_object_init(&model, json_get(&root, "model"), what, "model.", err);
    rc = model.rc < 0 ? model.rc : read_model_settings(tokenizer, &model);
    if (rc < 0)
        return rc;
    rc = read_vocab(tokenizer, json_get(&model, "vocab"), err);
    if (rc == 0) {
        rc = read_added_tokens(tokenizer, json, what, err);
        if (rc < 0)
            return rc;
        rc = read_merges(tokenizer, json_get(&model, "merges"), err);
    }
    if (rc == 0) {
        rc = tokenizer_finish(tokenizer, pattern, strlen(pattern), err);
        if (rc == 0 && tokenizer->bos >= 0 && vocab_kind(&tokenizer->vocab, tokenizer->bos) == TOKEN_GAP)
            rc = l4_err_set(err, L4_E_FORMAT, "post_processor: there is no token %d", tokenizer->bos);
    }
    if (rc < 0)
        l4_err_context(err, "%s", what);
    return rc;
}

int tokenizer_read_json(struct l4_tokenizer *tokenizer, const char *path, struct l4_err *err) {
    cJSON *json = NULL;
    int rc = json_read_file(&json, path, TOKENIZER_MAX_BYTES, err);
    if (rc == 0)
        rc = read_tokenizer(tokenizer, json, path, err);
    cJSON_Delete(json);
    return rc;
}
