/* The K types: blocks of 256 elements, in parts of 16 or 32 with small integer scales of their own. */
#include "core/format/dequant_blocks.h"

enum { QK = 256 };

/* Two-bit values: of each 128 elements, byte l of 32 holds elements l, l + 32, l + 64, l + 96, the first lowest. */

void dequantize_q2_k(const uint8_t *block, float *dst) {
    const uint8_t *scales = block, *q = block + 16;
    const float d = block_f16(block + 80), d_min = block_f16(block + 82);
    for (int i = 0; i < QK; i++) {
        const uint8_t scale = scales[i / 16];
        const int value = q[i / 128 * 32 + i % 32] >> i % 128 / 32 * 2 & 3;
        dst[i] = d * (float)(scale & 15) * (float)value - d_min * (float)(scale >> 4);
    }
}

/* Sixteen scales of six bits: the low four in eight bytes, then the high two in four. */
static int q3_k_scale(const uint8_t *scales, int i) {
    const int low = i < 8 ? scales[i] & 15 : scales[i - 8] >> 4;
    return (low | (scales[8 + i % 4] >> i / 4 * 2 & 3) << 4) - 32;
}

/* The third bit, in a mask of its own, says that 4 is NOT taken off. */
void dequantize_q3_k(const uint8_t *block, float *dst) {
    const uint8_t *mask = block, *q = block + 32, *scales = block + 96;
    const float d = block_f16(block + 108);
    for (int i = 0; i < QK; i++) {
        const int low = q[i / 128 * 32 + i % 32] >> i % 128 / 32 * 2 & 3;
        const int high = mask[i % 32] >> i / 32 & 1;
        dst[i] = d * (float)q3_k_scale(scales, i / 16) * (float)(low - (high ? 0 : 4));
    }
}

/* Eight scales and eight minima of six bits in twelve bytes; the last four of each are split up. */
static void q4_k_scale(const uint8_t *s, int i, float *scale, float *min) {
    *scale = (float)(i < 4 ? s[i] & 63 : (s[i + 4] & 15) | s[i - 4] >> 6 << 4);
    *min = (float)(i < 4 ? s[i + 4] & 63 : s[i + 4] >> 4 | s[i] >> 6 << 4);
}

/* Of each 64 elements, byte l of 32 holds elements l (low half) and l + 32. */

void dequantize_q4_k(const uint8_t *block, float *dst) {
    const float d = block_f16(block), d_min = block_f16(block + 2);
    const uint8_t *scales = block + 4, *q = block + 16;
    for (int part = 0; part < QK / 32; part++) {
        float scale, min;
        q4_k_scale(scales, part, &scale, &min);
        scale *= d;
        min *= d_min;
        for (int l = 0; l < 32; l++)
            *dst++ = scale * (float)(q[part / 2 * 32 + l] >> part % 2 * 4 & 15) - min;
    }
}

void dequantize_q5_k(const uint8_t *block, float *dst) {
    const float d = block_f16(block), d_min = block_f16(block + 2);
    const uint8_t *scales = block + 4, *high = block + 16, *q = block + 48;
    for (int part = 0; part < QK / 32; part++) {
        float scale, min;
        q4_k_scale(scales, part, &scale, &min);
        scale *= d;
        min *= d_min;
        for (int l = 0; l < 32; l++) {
            const int value = (q[part / 2 * 32 + l] >> part % 2 * 4 & 15) | (high[l] >> part & 1) << 4;
            *dst++ = scale * (float)value - min;
        }
    }
}

/* Of each 128 elements: the low four bits of elements l and l + 64 in byte l of 64, the high two of l, l + 32, l + 64
 * and l + 96 in byte l of 32. */
void dequantize_q6_k(const uint8_t *block, float *dst) {
    const uint8_t *low = block, *high = block + 128, *scales = block + 192;
    const float d = block_f16(block + 208);
    for (int i = 0; i < QK; i++) {
        const int half = i / 128, in_half = i % 128;
        const int value = (low[half * 64 + in_half % 64] >> in_half / 64 * 4 & 15) |
                          (high[half * 32 + in_half % 32] >> in_half / 32 * 2 & 3) << 4;
        dst[i] = d * (float)(int8_t)scales[i / 16] * (float)(value - 32);
    }
}
