/* Float types, and block types of 32 elements with one scale each. */
#include "core/format/dequant.h"

#include <assert.h>
#include <string.h>

#include "core/format/dequant_blocks.h"

/* Four-bit values: byte j holds elements j (low half) and j + 16. */

static void dequantize_q4_0(const uint8_t *block, float *dst) {
    const float d = block_f16(block);
    const uint8_t *q = block + 2;
    for (int j = 0; j < 16; j++) {
        dst[j] = (float)((q[j] & 15) - 8) * d;
        dst[j + 16] = (float)((q[j] >> 4) - 8) * d;
    }
}

static void dequantize_q4_1(const uint8_t *block, float *dst) {
    const float d = block_f16(block), min = block_f16(block + 2);
    const uint8_t *q = block + 4;
    for (int j = 0; j < 16; j++) {
        dst[j] = (float)(q[j] & 15) * d + min;
        dst[j + 16] = (float)(q[j] >> 4) * d + min;
    }
}

/* The fifth bits of all 32 elements stand together, element 0 lowest. */

static void dequantize_q5_0(const uint8_t *block, float *dst) {
    const float d = block_f16(block);
    const uint32_t high = block_u32(block + 2);
    const uint8_t *q = block + 6;
    for (int j = 0; j < 16; j++) {
        dst[j] = (float)((int)((q[j] & 15u) | (high >> j & 1) << 4) - 16) * d;
        dst[j + 16] = (float)((int)((unsigned)q[j] >> 4 | (high >> (j + 16) & 1) << 4) - 16) * d;
    }
}

static void dequantize_q5_1(const uint8_t *block, float *dst) {
    const float d = block_f16(block), min = block_f16(block + 2);
    const uint32_t high = block_u32(block + 4);
    const uint8_t *q = block + 8;
    for (int j = 0; j < 16; j++) {
        dst[j] = (float)((q[j] & 15u) | (high >> j & 1) << 4) * d + min;
        dst[j + 16] = (float)((unsigned)q[j] >> 4 | (high >> (j + 16) & 1) << 4) * d + min;
    }
}

static void dequantize_q8_0(const uint8_t *block, float *dst) {
    const float d = block_f16(block);
    for (int j = 0; j < 32; j++)
        dst[j] = (float)(int8_t)block[2 + j] * d;
}

/* Microscaling FP4 (E2M1): a power of two as scale, biased by 127; values are stored doubled here, hence 128. */
static void dequantize_mxfp4(const uint8_t *block, float *dst) {
    static const int8_t VALUES[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};
    const uint8_t *q = block + 1;
    union {
        uint32_t u;
        float f;
    } d = {.u = block[0] < 2 ? UINT32_C(0x00200000) << block[0] : (uint32_t)(block[0] - 1) << 23};
    for (int j = 0; j < 16; j++) {
        dst[j] = (float)VALUES[q[j] & 15] * d.f;
        dst[j + 16] = (float)VALUES[q[j] >> 4] * d.f;
    }
}

static void (*const BLOCKS[DT_COUNT])(const uint8_t *block, float *dst) = {
    [DT_Q4_0] = dequantize_q4_0,       [DT_Q4_1] = dequantize_q4_1,     [DT_Q5_0] = dequantize_q5_0,
    [DT_Q5_1] = dequantize_q5_1,       [DT_Q8_0] = dequantize_q8_0,     [DT_Q2_K] = dequantize_q2_k,
    [DT_Q3_K] = dequantize_q3_k,       [DT_Q4_K] = dequantize_q4_k,     [DT_Q5_K] = dequantize_q5_k,
    [DT_Q6_K] = dequantize_q6_k,       [DT_IQ4_NL] = dequantize_iq4_nl, [DT_IQ4_XS] = dequantize_iq4_xs,
    [DT_IQ2_XXS] = dequantize_iq2_xxs, [DT_IQ2_XS] = dequantize_iq2_xs, [DT_IQ2_S] = dequantize_iq2_s,
    [DT_IQ3_XXS] = dequantize_iq3_xxs, [DT_IQ3_S] = dequantize_iq3_s,   [DT_IQ1_S] = dequantize_iq1_s,
    [DT_IQ1_M] = dequantize_iq1_m,     [DT_MXFP4] = dequantize_mxfp4,
};

void dequantize_row(enum dtype type, const void *src, float *dst, int64_t n) {
    const uint16_t *bits = src;
    switch (type) {
    case DT_F32:
        memcpy(dst, src, (size_t)n * sizeof *dst);
        return;
    case DT_F16:
        for (int64_t i = 0; i < n; i++)
            dst[i] = f16_to_f32(bits[i]);
        return;
    case DT_BF16:
        for (int64_t i = 0; i < n; i++)
            dst[i] = bf16_to_f32(bits[i]);
        return;
    default:
        break;
    }
    const int64_t elements = dtype_block_elements(type);
    assert(BLOCKS[type] && n % elements == 0);
    const uint8_t *block = src;
    for (int64_t i = 0; i < n; i += elements, block += dtype_block_bytes(type))
        BLOCKS[type](block, dst + i);
}
