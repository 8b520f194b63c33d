/* The IQ types: values come from codebooks; blocks of 256 but for IQ4_NL. */
#include "core/format/dequant_blocks.h"
#include "core/format/dequant_tables.h"

enum { QK = 256, PARTS = QK / 32 };

/* ---- four bits: one table of 16 values ------------------------------------------------------------------------- */

static const int8_t IQ4_VALUES[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

static void iq4_part(const uint8_t *q, float scale, float *dst) {
    for (int j = 0; j < 16; j++) {
        dst[j] = scale * (float)IQ4_VALUES[q[j] & 15];
        dst[j + 16] = scale * (float)IQ4_VALUES[q[j] >> 4];
    }
}

void dequantize_iq4_nl(const uint8_t *block, float *dst) {
    iq4_part(block + 2, block_f16(block), dst);
}

void dequantize_iq4_xs(const uint8_t *block, float *dst) {
    const float d = block_f16(block);
    const unsigned high = block_u16(block + 2);
    const uint8_t *low = block + 4, *q = block + 8;
    for (int part = 0; part < PARTS; part++) {
        const int scale = (low[part / 2] >> part % 2 * 4 & 15) | (int)(high >> part * 2 & 3) << 4;
        iq4_part(q + part * 16, d * (float)(scale - 32), dst + part * 32);
    }
}

/* ---- two and three bits: magnitudes from a grid, signs apart ---------------------------------------------------- */

/* Seven stored signs; the eighth makes their number even. */
static uint8_t even_signs(uint32_t seven) {
    seven &= 127;
    return (uint8_t)(seven | (uint32_t)__builtin_parity(seven) << 7);
}

static void iq2_eight(uint16_t entry, uint8_t signs, float scale, float *dst) {
    static const float VALUES[4] = {8, 25, 43, 0}; /* no entry has a 3 */
    for (int j = 0; j < 8; j++) {
        const float value = scale * VALUES[entry >> 2 * j & 3];
        dst[j] = signs >> j & 1 ? -value : value;
    }
}

void dequantize_iq2_xxs(const uint8_t *block, float *dst) {
    const float d = block_f16(block);
    for (int part = 0; part < PARTS; part++) {
        const uint8_t *index = block + 2 + part * 8;
        const uint32_t signs_and_scale = block_u32(index + 4);
        const float scale = d * (0.5f + (float)(signs_and_scale >> 28)) * 0.25f;
        for (int l = 0; l < 4; l++, dst += 8)
            iq2_eight(IQ2_XXS_GRID[index[l]], even_signs(signs_and_scale >> 7 * l), scale, dst);
    }
}

/* A scale of four bits for each 16 elements. */
static float iq2_scale(const uint8_t *scales, int eight, float d) {
    return d * (0.5f + (float)(scales[eight / 4] >> eight / 2 % 2 * 4 & 15)) * 0.25f;
}

void dequantize_iq2_xs(const uint8_t *block, float *dst) {
    const float d = block_f16(block);
    const uint8_t *scales = block + 66;
    for (int eight = 0; eight < QK / 8; eight++, dst += 8) {
        const unsigned q = block_u16(block + 2 + eight * 2);
        iq2_eight(IQ2_XS_GRID[q & 511], even_signs(q >> 9), iq2_scale(scales, eight, d), dst);
    }
}

void dequantize_iq2_s(const uint8_t *block, float *dst) {
    const float d = block_f16(block);
    const uint8_t *low = block + 2, *signs = block + 34, *high = block + 66, *scales = block + 74;
    for (int eight = 0; eight < QK / 8; eight++, dst += 8) {
        const unsigned index = low[eight] | (high[eight / 4] >> eight % 4 * 2 & 3u) << 8;
        iq2_eight(IQ2_S_GRID[index], signs[eight], iq2_scale(scales, eight, d), dst);
    }
}

static void iq3_four(uint16_t entry, const float values[8], unsigned signs, float scale, float *dst) {
    for (int j = 0; j < 4; j++) {
        const float value = scale * values[entry >> 4 * j & 7];
        dst[j] = signs >> j & 1 ? -value : value;
    }
}

void dequantize_iq3_xxs(const uint8_t *block, float *dst) {
    static const float VALUES[8] = {4, 12, 20, 28, 36, 44, 52, 62};
    const float d = block_f16(block);
    for (int part = 0; part < PARTS; part++) {
        const uint8_t *index = block + 2 + part * 8;
        const uint32_t signs_and_scale = block_u32(block + 66 + part * 4);
        const float scale = d * (0.5f + (float)(signs_and_scale >> 28)) * 0.5f;
        for (int l = 0; l < 8; l++, dst += 4) {
            const unsigned signs = even_signs(signs_and_scale >> l / 2 * 7);
            iq3_four(IQ3_XXS_GRID[index[l]], VALUES, signs >> l % 2 * 4, scale, dst);
        }
    }
}

void dequantize_iq3_s(const uint8_t *block, float *dst) {
    static const float VALUES[8] = {1, 3, 5, 7, 9, 11, 13, 15};
    const float d = block_f16(block);
    const uint8_t *low = block + 2, *high = block + 66, *signs = block + 74, *scales = block + 106;
    for (int four = 0; four < QK / 4; four++, dst += 4) {
        const int part = four / 8;
        const float scale = d * (float)(1 + 2 * (scales[part / 2] >> part % 2 * 4 & 15));
        const unsigned index = low[four] | (high[part] >> four % 8 & 1u) << 8;
        iq3_four(IQ3_S_GRID[index], VALUES, (unsigned)signs[four / 2] >> four % 2 * 4, scale, dst);
    }
}

/* ---- one bit: -1, 0 or 1 from a grid, shifted by an eighth --------------------------------------------------------
 */

static void iq1_eight(unsigned index, bool down, float scale, float *dst) {
    const float shift = down ? -0.125f : 0.125f;
    for (int j = 0; j < 8; j++)
        dst[j] = scale * ((float)((IQ1_GRID[index] >> 2 * j & 3) - 1) + shift);
}

void dequantize_iq1_s(const uint8_t *block, float *dst) {
    const float d = block_f16(block);
    const uint8_t *low = block + 2;
    for (int part = 0; part < PARTS; part++) {
        const unsigned high = block_u16(block + 34 + part * 2);
        const float scale = d * (float)(2 * (high >> 12 & 7) + 1);
        for (int l = 0; l < 4; l++, dst += 8)
            iq1_eight(low[part * 4 + l] | (high >> 3 * l & 7) << 8, high >> 15, scale, dst);
    }
}

/* The block's scale is spread over the high four bits of four words, whose other twelve hold scales of 16 elements. */
void dequantize_iq1_m(const uint8_t *block, float *dst) {
    const uint8_t *low = block, *high = block + 32;
    unsigned words[4], d_bits = 0;
    for (int i = 0; i < 4; i++) {
        words[i] = block_u16(block + 48 + i * 2);
        d_bits |= words[i] >> 12 << 4 * i;
    }
    const float d = f16_to_f32((uint16_t)d_bits);
    for (int eight = 0; eight < QK / 8; eight++, dst += 8) {
        const unsigned extra = (unsigned)high[eight / 2] >> eight % 2 * 4;
        const float scale = d * (float)(2 * (words[eight / 8] >> eight / 2 % 4 * 3 & 7) + 1);
        iq1_eight(low[eight] | (extra & 7) << 8, extra & 8, scale, dst);
    }
}
