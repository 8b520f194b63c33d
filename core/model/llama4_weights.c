#include "core/model/llama4_weights.h"

#include <stdlib.h>

#include "core/base/checked.h"

/* Where the next vector and the next matrix go. */
struct cursor {
    const struct kernels *kernels;
    float *vector;
    struct matrix *matrix;
};

static const float *widen_vector(struct cursor *cursor, const struct tensor *tensor) {
    if (!tensor->data)
        return NULL;
    float *vector = cursor->vector;
    int64_t n = tensor_elements(tensor);
    cursor->kernels->widen[tensor->type](vector, tensor->data, n);
    cursor->vector += n;
    return vector;
}

/* nn.Linear: [out, in] */
static struct matrix linear(const struct tensor *tensor) {
    if (!tensor->data)
        return (struct matrix){0};
    return (struct matrix){.type = tensor->type,
                           .layout = MATRIX_OUT_IN,
                           .n = tensor->shape[0],
                           .k = tensor->shape[1],
                           .stride = tensor->shape[1],
                           .data = tensor->data};
}

/* Stacked experts: [num_experts][rows of the layout]; NULL where there is no such tensor. */
static const struct matrix *stacked(struct cursor *cursor, const struct tensor *tensor, enum matrix_layout layout) {
    if (!tensor->data)
        return NULL;
    struct matrix *matrices = cursor->matrix;
    const int64_t rows = tensor->shape[1], columns = tensor->shape[2];
    const size_t expert_bytes = dtype_bytes(tensor->type, rows * columns);
    for (int64_t e = 0; e < tensor->shape[0]; e++)
        matrices[e] = (struct matrix){.type = tensor->type,
                                      .layout = layout,
                                      .n = layout == MATRIX_IN_OUT ? columns : rows,
                                      .k = layout == MATRIX_IN_OUT ? rows : columns,
                                      .stride = columns,
                                      .data = (const char *)tensor->data + (size_t)e * expert_bytes};
    cursor->matrix += tensor->shape[0];
    return matrices;
}

static void bind_layer(struct llama4_layer *layer, const struct layer_weights *from, const struct model_config *config,
                       bool is_moe, struct cursor *cursor) {
    *layer = (struct llama4_layer){
        .input_layernorm = widen_vector(cursor, &from->input_layernorm),
        .post_attention_layernorm = widen_vector(cursor, &from->post_attention_layernorm),
        .q_proj = linear(&from->q_proj),
        .k_proj = linear(&from->k_proj),
        .v_proj = linear(&from->v_proj),
        .o_proj = linear(&from->o_proj),
        .q_bias = widen_vector(cursor, &from->q_bias),
        .k_bias = widen_vector(cursor, &from->k_bias),
        .v_bias = widen_vector(cursor, &from->v_bias),
        .o_bias = widen_vector(cursor, &from->o_bias),
        .experts = {.hidden_size = config->hidden_size,
                    .shared_gate = linear(&from->gate_proj),
                    .shared_up = linear(&from->up_proj),
                    .shared_down = linear(&from->down_proj)},
    };
    if (!is_moe)
        return;
    const enum matrix_layout layout = from->gate_up_proj.data ? MATRIX_IN_OUT : MATRIX_OUT_IN;
    layer->router = linear(&from->router);
    struct experts *experts = &layer->experts;
    experts->num_experts = config->n_experts;
    experts->intermediate_size = config->intermediate_size;
    experts->top_k = config->n_experts_per_tok;
    experts->gate_up = stacked(cursor, &from->gate_up_proj, layout);
    experts->gate = stacked(cursor, &from->experts_gate, layout);
    experts->up = stacked(cursor, &from->experts_up, layout);
    experts->down = stacked(cursor, &from->experts_down, layout);
}

/* Every matrix that is only multiplied with, but the routers, which stay float. */
static int pack(struct llama4_weights *weights, int n_layers, size_t n_matrices, const struct exec *exec,
                const struct checkpoint *checkpoint, const struct weights_loading *loading, struct l4_err *err) {
    enum { LAYER_MATRICES = 7 };
    struct matrix **list = checked_array((size_t)n_layers * LAYER_MATRICES + n_matrices + 1, sizeof *list);
    size_t n = 0;
    if (!list)
        return l4_err_set(err, L4_E_NOMEM, "no memory for the weights' tables");
    for (int i = 0; i < n_layers; i++) {
        struct llama4_layer *l = &weights->layers[i];
        struct experts *e = &l->experts;
        struct matrix *const of_layer[LAYER_MATRICES] = {&l->q_proj,      &l->k_proj,    &l->v_proj,     &l->o_proj,
                                                         &e->shared_gate, &e->shared_up, &e->shared_down};
        for (int j = 0; j < LAYER_MATRICES; j++)
            list[n++] = of_layer[j];
    }
    for (size_t i = 0; i < n_matrices; i++)
        list[n++] = &weights->matrices[i];
    list[n++] = &weights->lm_head;
    int rc = weights_pack(&weights->storage, list, n, checkpoint, exec, loading, err);
    free(list);
    return rc;
}

int llama4_weights_init(struct llama4_weights *weights, const struct checkpoint *checkpoint, const struct exec *exec,
                        const struct weights_loading *loading, struct l4_err *err) {
    const struct model_config *config = checkpoint_config(checkpoint);
    const struct checkpoint_weights *from = checkpoint_weights(checkpoint);
    int64_t n_floats = tensor_elements(&from->norm), n_matrices = 0;
    for (int i = 0; i < config->n_layers; i++) {
        const struct layer_weights *l = &from->layers[i];
        n_floats += tensor_elements(&l->input_layernorm) + tensor_elements(&l->post_attention_layernorm) +
                    tensor_elements(&l->q_bias) + tensor_elements(&l->k_bias) + tensor_elements(&l->v_bias) +
                    tensor_elements(&l->o_bias);
        n_matrices += config->layers[i].is_moe ? 3 * (int64_t)config->n_experts : 0;
    }
    *weights = (struct llama4_weights){
        .embed_tokens = linear(&from->embed_tokens),
        .lm_head = linear(&from->lm_head),
        .layers = checked_array((size_t)config->n_layers, sizeof *weights->layers),
        .vectors = checked_array((size_t)n_floats, sizeof *weights->vectors),
        .matrices = checked_array((size_t)n_matrices, sizeof *weights->matrices),
    };
    if (!weights->layers || !weights->vectors || !weights->matrices) {
        llama4_weights_fini(weights);
        return l4_err_set(err, L4_E_NOMEM, "no memory for the weights' tables");
    }
    struct cursor cursor = {exec->kernels, weights->vectors, weights->matrices};
    weights->norm = widen_vector(&cursor, &from->norm);
    for (int i = 0; i < config->n_layers; i++)
        bind_layer(&weights->layers[i], &from->layers[i], config, config->layers[i].is_moe, &cursor);
    int rc =
        pack(weights, config->n_layers, (size_t)(cursor.matrix - weights->matrices), exec, checkpoint, loading, err);
    if (rc)
        llama4_weights_fini(weights);
    return rc;
}

void llama4_weights_fini(struct llama4_weights *weights) {
    free(weights->layers);
    free(weights->vectors);
    free(weights->matrices);
    weights_storage_fini(&weights->storage);
}
