/* Which experts a token goes to, and with what weight. */
#ifndef CORE_MODEL_ROUTER_H
#define CORE_MODEL_ROUTER_H

#include <stdint.h>

/* router_top_k - top_k_index = the top_k largest router_logits of each token, best first (the lower index among
 * equals), top_k_weights = sigmoid of them: not softmax; they need not sum to 1. router_logits [n_tokens, num_experts]
 * f32      top_k_index, top_k_weights [n_tokens, top_k], caller's Source: Hugging Face modeling_llama4, Llama4Router.
 */
void router_top_k(const float *router_logits, int64_t n_tokens, int32_t num_experts, int32_t top_k,
                  float *top_k_weights, int32_t *top_k_index);

#endif
