#include "core/format/checkpoint.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/format/shards.h"

enum { NAME_BYTES = 160, SHAPE_BYTES = 200 };

struct checkpoint {
    char *dir;
    char *tokenizer_path; /* NULL if there is none */
    struct model_config config;
    struct generation_config generation;
    struct checkpoint_weights weights;
    struct shard_set *shards;
    int64_t parameters, active_parameters;
    size_t bytes_of_type[DT_N_WEIGHT_TYPES];
};

/* Up to three dimensions; those not used are 0. */
struct shape {
    int64_t dims[3];
};

/* The tensors are asked for one after another; the first error ends it. */
struct binder {
    struct checkpoint *checkpoint;
    const char *layer_prefix; /* "language_model.model.layers.3." */
    struct l4_err *err;
    int rc;
};

static const char *show_shape(char buf[SHAPE_BYTES], const int64_t *dims, int n_dims) {
    size_t at = 0;
    buf[0] = '\0';
    for (int i = 0; i < n_dims; i++)
        at += (size_t)snprintf(buf + at, SHAPE_BYTES - at, "%s%lld", i > 0 ? ", " : "", (long long)dims[i]);
    return buf;
}

static int check_tensor(const char *dir, const char *name, const struct tensor *found, const char *file_name,
                        struct shape expected, struct l4_err *err) {
    char want[SHAPE_BYTES], have[SHAPE_BYTES];
    int n_dims = 0;
    while (n_dims < 3 && expected.dims[n_dims] != 0)
        n_dims++;
    show_shape(want, expected.dims, n_dims);
    if (found == NULL)
        return l4_err_set(err, L4_E_FORMAT, "%s: tensor %s: expected F32, F16 or BF16 [%s], found nothing%s%s", dir,
                          name, want, file_name != NULL ? " in " : " in the index", file_name != NULL ? file_name : "");
    bool same = found->n_dims == n_dims && found->type <= DT_BF16;
    for (int i = 0; same && i < n_dims; i++)
        same = found->shape[i] == expected.dims[i];
    if (same)
        return 0;
    return l4_err_set(err, L4_E_FORMAT, "%s: tensor %s: expected F32, F16 or BF16 [%s], found %s [%s] in %s", dir, name,
                      want, dtype_name(found->type), show_shape(have, found->shape, found->n_dims), file_name);
}

/* Find PREFIXname and put it into *slot. */
static void bind(struct binder *binder, struct tensor *slot, const char *prefix, const char *name,
                 struct shape expected) {
    struct checkpoint *checkpoint = binder->checkpoint;
    char full[NAME_BYTES];
    const struct tensor *found;
    const char *file_name;
    if (binder->rc != 0)
        return;
    snprintf(full, sizeof full, "%s%s", prefix, name);
    binder->rc = shard_set_find(checkpoint->shards, full, &found, &file_name, binder->err);
    if (binder->rc == 0)
        binder->rc = check_tensor(checkpoint->dir, full, found, file_name, expected, binder->err);
    if (binder->rc != 0)
        return;
    *slot = *found;
    int64_t n = (int64_t)(found->size_bytes / dtype_size(found->type));
    checkpoint->parameters += n;
    checkpoint->active_parameters += n;
    checkpoint->bytes_of_type[found->type] += found->size_bytes;
}

static void bind_layer(struct binder *binder, const char *name, struct tensor *slot, int64_t d0, int64_t d1,
                       int64_t d2) {
    bind(binder, slot, binder->layer_prefix, name, (struct shape){{d0, d1, d2}});
}

/* A stack of experts, of which a token meets only top-k. */
static void bind_experts(struct binder *binder, const char *name, struct tensor *slot, int64_t in, int64_t out) {
    const struct model_config *config = &binder->checkpoint->config;
    bind_layer(binder, name, slot, config->n_experts, in, out);
    if (binder->rc == 0) {
        int64_t idle = config->n_experts - config->n_experts_per_tok;
        binder->checkpoint->active_parameters -= idle * in * out;
    }
}

static void bind_attention(struct binder *binder, const struct model_config *config, struct layer_weights *layer) {
    const int64_t hidden = config->hidden_size;
    const int64_t n_q = (int64_t)config->n_heads * config->head_dim,
                  n_kv = (int64_t)config->n_kv_heads * config->head_dim;
    bind_layer(binder, "self_attn.q_proj.weight", &layer->q_proj, n_q, hidden, 0);
    bind_layer(binder, "self_attn.k_proj.weight", &layer->k_proj, n_kv, hidden, 0);
    bind_layer(binder, "self_attn.v_proj.weight", &layer->v_proj, n_kv, hidden, 0);
    bind_layer(binder, "self_attn.o_proj.weight", &layer->o_proj, hidden, n_q, 0);
    if (!config->attention_bias)
        return;
    bind_layer(binder, "self_attn.q_proj.bias", &layer->q_bias, n_q, 0, 0);
    bind_layer(binder, "self_attn.k_proj.bias", &layer->k_bias, n_kv, 0, 0);
    bind_layer(binder, "self_attn.v_proj.bias", &layer->v_bias, n_kv, 0, 0);
    bind_layer(binder, "self_attn.o_proj.bias", &layer->o_bias, hidden, 0, 0);
}

static void bind_feed_forward(struct binder *binder, const struct model_config *config, bool is_moe,
                              struct layer_weights *layer) {
    const int64_t hidden = config->hidden_size, width = config->intermediate_size,
                  dense = config->intermediate_size_mlp;
    if (!is_moe) {
        bind_layer(binder, "feed_forward.gate_proj.weight", &layer->gate_proj, dense, hidden, 0);
        bind_layer(binder, "feed_forward.up_proj.weight", &layer->up_proj, dense, hidden, 0);
        bind_layer(binder, "feed_forward.down_proj.weight", &layer->down_proj, hidden, dense, 0);
        return;
    }
    bind_layer(binder, "feed_forward.router.weight", &layer->router, config->n_experts, hidden, 0);
    bind_layer(binder, "feed_forward.shared_expert.gate_proj.weight", &layer->gate_proj, width, hidden, 0);
    bind_layer(binder, "feed_forward.shared_expert.up_proj.weight", &layer->up_proj, width, hidden, 0);
    bind_layer(binder, "feed_forward.shared_expert.down_proj.weight", &layer->down_proj, hidden, width, 0);
    bind_experts(binder, "feed_forward.experts.gate_up_proj", &layer->gate_up_proj, hidden, 2 * width);
    bind_experts(binder, "feed_forward.experts.down_proj", &layer->experts_down, width, hidden);
}

static int bind_all(struct checkpoint *checkpoint, void (*progress)(void *user, double fraction), void *user,
                    struct l4_err *err) {
    const struct model_config *config = &checkpoint->config;
    struct checkpoint_weights *weights = &checkpoint->weights;
    const char *prefix = config->is_multimodal ? "language_model." : "";
    char layer_prefix[64];
    struct binder binder = {.checkpoint = checkpoint, .layer_prefix = layer_prefix, .err = err};
    const struct shape embeddings = {{config->vocab_size, config->hidden_size}}, norm = {{config->hidden_size}};

    weights->layers = calloc((size_t)config->n_layers, sizeof *weights->layers);
    if (weights->layers == NULL)
        return l4_err_set(err, L4_E_NOMEM, "%s: out of memory", checkpoint->dir);
    bind(&binder, &weights->embed_tokens, prefix, "model.embed_tokens.weight", embeddings);
    for (int i = 0; i < config->n_layers && binder.rc == 0; i++) {
        struct layer_weights *layer = &weights->layers[i];
        snprintf(layer_prefix, sizeof layer_prefix, "%smodel.layers.%d.", prefix, i);
        bind_layer(&binder, "input_layernorm.weight", &layer->input_layernorm, config->hidden_size, 0, 0);
        bind_attention(&binder, config, layer);
        bind_layer(&binder, "post_attention_layernorm.weight", &layer->post_attention_layernorm, config->hidden_size, 0,
                   0);
        bind_feed_forward(&binder, config, config->layers[i].is_moe, layer);
        if (progress != NULL && binder.rc == 0)
            progress(user, (i + 1) / (config->n_layers + 1.0));
    }
    bind(&binder, &weights->norm, prefix, "model.norm.weight", norm);
    if (config->tie_word_embeddings)
        weights->lm_head = weights->embed_tokens;
    else
        bind(&binder, &weights->lm_head, prefix, "lm_head.weight", embeddings);
    if (progress != NULL && binder.rc == 0)
        progress(user, 1);
    return binder.rc;
}

static int find_tokenizer(struct checkpoint *checkpoint, struct l4_err *err) {
    const char name[] = "/tokenizer.json";
    size_t n_bytes = strlen(checkpoint->dir) + sizeof name;
    checkpoint->tokenizer_path = malloc(n_bytes);
    if (checkpoint->tokenizer_path == NULL)
        return l4_err_set(err, L4_E_NOMEM, "%s: out of memory", checkpoint->dir);
    snprintf(checkpoint->tokenizer_path, n_bytes, "%s%s", checkpoint->dir, name);
    if (access(checkpoint->tokenizer_path, F_OK) != 0) {
        free(checkpoint->tokenizer_path);
        checkpoint->tokenizer_path = NULL;
    }
    return 0;
}

int checkpoint_open(struct checkpoint **out, const char *path, void (*progress)(void *user, double fraction),
                    void *user, struct l4_err *err) {
    struct checkpoint *checkpoint = calloc(1, sizeof *checkpoint);
    int rc = 0;
    if (checkpoint == NULL || (checkpoint->dir = strdup(path)) == NULL)
        rc = l4_err_set(err, L4_E_NOMEM, "%s: out of memory", path);
    if (rc == 0)
        rc = model_config_read(&checkpoint->config, path, err);
    if (rc == 0)
        rc = generation_config_read(&checkpoint->generation, path, checkpoint->config.vocab_size, err);
    if (rc == 0)
        rc = find_tokenizer(checkpoint, err);
    if (rc == 0)
        rc = shard_set_open(&checkpoint->shards, path, err);
    if (rc == 0)
        rc = bind_all(checkpoint, progress, user, err);
    if (rc != 0) {
        checkpoint_close(checkpoint);
        return rc;
    }
    *out = checkpoint;
    return 0;
}

void checkpoint_close(struct checkpoint *checkpoint) {
    if (checkpoint == NULL)
        return;
    shard_set_close(checkpoint->shards);
    free(checkpoint->weights.layers);
    free(checkpoint->tokenizer_path);
    free(checkpoint->dir);
    free(checkpoint);
}

const struct model_config *checkpoint_config(const struct checkpoint *checkpoint) {
    return &checkpoint->config;
}

const struct generation_config *checkpoint_generation_config(const struct checkpoint *checkpoint) {
    return &checkpoint->generation;
}

const struct checkpoint_weights *checkpoint_weights(const struct checkpoint *checkpoint) {
    return &checkpoint->weights;
}

const char *checkpoint_tokenizer_path(const struct checkpoint *checkpoint) {
    return checkpoint->tokenizer_path;
}

int64_t checkpoint_parameters(const struct checkpoint *checkpoint) {
    return checkpoint->parameters;
}

int64_t checkpoint_active_parameters(const struct checkpoint *checkpoint) {
    return checkpoint->active_parameters;
}

const char *checkpoint_quantization(const struct checkpoint *checkpoint) {
    static const char *const names[DT_N_WEIGHT_TYPES] = {[DT_F32] = "f32", [DT_F16] = "f16", [DT_BF16] = "bf16"};
    int most = 0;
    for (int i = 1; i < DT_N_WEIGHT_TYPES; i++)
        if (checkpoint->bytes_of_type[i] > checkpoint->bytes_of_type[most])
            most = i;
    return names[most];
}
