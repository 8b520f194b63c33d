/* Hyperparameters from GGUF metadata. */
#include <string.h>

#include "core/format/config.h"
#include "core/format/gguf_write.h"

#define MAX_POSITIONS ((int64_t)1 << 40)

/* Not stored in the file. */
enum { CHUNK_TOKENS = 8192, NO_ROPE_INTERVAL = 4, FLOOR_SCALE = 8192, EXPERTS_WITHOUT_QK_NORM = 128 };
static const float ATTN_SCALE = 0.1F;

static int32_t read_i32(struct gguf_reader *reader, const char *key, enum gguf_presence presence, int32_t absent,
                        int32_t min, int32_t max) {
    int64_t value = absent;
    (void)gguf_integer(reader, key, presence, min, max, &value);
    return (int32_t)value;
}

static void read_sizes(struct gguf_reader *reader, struct model_config *config) {
    struct gguf_array tokens = {0};
    (void)gguf_read_array(reader, "tokenizer.ggml.tokens", GGUF_OPTIONAL, GGUF_STRING, &tokens);
    const bool counted = tokens.n >= 1 && tokens.n <= 1 << 24; /* older files say the vocabulary's size only so */
    config->vocab_size = read_i32(reader, "llama4.vocab_size", counted ? GGUF_OPTIONAL : GGUF_REQUIRED,
                                  counted ? (int32_t)tokens.n : 0, 1, 1 << 24);
    config->hidden_size = read_i32(reader, "llama4.embedding_length", GGUF_REQUIRED, 0, 1, 1 << 20);
    config->n_layers = read_i32(reader, "llama4.block_count", GGUF_REQUIRED, 0, 1, CONFIG_MAX_LAYERS);
    config->n_heads = read_i32(reader, "llama4.attention.head_count", GGUF_REQUIRED, 0, 1, 1 << 14);
    config->n_kv_heads = read_i32(reader, "llama4.attention.head_count_kv", GGUF_OPTIONAL, config->n_heads, 1, 1 << 14);
    config->intermediate_size = read_i32(reader, "llama4.expert_feed_forward_length", GGUF_REQUIRED, 0, 1, 1 << 22);
    config->intermediate_size_mlp = read_i32(reader, "llama4.feed_forward_length", GGUF_REQUIRED, 0, 1, 1 << 22);
    config->n_experts = read_i32(reader, "llama4.expert_count", GGUF_REQUIRED, 1, 1, 1 << 16);
    config->n_experts_per_tok =
        read_i32(reader, "llama4.expert_used_count", GGUF_REQUIRED, 0, 1, reader->rc == 0 ? config->n_experts : 1);
    (void)gguf_integer(reader, "llama4.context_length", GGUF_REQUIRED, 1, MAX_POSITIONS,
                       &config->max_position_embeddings);
    if (reader->rc == 0 && config->n_heads % config->n_kv_heads != 0)
        gguf_fail(reader, "llama4.attention.head_count_kv", L4_E_FORMAT, "a divisor of llama4.attention.head_count, %d",
                  config->n_heads);
}

/* Keys, values and the rotated part of a head are all of one size in this model. */
static void read_head_dim(struct gguf_reader *reader, struct model_config *config) {
    static const char *const same[] = {"llama4.attention.value_length", "llama4.rope.dimension_count"};
    if (reader->rc != 0)
        return;
    static const char key[] = "llama4.attention.key_length";
    config->head_dim = read_i32(reader, key, GGUF_OPTIONAL, config->hidden_size / config->n_heads, 2, 4096);
    if (config->head_dim < 2 || config->head_dim > 4096 || config->head_dim % 2 != 0)
        gguf_fail(reader, key, L4_E_FORMAT,
                  "an even number 2..4096 (llama4.embedding_length / llama4.attention.head_count where absent)");
    for (int i = 0; i < 2; i++)
        if (read_i32(reader, same[i], GGUF_OPTIONAL, config->head_dim, 0, INT32_MAX) != config->head_dim)
            gguf_fail(reader, same[i], L4_E_UNSUPPORTED, "the size of a head, %d", config->head_dim);
}

static void read_layers(struct gguf_reader *reader, struct model_config *config) {
    const int32_t step = read_i32(reader, "llama4.interleave_moe_layer_step", GGUF_REQUIRED, 1, 1, INT32_MAX);
    const int32_t window = read_i32(reader, "llama4.attention.sliding_window", GGUF_OPTIONAL, 1, 0, INT32_MAX);
    if (window == 0) /* other engines take that for "RoPE everywhere and no chunks" */
        gguf_fail(reader, "llama4.attention.sliding_window", L4_E_UNSUPPORTED, "a chunk size");
    for (int i = 0; reader->rc == 0 && i < config->n_layers; i++) {
        const bool use_rope = (i + 1) % NO_ROPE_INTERVAL != 0;
        config->layers[i] =
            (struct layer_config){.is_moe = (i + 1) % step == 0, .use_rope = use_rope, .is_chunked = use_rope};
    }
}

static void read_rope(struct gguf_reader *reader, struct model_config *config) {
    static const char key[] = "llama4.rope.scaling.type";
    struct gguf_text type;
    (void)gguf_number(reader, "llama4.rope.freq_base", GGUF_REQUIRED, 1, 1e18, &config->rope_theta);
    if (gguf_string(reader, key, GGUF_OPTIONAL, &type) && !gguf_text_is(type, "none"))
        gguf_fail(reader, key, L4_E_UNSUPPORTED, "\"none\" (llama3 scaling comes as the tensor rope_freqs.weight)");
}

static void read_special_ids(struct gguf_reader *reader, struct model_config *config) {
    static const char *const ends[] = {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id",
                                       "tokenizer.ggml.eom_token_id"};
    if (reader->rc != 0)
        return;
    config->bos_id = read_i32(reader, "tokenizer.ggml.bos_token_id", GGUF_OPTIONAL, -1, 0, config->vocab_size - 1);
    for (int i = 0; i < 3; i++) {
        const int32_t id = read_i32(reader, ends[i], GGUF_OPTIONAL, -1, 0, config->vocab_size - 1);
        bool known = id < 0;
        for (int j = 0; j < config->n_eos_ids; j++)
            known = known || config->eos_ids[j] == id;
        if (!known)
            config->eos_ids[config->n_eos_ids++] = id;
    }
}

int model_config_read_gguf(struct model_config *config, const struct gguf *gguf, struct l4_err *err) {
    struct gguf_reader reader = {.gguf = gguf, .err = err};
    struct gguf_text architecture;
    double eps = 0;
    *config = (struct model_config){
        .attention_chunk_size = CHUNK_TOKENS,
        .attn_temperature_tuning = true,
        .floor_scale = FLOOR_SCALE,
        .attn_scale = ATTN_SCALE,
        .attention_bias = gguf_find_tensor(gguf, "blk.0.attn_q.bias", NULL) != NULL,
        .tie_word_embeddings = gguf_find_tensor(gguf, "output.weight", NULL) == NULL,
        .bos_id = -1,
    };
    if (gguf_string(&reader, "general.architecture", GGUF_REQUIRED, &architecture) &&
        !gguf_text_is(architecture, "llama4"))
        gguf_fail(&reader, "general.architecture", L4_E_UNSUPPORTED, "\"llama4\"");
    read_sizes(&reader, config);
    read_head_dim(&reader, config);
    (void)gguf_number(&reader, "llama4.attention.layer_norm_rms_epsilon", GGUF_REQUIRED, 1e-20, 1, &eps);
    config->rms_norm_eps = (float)eps;
    config->use_qk_norm = config->n_experts != EXPERTS_WITHOUT_QK_NORM;
    read_rope(&reader, config);
    read_layers(&reader, config);
    read_special_ids(&reader, config);
    return reader.rc;
}

/* ---- writing ----------------------------------------------------------------------------------------------------- */

static int cannot_say(struct l4_err *err, const char *what, const char *key, double found, double convention) {
    return l4_err_set(err, L4_E_UNSUPPORTED, "%s: %s is %g: a GGUF file cannot say so, it always stands for %g", what,
                      key, found, convention);
}

/* Everything that is not stored must be as readers take it to be: another engine would answer wrongly, and silently. */
static int check_conventions(const struct model_config *config, const char *what, struct l4_err *err) {
    const struct {
        const char *key;
        double found, convention;
    } checks[] = {
        {"attention_chunk_size", (double)config->attention_chunk_size, CHUNK_TOKENS},
        {"attn_temperature_tuning", config->attn_temperature_tuning, true},
        {"floor_scale", (double)config->floor_scale, FLOOR_SCALE},
        {"attn_scale", (double)config->attn_scale, (double)ATTN_SCALE},
        {"use_qk_norm", config->use_qk_norm, config->n_experts != EXPERTS_WITHOUT_QK_NORM},
    };
    for (size_t i = 0; i < sizeof checks / sizeof checks[0]; i++)
        if (checks[i].found != checks[i].convention)
            return cannot_say(err, what, checks[i].key, checks[i].found, checks[i].convention);
    if (config->max_position_embeddings > UINT32_MAX)
        return l4_err_set(err, L4_E_UNSUPPORTED, "%s: max_position_embeddings is %lld: a GGUF file holds at most %u",
                          what, (long long)config->max_position_embeddings, UINT32_MAX);
    return 0;
}

/* The step between layers with experts; 0 where there is none that fits. */
static int32_t moe_step(const struct model_config *config) {
    int32_t step = 1;
    while (step <= config->n_layers && !config->layers[step - 1].is_moe)
        step++;
    for (int i = 0; i < config->n_layers; i++)
        if (config->layers[i].is_moe != ((i + 1) % step == 0))
            return 0;
    return step;
}

static int check_layers(const struct model_config *config, const char *what, struct l4_err *err) {
    for (int i = 0; i < config->n_layers; i++) {
        const struct layer_config *layer = &config->layers[i];
        const bool use_rope = (i + 1) % NO_ROPE_INTERVAL != 0;
        if (layer->use_rope != use_rope || layer->is_chunked != use_rope)
            return l4_err_set(err, L4_E_UNSUPPORTED,
                              "%s: layer %d is %s RoPE and %s chunks: a GGUF file cannot say so, it always stands for "
                              "%s both",
                              what, i, layer->use_rope ? "with" : "without", layer->is_chunked ? "with" : "without",
                              use_rope ? "with" : "without");
    }
    if (moe_step(config) == 0)
        return l4_err_set(err, L4_E_UNSUPPORTED,
                          "%s: moe_layers: a GGUF file can only say that every n-th layer has experts", what);
    return 0;
}

int model_config_write_gguf(const struct model_config *config, struct gguf_writer *writer, const char *name,
                            const char *what, struct l4_err *err) {
    int rc = check_conventions(config, what, err);
    if (rc == 0)
        rc = check_layers(config, what, err);
    if (rc != 0)
        return rc;
    const uint32_t head_dim = (uint32_t)config->head_dim;
    gguf_write_string(writer, "general.architecture", "llama4", 6);
    gguf_write_string(writer, "general.name", name, strlen(name));
    gguf_write_u32(writer, "llama4.block_count", (uint32_t)config->n_layers);
    gguf_write_u32(writer, "llama4.context_length", (uint32_t)config->max_position_embeddings);
    gguf_write_u32(writer, "llama4.embedding_length", (uint32_t)config->hidden_size);
    gguf_write_u32(writer, "llama4.feed_forward_length", (uint32_t)config->intermediate_size_mlp);
    gguf_write_u32(writer, "llama4.expert_feed_forward_length", (uint32_t)config->intermediate_size);
    gguf_write_u32(writer, "llama4.attention.head_count", (uint32_t)config->n_heads);
    gguf_write_u32(writer, "llama4.attention.head_count_kv", (uint32_t)config->n_kv_heads);
    gguf_write_u32(writer, "llama4.attention.key_length", head_dim);
    gguf_write_u32(writer, "llama4.attention.value_length", head_dim);
    gguf_write_f32(writer, "llama4.attention.layer_norm_rms_epsilon", config->rms_norm_eps);
    gguf_write_f32(writer, "llama4.rope.freq_base", (float)config->rope_theta);
    gguf_write_u32(writer, "llama4.rope.dimension_count", head_dim);
    gguf_write_u32(writer, "llama4.expert_count", (uint32_t)config->n_experts);
    gguf_write_u32(writer, "llama4.expert_used_count", (uint32_t)config->n_experts_per_tok);
    gguf_write_u32(writer, "llama4.interleave_moe_layer_step", (uint32_t)moe_step(config));
    gguf_write_u32(writer, "llama4.vocab_size", (uint32_t)config->vocab_size);
    return 0;
}
