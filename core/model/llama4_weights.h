/* A checkpoint's tensors as the model multiplies with them. */
#ifndef CORE_MODEL_LLAMA4_WEIGHTS_H
#define CORE_MODEL_LLAMA4_WEIGHTS_H

#include "core/format/checkpoint.h"
#include "core/kernels/kernels.h"
#include "core/model/experts.h"
#include "core/model/weights_pack.h"

/* Matrices of types that can be packed are packed, those of others lie in the mapped checkpoint, and so do the
 * embeddings and the routers; vectors (norms, biases) are widened to f32 once. */
struct llama4_layer {
    const float *input_layernorm, *post_attention_layernorm; /* [hidden] */
    struct matrix q_proj, k_proj, v_proj, o_proj;
    const float *q_bias, *k_bias, *v_bias, *o_bias; /* NULL where there are none */

    struct matrix router;   /* MoE layers only */
    struct experts experts; /* dense layers: a shared expert alone */
};

struct llama4_weights {
    struct matrix embed_tokens; /* row i: the embedding of token i */
    struct matrix lm_head;
    const float *norm;           /* [hidden] */
    struct llama4_layer *layers; /* [n_layers] */
    float *vectors;              /* storage behind the norms and biases ... */
    struct matrix *matrices;     /* ... and behind the experts */
    struct weights_storage storage;
};

/* loading NULL = all zero.  Errors: L4_E_NOMEM.  Thread: the pool's caller. */
int llama4_weights_init(struct llama4_weights *weights, const struct checkpoint *checkpoint, const struct exec *exec,
                        const struct weights_loading *loading, struct l4_err *err) L4_MUST_CHECK;
void llama4_weights_fini(struct llama4_weights *weights);

#endif
