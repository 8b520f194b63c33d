/* A checkpoint on disk: its configuration and its tensors, bound by name, type and shape.  Weights stay mapped. */
#ifndef CORE_FORMAT_CHECKPOINT_H
#define CORE_FORMAT_CHECKPOINT_H

#include <stdbool.h>
#include <stdint.h>

#include "core/format/config.h"
#include "core/format/file.h"
#include "core/format/tensor.h"
#include "llama4/error.h"

/* The tensors of one layer; data NULL where the layer has no such tensor. */
struct layer_weights {
    struct tensor input_layernorm;          /* [hidden] */
    struct tensor post_attention_layernorm; /* [hidden] */
    struct tensor q_proj, q_bias;           /* [n_heads * head_dim, hidden], [n_heads * head_dim] */
    struct tensor k_proj, k_bias;           /* [n_kv_heads * head_dim, hidden], ... */
    struct tensor v_proj, v_bias;           /* as k_proj */
    struct tensor o_proj, o_bias;           /* [hidden, n_heads * head_dim], [hidden] */

    struct tensor gate_proj,
        up_proj; /* dense: [intermediate_size_mlp, hidden]; MoE: the shared expert's [intermediate_size, hidden] */
    struct tensor down_proj; /* [hidden, same intermediate] */

    struct tensor router; /* [n_experts, hidden] */

    /* The routed experts.  Hugging Face stores them in x out, gate and up in one tensor, gate first ... */
    struct tensor gate_up_proj; /* [n_experts, hidden, 2 * intermediate_size] */
    /* ... GGUF out x in and apart. */
    struct tensor experts_gate, experts_up; /* [n_experts, intermediate_size, hidden] */
    /* [n_experts, intermediate_size, hidden] beside gate_up_proj, [n_experts, hidden, intermediate_size] beside
     * experts_gate and experts_up */
    struct tensor experts_down;
};

struct checkpoint_weights {
    struct tensor embed_tokens;   /* [vocab, hidden] */
    struct tensor norm;           /* [hidden] */
    struct tensor lm_head;        /* [vocab, hidden]; embed_tokens again where tied */
    struct tensor rope_freqs;     /* GGUF, optional: [head_dim / 2] divisors of the RoPE frequencies, F32, checked */
    struct layer_weights *layers; /* [n_layers] */
};

struct checkpoint;
struct gguf;

/* checkpoint_open - of a Hugging Face directory: read config.json and generation_config.json, map model.safetensors or
 * the shards that model.safetensors.index.json lists.  Of a GGUF file (of a split model: its first part): map all
 * parts. Then bind every tensor the model needs. progress (NULL is allowed) is called with 0..1 as layers are bound.
 *   Nothing of a matrix is read.  Errors: L4_E_IO, L4_E_FORMAT (names the tensor, what was expected and what was
 *   found), L4_E_UNSUPPORTED, L4_E_NOMEM. */
int checkpoint_open(struct checkpoint **out, const char *path, void (*progress)(void *user, double fraction),
                    void *user, struct l4_err *err) L4_MUST_CHECK;
void checkpoint_close(struct checkpoint *checkpoint);

/* All borrowed until close. */
const struct model_config *checkpoint_config(const struct checkpoint *checkpoint);
const struct generation_config *checkpoint_generation_config(const struct checkpoint *checkpoint);
const struct checkpoint_weights *checkpoint_weights(const struct checkpoint *checkpoint);
/* DIR/tokenizer.json, or the GGUF file itself; NULL if there is no tokenizer. */
const char *checkpoint_tokenizer_path(const struct checkpoint *checkpoint);
/* checkpoint_mapping - the i-th file that holds weights, NULL behind the last. */
const struct file_mapping *checkpoint_mapping(const struct checkpoint *checkpoint, size_t i);
/* The file behind it; NULL for a Hugging Face directory. */
const struct gguf *checkpoint_gguf(const struct checkpoint *checkpoint);
int64_t checkpoint_parameters(const struct checkpoint *checkpoint);
int64_t checkpoint_active_parameters(const struct checkpoint *checkpoint); /* a token's share: top-k of the experts */
/* "f32", "bf16", "q4_k", ...: the type that holds most bytes. */
const char *checkpoint_quantization(const struct checkpoint *checkpoint);
/* What the bound tensors of one type hold. */
size_t checkpoint_bytes_of_type(const struct checkpoint *checkpoint, enum dtype type);

#endif
