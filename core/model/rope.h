/* Rotary position embeddings: frequencies once, cosines and sines per step, shared by all layers. */
#ifndef CORE_MODEL_ROPE_H
#define CORE_MODEL_ROPE_H

#include <stdint.h>

#include "core/format/config.h"

/* rope_frequencies - inv_freq[j] = theta^(-2j/head_dim), j < head_dim / 2, with llama3 scaling where the config has it,
 * or divided by divisors[j] where there are such (NULL = none). Source: Hugging Face modeling_rope_utils,
 * _compute_llama3_parameters. */
void rope_frequencies(const struct model_config *config, const float *divisors, double *inv_freq);

/* rope_angles - the cosine and sine of position * inv_freq[j]: [n] each.  In double: positions reach 10^7. */
void rope_angles(const double *inv_freq, int32_t n, int64_t position, float *cos_out, float *sin_out);

#endif
