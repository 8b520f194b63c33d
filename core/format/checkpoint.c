#include "core/format/checkpoint.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/format/gguf.h"
#include "core/format/shards.h"

enum { NAME_BYTES = 160, SHAPE_BYTES = 200 };

struct checkpoint {
    char *path;
    char *tokenizer_path; /* NULL if there is none */
    struct model_config config;
    struct generation_config generation;
    struct checkpoint_weights weights;
    struct shard_set *shards; /* of a Hugging Face directory ... */
    struct gguf *gguf;        /* ... or a GGUF file */
    int64_t parameters, active_parameters;
    size_t bytes_of_type[DT_COUNT];
    char quantization[16];
};

/* Up to three dimensions; those not used are 0. */
struct shape {
    int64_t dims[3];
};

/* What a tensor is called in a Hugging Face checkpoint and in GGUF; NULL where that has none. */
struct names {
    const char *hugging_face, *gguf;
};

/* The tensors are asked for one after another; the first error ends it. */
struct binder {
    struct checkpoint *checkpoint;
    const char *prefix;       /* "language_model." */
    const char *layer_prefix; /* "language_model.model.layers.3.", "blk.3." */
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

/* Vectors are floats; matrices may be quantised where the format knows such types. */
static bool is_allowed(const struct checkpoint *checkpoint, enum dtype type, int n_dims) {
    return n_dims > 1 && checkpoint->gguf != NULL ? dtype_is_weight(type) : type <= DT_BF16;
}

static int check_tensor(const struct checkpoint *checkpoint, const char *name, const struct tensor *found,
                        const char *file_name, struct shape expected, struct l4_err *err) {
    char want[SHAPE_BYTES], have[SHAPE_BYTES];
    int n_dims = 0;
    while (n_dims < 3 && expected.dims[n_dims] != 0)
        n_dims++;
    show_shape(want, expected.dims, n_dims);
    const char *types =
        is_allowed(checkpoint, DT_Q4_0, n_dims) ? "F32, F16, BF16 or a quantised type" : "F32, F16 or BF16";
    if (found == NULL && checkpoint->gguf != NULL)
        return l4_err_set(err, L4_E_FORMAT, "%s: tensor %s: expected %s [%s], found nothing", checkpoint->path, name,
                          types, want);
    if (found == NULL)
        return l4_err_set(err, L4_E_FORMAT, "%s: tensor %s: expected %s [%s], found nothing%s%s", checkpoint->path,
                          name, types, want, file_name != NULL ? " in " : " in the index",
                          file_name != NULL ? file_name : "");
    bool same = found->n_dims == n_dims && is_allowed(checkpoint, found->type, n_dims);
    for (int i = 0; same && i < n_dims; i++)
        same = found->shape[i] == expected.dims[i];
    if (same)
        return 0;
    return l4_err_set(err, L4_E_FORMAT, "%s: tensor %s: expected %s [%s], found %s [%s] in %s", checkpoint->path, name,
                      types, want, dtype_name(found->type), show_shape(have, found->shape, found->n_dims), file_name);
}

static int find_tensor(const struct checkpoint *checkpoint, const char *name, const struct tensor **found,
                       const char **file_name, struct l4_err *err) {
    if (checkpoint->gguf == NULL)
        return shard_set_find(checkpoint->shards, name, found, file_name, err);
    *found = gguf_find_tensor(checkpoint->gguf, name, file_name);
    return 0;
}

/* Find the tensor of that name and put it into *slot. */
static void bind(struct binder *binder, struct tensor *slot, const char *prefix, const struct names *names,
                 struct shape expected) {
    struct checkpoint *checkpoint = binder->checkpoint;
    char full[NAME_BYTES];
    const struct tensor *found = NULL;
    const char *file_name = NULL;
    if (binder->rc != 0)
        return;
    snprintf(full, sizeof full, "%s%s", prefix, checkpoint->gguf != NULL ? names->gguf : names->hugging_face);
    binder->rc = find_tensor(checkpoint, full, &found, &file_name, binder->err);
    if (binder->rc == 0)
        binder->rc = check_tensor(checkpoint, full, found, file_name, expected, binder->err);
    if (binder->rc != 0)
        return;
    *slot = *found;
    const int64_t n = tensor_elements(found);
    checkpoint->parameters += n;
    checkpoint->active_parameters += n;
    checkpoint->bytes_of_type[found->type] += found->size_bytes;
}

static void bind_model(struct binder *binder, const char *hugging_face, const char *gguf, struct tensor *slot,
                       struct shape expected) {
    bind(binder, slot, binder->prefix, &(struct names){hugging_face, gguf}, expected);
}

static void bind_layer(struct binder *binder, const char *hugging_face, const char *gguf, struct tensor *slot,
                       int64_t d0, int64_t d1) {
    bind(binder, slot, binder->layer_prefix, &(struct names){hugging_face, gguf}, (struct shape){{d0, d1}});
}

/* A stack of experts, of which a token meets only top-k. */
static void bind_experts(struct binder *binder, const char *hugging_face, const char *gguf, struct tensor *slot,
                         int64_t rows, int64_t columns) {
    const struct model_config *config = &binder->checkpoint->config;
    bind(binder, slot, binder->layer_prefix, &(struct names){hugging_face, gguf},
         (struct shape){{config->n_experts, rows, columns}});
    if (binder->rc == 0) {
        int64_t idle = config->n_experts - config->n_experts_per_tok;
        binder->checkpoint->active_parameters -= idle * rows * columns;
    }
}

static void bind_attention(struct binder *binder, const struct model_config *config, struct layer_weights *layer) {
    const int64_t hidden = config->hidden_size;
    const int64_t n_q = (int64_t)config->n_heads * config->head_dim,
                  n_kv = (int64_t)config->n_kv_heads * config->head_dim;
    bind_layer(binder, "self_attn.q_proj.weight", "attn_q.weight", &layer->q_proj, n_q, hidden);
    bind_layer(binder, "self_attn.k_proj.weight", "attn_k.weight", &layer->k_proj, n_kv, hidden);
    bind_layer(binder, "self_attn.v_proj.weight", "attn_v.weight", &layer->v_proj, n_kv, hidden);
    bind_layer(binder, "self_attn.o_proj.weight", "attn_output.weight", &layer->o_proj, hidden, n_q);
    if (!config->attention_bias)
        return;
    bind_layer(binder, "self_attn.q_proj.bias", "attn_q.bias", &layer->q_bias, n_q, 0);
    bind_layer(binder, "self_attn.k_proj.bias", "attn_k.bias", &layer->k_bias, n_kv, 0);
    bind_layer(binder, "self_attn.v_proj.bias", "attn_v.bias", &layer->v_bias, n_kv, 0);
    bind_layer(binder, "self_attn.o_proj.bias", "attn_output.bias", &layer->o_bias, hidden, 0);
}

static void bind_routed_experts(struct binder *binder, const struct model_config *config, struct layer_weights *layer) {
    const int64_t hidden = config->hidden_size, width = config->intermediate_size;
    if (binder->checkpoint->gguf == NULL) {
        bind_experts(binder, "feed_forward.experts.gate_up_proj", NULL, &layer->gate_up_proj, hidden, 2 * width);
        bind_experts(binder, "feed_forward.experts.down_proj", NULL, &layer->experts_down, width, hidden);
        return;
    }
    bind_experts(binder, NULL, "ffn_gate_exps.weight", &layer->experts_gate, width, hidden);
    bind_experts(binder, NULL, "ffn_up_exps.weight", &layer->experts_up, width, hidden);
    bind_experts(binder, NULL, "ffn_down_exps.weight", &layer->experts_down, hidden, width);
}

static void bind_feed_forward(struct binder *binder, const struct model_config *config, bool is_moe,
                              struct layer_weights *layer) {
    const int64_t hidden = config->hidden_size, width = config->intermediate_size,
                  dense = config->intermediate_size_mlp;
    if (!is_moe) {
        bind_layer(binder, "feed_forward.gate_proj.weight", "ffn_gate.weight", &layer->gate_proj, dense, hidden);
        bind_layer(binder, "feed_forward.up_proj.weight", "ffn_up.weight", &layer->up_proj, dense, hidden);
        bind_layer(binder, "feed_forward.down_proj.weight", "ffn_down.weight", &layer->down_proj, hidden, dense);
        return;
    }
    bind_layer(binder, "feed_forward.router.weight", "ffn_gate_inp.weight", &layer->router, config->n_experts, hidden);
    bind_layer(binder, "feed_forward.shared_expert.gate_proj.weight", "ffn_gate_shexp.weight", &layer->gate_proj, width,
               hidden);
    bind_layer(binder, "feed_forward.shared_expert.up_proj.weight", "ffn_up_shexp.weight", &layer->up_proj, width,
               hidden);
    bind_layer(binder, "feed_forward.shared_expert.down_proj.weight", "ffn_down_shexp.weight", &layer->down_proj,
               hidden, width);
    bind_routed_experts(binder, config, layer);
}

/* The divisors are used as they are, so they must make sense: a zero would be a silent wrong answer. */
static void bind_rope_freqs(struct binder *binder, struct tensor *slot) {
    const struct checkpoint *checkpoint = binder->checkpoint;
    static const char name[] = "rope_freqs.weight";
    if (binder->rc != 0 || checkpoint->gguf == NULL || gguf_find_tensor(checkpoint->gguf, name, NULL) == NULL)
        return;
    bind_model(binder, NULL, name, slot, (struct shape){{checkpoint->config.head_dim / 2}});
    if (binder->rc == 0 && slot->type != DT_F32)
        binder->rc = l4_err_set(binder->err, L4_E_FORMAT, "%s: tensor %s: expected F32, found %s", checkpoint->path,
                                name, dtype_name(slot->type));
    for (int i = 0; binder->rc == 0 && i < checkpoint->config.head_dim / 2; i++) {
        const double divisor = (double)((const float *)slot->data)[i];
        if (!(divisor >= 1e-6 && divisor <= 1e6))
            binder->rc = l4_err_set(binder->err, L4_E_FORMAT, "%s: tensor %s: [%d]: expected 1e-06..1e+06, found %g",
                                    checkpoint->path, name, i, divisor);
    }
}

static int bind_all(struct checkpoint *checkpoint, void (*progress)(void *user, double fraction), void *user,
                    struct l4_err *err) {
    const struct model_config *config = &checkpoint->config;
    struct checkpoint_weights *weights = &checkpoint->weights;
    const char *prefix = config->is_multimodal ? "language_model." : "";
    char layer_prefix[64];
    struct binder binder = {.checkpoint = checkpoint, .prefix = prefix, .layer_prefix = layer_prefix, .err = err};
    const struct shape embeddings = {{config->vocab_size, config->hidden_size}}, norm = {{config->hidden_size}};
    const int64_t hidden = config->hidden_size;

    weights->layers = calloc((size_t)config->n_layers, sizeof *weights->layers);
    if (weights->layers == NULL)
        return l4_err_set(err, L4_E_NOMEM, "%s: out of memory", checkpoint->path);
    bind_model(&binder, "model.embed_tokens.weight", "token_embd.weight", &weights->embed_tokens, embeddings);
    for (int i = 0; i < config->n_layers && binder.rc == 0; i++) {
        struct layer_weights *layer = &weights->layers[i];
        if (checkpoint->gguf != NULL)
            snprintf(layer_prefix, sizeof layer_prefix, "blk.%d.", i);
        else
            snprintf(layer_prefix, sizeof layer_prefix, "%smodel.layers.%d.", prefix, i);
        bind_layer(&binder, "input_layernorm.weight", "attn_norm.weight", &layer->input_layernorm, hidden, 0);
        bind_attention(&binder, config, layer);
        bind_layer(&binder, "post_attention_layernorm.weight", "ffn_norm.weight", &layer->post_attention_layernorm,
                   hidden, 0);
        bind_feed_forward(&binder, config, config->layers[i].is_moe, layer);
        if (progress != NULL && binder.rc == 0)
            progress(user, (i + 1) / (config->n_layers + 1.0));
    }
    bind_model(&binder, "model.norm.weight", "output_norm.weight", &weights->norm, norm);
    bind_rope_freqs(&binder, &weights->rope_freqs);
    if (config->tie_word_embeddings)
        weights->lm_head = weights->embed_tokens;
    else
        bind_model(&binder, "lm_head.weight", "output.weight", &weights->lm_head, embeddings);
    if (progress != NULL && binder.rc == 0)
        progress(user, 1);
    return binder.rc;
}

static void name_quantization(struct checkpoint *checkpoint) {
    int most = 0;
    for (int i = 1; i < DT_COUNT; i++)
        if (checkpoint->bytes_of_type[i] > checkpoint->bytes_of_type[most])
            most = i;
    const char *name = dtype_name((enum dtype)most);
    for (size_t i = 0; name[i] != '\0' && i + 1 < sizeof checkpoint->quantization; i++)
        checkpoint->quantization[i] = (char)tolower((unsigned char)name[i]);
}

static int find_tokenizer(struct checkpoint *checkpoint, struct l4_err *err) {
    const char name[] = "/tokenizer.json";
    size_t n_bytes = strlen(checkpoint->path) + sizeof name;
    checkpoint->tokenizer_path = malloc(n_bytes);
    if (checkpoint->tokenizer_path == NULL)
        return l4_err_set(err, L4_E_NOMEM, "%s: out of memory", checkpoint->path);
    snprintf(checkpoint->tokenizer_path, n_bytes, "%s%s", checkpoint->path, name);
    if (access(checkpoint->tokenizer_path, F_OK) != 0) {
        free(checkpoint->tokenizer_path);
        checkpoint->tokenizer_path = NULL;
    }
    return 0;
}

static int open_directory(struct checkpoint *checkpoint, struct l4_err *err) {
    int rc = model_config_read(&checkpoint->config, checkpoint->path, err);
    if (rc == 0)
        rc = generation_config_read(&checkpoint->generation, checkpoint->path, checkpoint->config.vocab_size, err);
    if (rc == 0)
        rc = find_tokenizer(checkpoint, err);
    if (rc == 0)
        rc = shard_set_open(&checkpoint->shards, checkpoint->path, err);
    return rc;
}

static int open_gguf(struct checkpoint *checkpoint, struct l4_err *err) {
    int rc = gguf_open(&checkpoint->gguf, checkpoint->path, err);
    if (rc == 0)
        rc = model_config_read_gguf(&checkpoint->config, checkpoint->gguf, err);
    const struct gguf_reader reader = {.gguf = checkpoint->gguf};
    if (rc == 0 && gguf_has(&reader, "tokenizer.ggml.model") &&
        (checkpoint->tokenizer_path = strdup(checkpoint->path)) == NULL)
        rc = l4_err_set(err, L4_E_NOMEM, "%s: out of memory", checkpoint->path);
    return rc;
}

/* A file, or what is named like one: a message about config.json would mislead. */
static bool is_gguf_path(const char *path) {
    struct stat st;
    const size_t length = strlen(path);
    if (stat(path, &st) == 0)
        return !S_ISDIR(st.st_mode);
    return length > 5 && strcmp(path + length - 5, ".gguf") == 0;
}

int checkpoint_open(struct checkpoint **out, const char *path, void (*progress)(void *user, double fraction),
                    void *user, struct l4_err *err) {
    struct checkpoint *checkpoint = calloc(1, sizeof *checkpoint);
    int rc;
    if (checkpoint == NULL || (checkpoint->path = strdup(path)) == NULL)
        rc = l4_err_set(err, L4_E_NOMEM, "%s: out of memory", path);
    else
        rc = is_gguf_path(path) ? open_gguf(checkpoint, err) : open_directory(checkpoint, err);
    if (rc == 0)
        rc = bind_all(checkpoint, progress, user, err);
    if (rc != 0) {
        checkpoint_close(checkpoint);
        return rc;
    }
    name_quantization(checkpoint);
    *out = checkpoint;
    return 0;
}

void checkpoint_close(struct checkpoint *checkpoint) {
    if (checkpoint == NULL)
        return;
    shard_set_close(checkpoint->shards);
    gguf_close(checkpoint->gguf);
    free(checkpoint->weights.layers);
    free(checkpoint->tokenizer_path);
    free(checkpoint->path);
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

const struct file_mapping *checkpoint_mapping(const struct checkpoint *checkpoint, size_t i) {
    return checkpoint->gguf != NULL ? gguf_mapping(checkpoint->gguf, i) : shard_set_mapping(checkpoint->shards, i);
}

const struct gguf *checkpoint_gguf(const struct checkpoint *checkpoint) {
    return checkpoint->gguf;
}

int64_t checkpoint_parameters(const struct checkpoint *checkpoint) {
    return checkpoint->parameters;
}

int64_t checkpoint_active_parameters(const struct checkpoint *checkpoint) {
    return checkpoint->active_parameters;
}

const char *checkpoint_quantization(const struct checkpoint *checkpoint) {
    return checkpoint->quantization;
}

size_t checkpoint_bytes_of_type(const struct checkpoint *checkpoint, enum dtype type) {
    return checkpoint->bytes_of_type[type];
}
