/* Hyperparameters of a Llama 4 text model, every default resolved. */
#ifndef CORE_FORMAT_CONFIG_H
#define CORE_FORMAT_CONFIG_H

#include <stdbool.h>
#include <stdint.h>

#include "llama4/error.h"

struct gguf;
struct gguf_writer;

enum { CONFIG_MAX_LAYERS = 512, CONFIG_MAX_STOP_IDS = 16 };

struct layer_config {
    bool is_moe;     /* router, shared expert and routed experts; else a dense feed-forward */
    bool use_rope;   /* RoPE (and QK-norm where on); else NoPE with temperature tuning */
    bool is_chunked; /* attends within its chunk only */
};

struct model_config {
    int32_t vocab_size;
    int32_t hidden_size;
    int32_t n_layers;
    int32_t n_heads, n_kv_heads, head_dim;
    int32_t intermediate_size;     /* of each expert and of the shared expert */
    int32_t intermediate_size_mlp; /* of a dense feed-forward */
    int32_t n_experts, n_experts_per_tok;
    int64_t max_position_embeddings;
    int64_t attention_chunk_size;
    float rms_norm_eps;
    bool use_qk_norm;
    bool attention_bias;
    bool tie_word_embeddings;
    bool attn_temperature_tuning;
    float floor_scale, attn_scale;

    double rope_theta;
    bool rope_llama3; /* llama3 frequency scaling with the four below */
    double rope_factor, rope_low_freq_factor, rope_high_freq_factor;
    int64_t rope_original_context;

    struct layer_config layers[CONFIG_MAX_LAYERS];

    int32_t bos_id; /* -1 if none */
    int32_t eos_ids[CONFIG_MAX_STOP_IDS];
    int n_eos_ids;

    bool is_multimodal; /* tensors carry the prefix "language_model." */
};

/* Sampling defaults and stop ids of generation_config.json. */
struct generation_config {
    bool has_temperature, has_top_p, has_min_p, has_top_k, has_repetition_penalty;
    float temperature, top_p, min_p, repetition_penalty;
    int top_k;
    int32_t eos_ids[CONFIG_MAX_STOP_IDS];
    int n_eos_ids;
};

/* model_config_read - read and check DIR/config.json (llama4 or llama4_text), old and new spellings, transformers'
 * defaults for missing keys; null counts as missing, except that transformers gives a null num_key_value_heads or
 * head_dim a meaning.  A failed read leaves *config unspecified.
 *   Errors: L4_E_NOT_FOUND, L4_E_IO, L4_E_FORMAT, L4_E_UNSUPPORTED, L4_E_NOMEM; the message names the file, the key,
 * what was found and what is allowed. Source: transformers' configuration_llama4.py and modeling_rope_utils.py. */
int model_config_read(struct model_config *config, const char *dir, struct l4_err *err) L4_MUST_CHECK;

/* model_config_read_gguf - the same from the metadata of a GGUF file of architecture llama4.  What that does not hold
 * is set by convention: chunks of 8192, every fourth layer without RoPE, floor_scale 8192, attn_scale 0.1, QK-norm
 * unless there are 128 experts; tied embeddings and biases by the presence of tensors.  RoPE scaling comes as a tensor
 * of divisors (checkpoint_weights). Errors: L4_E_FORMAT, L4_E_UNSUPPORTED; the message names the file, the key, what
 * was found and what is allowed. Source: the llama4 architecture of llama.cpp. */
int model_config_read_gguf(struct model_config *config, const struct gguf *gguf, struct l4_err *err) L4_MUST_CHECK;

/* model_config_write_gguf - the keys that model_config_read_gguf reads, but for the tokenizer's.  RoPE scaling, biases
 * and tied embeddings are a matter of tensors. name: of the model; what: its path, for messages. Errors:
 * L4_E_UNSUPPORTED (names what the model has and what a GGUF file stands for instead). */
int model_config_write_gguf(const struct model_config *config, struct gguf_writer *writer, const char *name,
                            const char *what, struct l4_err *err) L4_MUST_CHECK;

/* generation_config_read - DIR/generation_config.json; a missing file leaves *config empty and is no error.
 * do_sample false gives temperature 0, whatever temperature says. */
int generation_config_read(struct generation_config *config, const char *dir, int32_t vocab_size,
                           struct l4_err *err) L4_MUST_CHECK;

#endif
