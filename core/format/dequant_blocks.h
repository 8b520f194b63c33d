/* One block each, for dequant.c: dst gets dtype_block_elements floats.  dequant.c has the plain types of 32,
 * dequant_k.c the K types, dequant_iq.c those with a codebook. */
#ifndef CORE_FORMAT_DEQUANT_BLOCKS_H
#define CORE_FORMAT_DEQUANT_BLOCKS_H

#include <stdint.h>

#include "core/format/tensor.h"

void dequantize_q2_k(const uint8_t *block, float *dst);
void dequantize_q3_k(const uint8_t *block, float *dst);
void dequantize_q4_k(const uint8_t *block, float *dst);
void dequantize_q5_k(const uint8_t *block, float *dst);
void dequantize_q6_k(const uint8_t *block, float *dst);

void dequantize_iq4_nl(const uint8_t *block, float *dst);
void dequantize_iq4_xs(const uint8_t *block, float *dst);
void dequantize_iq2_xxs(const uint8_t *block, float *dst);
void dequantize_iq2_xs(const uint8_t *block, float *dst);
void dequantize_iq2_s(const uint8_t *block, float *dst);
void dequantize_iq3_xxs(const uint8_t *block, float *dst);
void dequantize_iq3_s(const uint8_t *block, float *dst);
void dequantize_iq1_s(const uint8_t *block, float *dst);
void dequantize_iq1_m(const uint8_t *block, float *dst);

/* Little-endian numbers inside a block. */
static inline uint16_t block_u16(const uint8_t *p) {
    return (uint16_t)(p[0] | p[1] << 8);
}
static inline uint32_t block_u32(const uint8_t *p) {
    return (uint32_t)block_u16(p) | (uint32_t)block_u16(p + 2) << 16;
}
static inline float block_f16(const uint8_t *p) {
    return f16_to_f32(block_u16(p));
}

#endif
