#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/checked.h"
#include "core/model/rope.h"
#include "core/quantize_internal.h"

/* ---- types ------------------------------------------------------------------------------------------------------- */

/* What a tensor is for, as far as its type depends on it. */
enum role { ROLE_FLOAT, ROLE_MATRIX, ROLE_KEYS_VALUES, ROLE_OUTPUT };

/* Below eight bits the output matrix and the keys and values, which are small and matter most, get more of them. */
static enum dtype preferred_type(enum dtype wanted, enum role role) {
    const bool is_narrow = wanted == DT_Q4_0 || wanted == DT_Q4_K;
    if (role == ROLE_FLOAT)
        return DT_F32;
    if (is_narrow && role == ROLE_OUTPUT)
        return DT_Q6_K;
    if (is_narrow && role == ROLE_KEYS_VALUES)
        return DT_Q8_0;
    return wanted;
}

/* A row is a whole number of blocks. */
static enum dtype fitting_type(enum dtype preferred, int64_t row) {
    if (row % dtype_block_elements(preferred) == 0)
        return preferred;
    return row % dtype_block_elements(DT_Q8_0) == 0 ? DT_Q8_0 : DT_F16;
}

/* ---- the list ---------------------------------------------------------------------------------------------------- */

/* The first error ends it. */
struct planner {
    struct quantize_plan *plan;
    enum dtype wanted;
    int layer; /* -1 = a tensor of the whole model */
    bool failed;
};

static struct quantize_tensor *add(struct planner *planner, const char *name, const struct tensor *source,
                                   enum role role) {
    struct quantize_plan *plan = planner->plan;
    if (source->data == NULL || planner->failed)
        return NULL;
    if (!checked_grow((void **)&plan->tensors, &plan->cap_tensors, plan->n_tensors + 1, sizeof *plan->tensors)) {
        planner->failed = true;
        return NULL;
    }
    struct quantize_tensor *tensor = &plan->tensors[plan->n_tensors++];
    *tensor = (struct quantize_tensor){.n_dims = source->n_dims, .source = *source};
    for (int i = 0; i < source->n_dims; i++)
        tensor->shape[i] = source->shape[i];
    if (planner->layer < 0)
        snprintf(tensor->name, sizeof tensor->name, "%s", name);
    else
        snprintf(tensor->name, sizeof tensor->name, "blk.%d.%s", planner->layer, name);
    const enum dtype preferred = preferred_type(planner->wanted, source->n_dims == 1 ? ROLE_FLOAT : role);
    tensor->type = fitting_type(preferred, tensor->shape[tensor->n_dims - 1]);
    tensor->is_fallback = tensor->type != preferred;
    return tensor;
}

/* n_out columns of [experts, in, columns] as [experts, n_out, in]. */
static void add_transposed(struct planner *planner, const char *name, const struct tensor *source, int64_t first_column,
                           int64_t n_out) {
    struct quantize_tensor *tensor = add(planner, name, source, ROLE_MATRIX);
    if (tensor == NULL)
        return;
    tensor->is_transposed = true;
    tensor->first_column = first_column;
    tensor->shape[1] = n_out;
    tensor->shape[2] = source->shape[1];
    tensor->type = fitting_type(planner->wanted, tensor->shape[2]);
    tensor->is_fallback = tensor->type != planner->wanted;
}

static void add_experts(struct planner *planner, const char *name, const struct tensor *apart,
                        const struct tensor *transposed, int64_t first_column, int64_t n_out) {
    add(planner, name, apart, ROLE_MATRIX);
    if (apart->data == NULL)
        add_transposed(planner, name, transposed, first_column, n_out);
}

static void add_layer(struct planner *planner, const struct layer_weights *layer, const struct model_config *config,
                      int index) {
    const bool is_moe = config->layers[index].is_moe, is_joined = layer->gate_up_proj.data != NULL;
    const int64_t hidden = config->hidden_size, width = config->intermediate_size;
    const struct tensor none = {0};
    planner->layer = index;
    add(planner, "attn_k.bias", &layer->k_bias, ROLE_FLOAT);
    add(planner, "attn_k.weight", &layer->k_proj, ROLE_KEYS_VALUES);
    add(planner, "attn_norm.weight", &layer->input_layernorm, ROLE_FLOAT);
    add(planner, "attn_output.bias", &layer->o_bias, ROLE_FLOAT);
    add(planner, "attn_output.weight", &layer->o_proj, ROLE_MATRIX);
    add(planner, "attn_q.bias", &layer->q_bias, ROLE_FLOAT);
    add(planner, "attn_q.weight", &layer->q_proj, ROLE_MATRIX);
    add(planner, "attn_v.bias", &layer->v_bias, ROLE_FLOAT);
    add(planner, "attn_v.weight", &layer->v_proj, ROLE_KEYS_VALUES);
    if (!is_moe) {
        add(planner, "ffn_down.weight", &layer->down_proj, ROLE_MATRIX);
        add(planner, "ffn_gate.weight", &layer->gate_proj, ROLE_MATRIX);
        add(planner, "ffn_norm.weight", &layer->post_attention_layernorm, ROLE_FLOAT);
        add(planner, "ffn_up.weight", &layer->up_proj, ROLE_MATRIX);
        return;
    }
    add_experts(planner, "ffn_down_exps.weight", is_joined ? &none : &layer->experts_down, &layer->experts_down, 0,
                hidden);
    add(planner, "ffn_down_shexp.weight", &layer->down_proj, ROLE_MATRIX);
    add_experts(planner, "ffn_gate_exps.weight", &layer->experts_gate, &layer->gate_up_proj, 0, width);
    add(planner, "ffn_gate_inp.weight", &layer->router, ROLE_FLOAT);
    add(planner, "ffn_gate_shexp.weight", &layer->gate_proj, ROLE_MATRIX);
    add(planner, "ffn_norm.weight", &layer->post_attention_layernorm, ROLE_FLOAT);
    add_experts(planner, "ffn_up_exps.weight", &layer->experts_up, &layer->gate_up_proj, width, width);
    add(planner, "ffn_up_shexp.weight", &layer->up_proj, ROLE_MATRIX);
}

/* The divisors of the frequencies: those of the file, or what the llama3 scaling of a config.json comes to. */
static void add_rope_freqs(struct planner *planner, const struct model_config *config, const struct tensor *in_file) {
    const int64_t n = config->head_dim / 2;
    if (in_file->data != NULL || !config->rope_llama3) {
        add(planner, "rope_freqs.weight", in_file, ROLE_FLOAT);
        return;
    }
    struct model_config plain = *config;
    plain.rope_llama3 = false;
    double *inv_freq = checked_array((size_t)n, 2 * sizeof *inv_freq);
    float *divisors = planner->plan->rope_freqs = checked_array((size_t)n, sizeof *divisors);
    planner->failed = planner->failed || inv_freq == NULL || divisors == NULL;
    if (!planner->failed) {
        rope_frequencies(&plain, NULL, inv_freq);
        rope_frequencies(config, NULL, inv_freq + n);
        for (int64_t i = 0; i < n; i++)
            divisors[i] = (float)(inv_freq[i] / inv_freq[n + i]);
        const struct tensor made = {DT_F32, 1, {n}, divisors, (size_t)n * sizeof *divisors};
        add(planner, "rope_freqs.weight", &made, ROLE_FLOAT);
    }
    free(inv_freq);
}

int quantize_plan_init(struct quantize_plan *plan, const struct checkpoint *checkpoint, enum dtype type,
                       struct l4_err *err) {
    const struct model_config *config = checkpoint_config(checkpoint);
    const struct checkpoint_weights *weights = checkpoint_weights(checkpoint);
    struct planner planner = {plan, type, -1, false};
    *plan = (struct quantize_plan){0};
    if (!config->tie_word_embeddings)
        add(&planner, "output.weight", &weights->lm_head, ROLE_OUTPUT);
    add(&planner, "output_norm.weight", &weights->norm, ROLE_FLOAT);
    add_rope_freqs(&planner, config, &weights->rope_freqs);
    add(&planner, "token_embd.weight", &weights->embed_tokens, config->tie_word_embeddings ? ROLE_OUTPUT : ROLE_MATRIX);
    for (int i = 0; i < config->n_layers; i++)
        add_layer(&planner, &weights->layers[i], config, i);
    if (!planner.failed)
        return 0;
    quantize_plan_fini(plan);
    return l4_err_set(err, L4_E_NOMEM, "out of memory for the list of tensors");
}

void quantize_plan_fini(struct quantize_plan *plan) {
    free(plan->tensors);
    free(plan->rope_freqs);
    *plan = (struct quantize_plan){0};
}
