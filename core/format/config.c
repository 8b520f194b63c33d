#include "core/format/config.h"

#include <stdio.h>
#include <string.h>

#include "core/format/json.h"

enum { MAX_FILE_BYTES = 16 << 20, MAX_PATH_BYTES = 4096 };
#define MAX_POSITIONS ((int64_t)1 << 40)

static int read_file(cJSON **root, char path[MAX_PATH_BYTES], const char *dir, const char *name, struct l4_err *err) {
    if (snprintf(path, MAX_PATH_BYTES, "%s/%s", dir, name) >= MAX_PATH_BYTES)
        return l4_err_set(err, L4_E_INVALID, "the path of %s is longer than %d bytes", name, MAX_PATH_BYTES - 1);
    return json_read_file(root, path, MAX_FILE_BYTES, err);
}

/* json_get takes null for absent; where transformers gives null a meaning of its own, this tells. */
static bool is_null(const struct json_object *object, const char *key) {
    return object->rc == 0 && cJSON_IsNull(cJSON_GetObjectItemCaseSensitive(object->value, key));
}

static int32_t read_i32(struct json_object *object, const char *key, int32_t absent, int32_t min, int32_t max) {
    return (int32_t)json_integer(object, key, absent, min, max);
}

/* eos_token_id: one id or a list of them. */
static void read_ids(struct json_object *object, const char *key, int32_t vocab_size, int32_t *ids, int *n_ids) {
    const cJSON *value = json_get(object, key);
    *n_ids = 0;
    if (value == NULL)
        return;
    const cJSON *id = cJSON_IsArray(value) ? value->child : value;
    for (; id != NULL; id = cJSON_IsArray(value) ? id->next : NULL) {
        if (!json_is_integer(id, 0, vocab_size - 1)) {
            json_fail(object, key, id, L4_E_FORMAT, "token ids 0..%d", vocab_size - 1);
            return;
        }
        if (*n_ids == CONFIG_MAX_STOP_IDS) {
            json_fail(object, key, value, L4_E_FORMAT, "at most %d ids", CONFIG_MAX_STOP_IDS);
            return;
        }
        ids[(*n_ids)++] = (int32_t)id->valuedouble;
    }
}

/* The array of one value a layer, or NULL where it is absent, null or empty. */
static const cJSON *read_per_layer(struct json_object *object, const char *key, int n_layers, bool empty_is_absent) {
    const cJSON *value = json_get(object, key);
    if (value == NULL || (empty_is_absent && cJSON_IsArray(value) && value->child == NULL))
        return NULL;
    if (cJSON_IsArray(value) && cJSON_GetArraySize(value) == n_layers)
        return value;
    json_fail(object, key, value, L4_E_FORMAT, "an array of %d, one for each layer", n_layers);
    return NULL;
}

static void read_moe_layers(struct json_object *text, struct model_config *config) {
    int step = read_i32(text, "interleave_moe_layer_step", 1, 1, INT32_MAX);
    const cJSON *list = json_get(text, "moe_layers"), *layer;
    if (list == NULL) {
        for (int i = 0; i < config->n_layers; i++)
            config->layers[i].is_moe = (i + 1) % step == 0;
        return;
    }
    if (!cJSON_IsArray(list))
        json_fail(text, "moe_layers", list, L4_E_FORMAT, "an array of layer numbers");
    cJSON_ArrayForEach(layer, list) {
        if (!json_is_integer(layer, 0, config->n_layers - 1)) {
            json_fail(text, "moe_layers", layer, L4_E_FORMAT, "layer numbers 0..%d", config->n_layers - 1);
            return;
        }
        config->layers[(int)layer->valuedouble].is_moe = true;
    }
}

/* Which layers rotate (no_rope_layers has 1 for those that do) and which attend within chunks. */
static void read_attention_layers(struct json_object *text, struct model_config *config) {
    int interval = read_i32(text, "no_rope_layer_interval", 4, 1, INT32_MAX);
    const cJSON *use_rope = read_per_layer(text, "no_rope_layers", config->n_layers, true);
    const cJSON *types = read_per_layer(text, "layer_types", config->n_layers, false);
    use_rope = use_rope != NULL ? use_rope->child : NULL;
    types = types != NULL ? types->child : NULL;
    for (int i = 0; i < config->n_layers; i++) {
        struct layer_config *layer = &config->layers[i];
        layer->use_rope = (i + 1) % interval != 0;
        if (use_rope != NULL) {
            if (!cJSON_IsBool(use_rope) && !json_is_integer(use_rope, 0, 1))
                json_fail(text, "no_rope_layers", use_rope, L4_E_FORMAT, "0 or 1 for each layer");
            layer->use_rope = cJSON_IsTrue(use_rope) || use_rope->valuedouble == 1;
            use_rope = use_rope->next;
        }
        layer->is_chunked = layer->use_rope;
        if (types != NULL) {
            const char *type = cJSON_IsString(types) ? types->valuestring : "";
            layer->is_chunked = strcmp(type, "chunked_attention") == 0;
            if (!layer->is_chunked && strcmp(type, "full_attention") != 0)
                json_fail(text, "layer_types", types, cJSON_IsString(types) ? L4_E_UNSUPPORTED : L4_E_FORMAT,
                          "\"chunked_attention\" or \"full_attention\" for each layer");
            types = types->next;
        }
    }
}

static double read_required(struct json_object *object, const char *key, double min, double max) {
    if (json_get(object, key) == NULL)
        json_fail(object, key, NULL, L4_E_FORMAT, "a number %g..%g", min, max);
    return json_number(object, key, 0, min, max);
}

/* Old files: rope_theta and rope_scaling (which may be null); new ones: rope_parameters, theta included.  As in
 * transformers, a rope_scaling that says something wins, and a theta inside wins over one outside. */
static void read_rope(struct json_object *text, struct model_config *config) {
    const double max_theta = 1e18;
    char prefix[64];
    const char *key = "rope_scaling";
    const cJSON *value = json_get(text, key);
    if (value == NULL || (cJSON_IsObject(value) && value->child == NULL))
        value = json_get(text, key = "rope_parameters");
    config->rope_theta = json_number(text, "rope_theta", 500000, 1, max_theta);
    if (value == NULL || text->rc != 0)
        return;

    struct json_object rope;
    snprintf(prefix, sizeof prefix, "%s%s.", text->prefix, key);
    json_object_init(&rope, value, text->what, prefix, text->err);
    config->rope_theta = json_number(&rope, "rope_theta", config->rope_theta, 1, max_theta);
    const char *type_key = json_get(&rope, "rope_type") != NULL ? "rope_type" : "type";
    const char *type = json_string(&rope, type_key, "default");
    if (strcmp(type, "llama3") == 0) {
        config->rope_llama3 = true;
        config->rope_factor = read_required(&rope, "factor", 1, 1e6);
        config->rope_low_freq_factor = read_required(&rope, "low_freq_factor", 1e-6, 1e6);
        config->rope_high_freq_factor = read_required(&rope, "high_freq_factor", 1e-6, 1e6);
        config->rope_original_context =
            (int64_t)read_required(&rope, "original_max_position_embeddings", 1, (double)MAX_POSITIONS);
        if (config->rope_high_freq_factor < config->rope_low_freq_factor)
            json_fail(&rope, "high_freq_factor", json_get(&rope, "high_freq_factor"), L4_E_FORMAT,
                      "at least low_freq_factor, %g", config->rope_low_freq_factor);
    } else if (strcmp(type, "default") != 0) {
        json_fail(&rope, type_key, json_get(&rope, type_key), L4_E_UNSUPPORTED, "\"default\" or \"llama3\"");
    }
    text->rc = rope.rc;
}

static void read_sizes(struct json_object *text, struct model_config *config) {
    config->vocab_size = read_i32(text, "vocab_size", 202048, 1, 1 << 24);
    config->hidden_size = read_i32(text, "hidden_size", 5120, 1, 1 << 20);
    config->n_layers = read_i32(text, "num_hidden_layers", 48, 1, CONFIG_MAX_LAYERS);
    config->n_heads = read_i32(text, "num_attention_heads", 40, 1, 1 << 14);
    bool as_many = is_null(text, "num_key_value_heads");
    config->n_kv_heads = as_many ? config->n_heads : read_i32(text, "num_key_value_heads", 8, 1, 1 << 14);
    if (text->rc == 0 && config->n_heads % config->n_kv_heads != 0)
        json_fail(text, "num_key_value_heads", json_get(text, "num_key_value_heads"), L4_E_FORMAT,
                  "a divisor of num_attention_heads, %d", config->n_heads);
    bool split = is_null(text, "head_dim");
    config->head_dim = split ? config->hidden_size / config->n_heads : read_i32(text, "head_dim", 128, 2, 4096);
    if (config->head_dim < 2 || config->head_dim > 4096 || config->head_dim % 2 != 0)
        json_fail(text, "head_dim", json_get(text, "head_dim"), L4_E_FORMAT,
                  "an even number 2..4096 (hidden_size / num_attention_heads where null)");
    config->intermediate_size = read_i32(text, "intermediate_size", 8192, 1, 1 << 22);
    config->intermediate_size_mlp = read_i32(text, "intermediate_size_mlp", 16384, 1, 1 << 22);
    config->n_experts = read_i32(text, "num_local_experts", 16, 1, 1 << 16);
    config->n_experts_per_tok = read_i32(text, "num_experts_per_tok", 1, 1, config->n_experts);
    config->max_position_embeddings = json_integer(text, "max_position_embeddings", 131072, 1, MAX_POSITIONS);
    config->attention_chunk_size = json_integer(text, "attention_chunk_size", 8192, 1, MAX_POSITIONS);
}

static void read_text_config(struct json_object *text, struct model_config *config) {
    const char *act = json_string(text, "hidden_act", "silu");
    if (strcmp(act, "silu") != 0)
        json_fail(text, "hidden_act", json_get(text, "hidden_act"), L4_E_UNSUPPORTED, "\"silu\"");
    read_sizes(text, config);
    config->rms_norm_eps = (float)json_number(text, "rms_norm_eps", 1e-5, 1e-20, 1);
    config->use_qk_norm = json_bool(text, "use_qk_norm", true);
    config->attention_bias = json_bool(text, "attention_bias", false);
    config->tie_word_embeddings = json_bool(text, "tie_word_embeddings", false);
    config->floor_scale = (float)json_number(text, "floor_scale", 8192, 1, 1e12);
    config->attn_scale = (float)json_number(text, "attn_scale", 0.1, 0, 1e6);
    const cJSON *tuning = json_get(text, "attn_temperature_tuning"); /* published files say 4, newer ones true */
    config->attn_temperature_tuning = tuning == NULL || cJSON_IsTrue(tuning);
    if (cJSON_IsNumber(tuning))
        config->attn_temperature_tuning = tuning->valuedouble != 0;
    else if (tuning != NULL && !cJSON_IsBool(tuning))
        json_fail(text, "attn_temperature_tuning", tuning, L4_E_FORMAT, "true, false or a number");
    read_rope(text, config);

    int32_t default_bos = config->vocab_size > 1 && !is_null(text, "bos_token_id") ? 1 : -1;
    config->bos_id = read_i32(text, "bos_token_id", default_bos, 0, config->vocab_size - 1);
    read_ids(text, "eos_token_id", config->vocab_size, config->eos_ids, &config->n_eos_ids);
    if (text->rc == 0 && json_get(text, "eos_token_id") == NULL && !is_null(text, "eos_token_id") &&
        config->vocab_size > 2)
        config->eos_ids[config->n_eos_ids++] = 2;
    if (text->rc == 0) { /* the lists need a number of layers that is known to be sane */
        read_moe_layers(text, config);
        read_attention_layers(text, config);
    }
}

static void check_model_type(struct json_object *object, bool *is_multimodal) {
    const char *type = json_string(object, "model_type", json_get(object, "text_config") ? "llama4" : "llama4_text");
    *is_multimodal = strcmp(type, "llama4") == 0;
    if (!*is_multimodal && strcmp(type, "llama4_text") != 0)
        json_fail(object, "model_type", json_get(object, "model_type"), L4_E_UNSUPPORTED,
                  "\"llama4\" or \"llama4_text\"");
    const cJSON *quantized = json_get(object, "quantization_config");
    if (quantized != NULL)
        json_fail(object, "quantization_config", quantized, L4_E_UNSUPPORTED,
                  "none (weights stored as F32, F16 or BF16)");
}

int model_config_read(struct model_config *config, const char *dir, struct l4_err *err) {
    char path[MAX_PATH_BYTES];
    cJSON *root = NULL;
    *config = (struct model_config){0};
    int rc = read_file(&root, path, dir, "config.json", err);
    if (rc != 0)
        return rc;

    struct json_object object, nested, *text = &object;
    const cJSON nothing = {.type = cJSON_Object};
    json_object_init(&object, root, path, "", err);
    check_model_type(&object, &config->is_multimodal);
    if (config->is_multimodal && object.rc == 0) {
        const cJSON *value = json_get(&object, "text_config");
        json_object_init(&nested, value != NULL ? value : &nothing, path, "text_config.", err);
        if (strcmp(json_string(&nested, "model_type", "llama4_text"), "llama4_text") != 0)
            json_fail(&nested, "model_type", json_get(&nested, "model_type"), L4_E_UNSUPPORTED, "\"llama4_text\"");
        text = &nested;
    }
    if (text->rc == 0)
        read_text_config(text, config);
    rc = text->rc;
    cJSON_Delete(root);
    return rc;
}

int generation_config_read(struct generation_config *config, const char *dir, int32_t vocab_size, struct l4_err *err) {
    char path[MAX_PATH_BYTES];
    cJSON *root = NULL;
    *config = (struct generation_config){0};
    int rc = read_file(&root, path, dir, "generation_config.json", err);
    if (rc == L4_E_NOT_FOUND) {
        if (err != NULL)
            *err = (struct l4_err){0};
        return 0;
    }
    if (rc != 0)
        return rc;

    struct json_object object;
    json_object_init(&object, root, path, "", err);
    config->has_temperature = json_get(&object, "temperature") != NULL;
    config->temperature = (float)json_number(&object, "temperature", 0, 0, 100);
    if (!json_bool(&object, "do_sample", true)) {
        config->has_temperature = true;
        config->temperature = 0;
    }
    config->has_top_p = json_get(&object, "top_p") != NULL;
    config->top_p = (float)json_number(&object, "top_p", 0, 0, 1);
    config->has_min_p = json_get(&object, "min_p") != NULL;
    config->min_p = (float)json_number(&object, "min_p", 0, 0, 1);
    config->has_repetition_penalty = json_get(&object, "repetition_penalty") != NULL;
    config->repetition_penalty = (float)json_number(&object, "repetition_penalty", 0, 0.01, 100);
    config->has_top_k = json_get(&object, "top_k") != NULL;
    config->top_k = read_i32(&object, "top_k", 0, -1, INT32_MAX);
    if (config->top_k < 0) /* -1 is how some write "off" */
        config->top_k = 0;
    read_ids(&object, "eos_token_id", vocab_size, config->eos_ids, &config->n_eos_ids);
    cJSON_Delete(root);
    return object.rc;
}
