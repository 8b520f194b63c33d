/* One block of a packed panel, expanded to memory: for the reference, for instruction sets without an expansion of
 * their own, and for widening.  Plain C, with the few vector instructions that compilers do not find, where the
 * including file is compiled for a set that has them. */
#ifndef CORE_KERNELS_PACKED_EXPAND_H
#define CORE_KERNELS_PACKED_EXPAND_H

#include <string.h>

#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#include "core/kernels/packed_units.h"

/* w(column, 4 g + i) = value[g][column][i] * scale[column] - min[column]; scale[0] is of the first 16 elements of the
 * block, scale[1] of the last. */
struct expanded {
    _Alignas(64) int8_t value[PACKED_GROUPS][PANEL_COLUMNS][PACKED_GROUP];
    float scale[2][PANEL_COLUMNS];
    float min[PANEL_COLUMNS];
};

static inline void expand_halves(const uint8_t *halves, float out[PANEL_COLUMNS]) {
#if defined(__F16C__)
    for (int c = 0; c < PANEL_COLUMNS; c += 8)
        _mm256_storeu_ps(out + c, _mm256_cvtph_ps(_mm_loadu_si128((const void *)(halves + 2 * c))));
#elif defined(__aarch64__)
    for (int c = 0; c < PANEL_COLUMNS; c += 4)
        vst1q_f32(out + c, vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(halves + 2 * c))));
#else
    for (int c = 0; c < PANEL_COLUMNS; c++) {
        uint16_t bits;
        memcpy(&bits, halves + 2 * c, sizeof bits);
        out[c] = f16_to_f32(bits);
    }
#endif
}

/* Codes 0..15, as bytes. */
static inline void expand_nibbles(const uint8_t *p, int8_t *value) {
    for (int i = 0; i < NIBBLES_BYTES; i++) {
        value[i] = p[i] & 15;
        value[i + NIBBLES_BYTES] = (int8_t)(p[i] >> 4);
    }
}

static inline void expand_table(const uint8_t *p, const uint8_t codes[16], int8_t *value) {
    expand_nibbles(p, value);
#if defined(__AVX2__)
    const __m256i bias = _mm256_set1_epi8((char)128);
    const __m256i table = _mm256_xor_si256(_mm256_broadcastsi128_si256(_mm_loadu_si128((const void *)codes)), bias);
    for (int i = 0; i < BYTES_BYTES; i += 32)
        _mm256_storeu_si256((void *)(value + i),
                            _mm256_shuffle_epi8(table, _mm256_loadu_si256((const void *)(value + i))));
#elif defined(__aarch64__)
    const int8x16_t table = vreinterpretq_s8_u8(veorq_u8(vld1q_u8(codes), vdupq_n_u8(128)));
    for (int i = 0; i < BYTES_BYTES; i += 16)
        vst1q_s8(value + i, vqtbl1q_s8(table, vreinterpretq_u8_s8(vld1q_s8(value + i))));
#else
    for (int i = 0; i < BYTES_BYTES; i++)
        value[i] = (int8_t)(codes[value[i]] - 128);
#endif
}

static inline void expand_k_scales(const uint8_t *scales, int b, struct expanded *out) {
    const uint8_t *low = scales + b * PANEL_COLUMNS, *high = scales + (LONG_UNIT_BLOCKS + b / 2) * PANEL_COLUMNS;
    const uint8_t *d = scales + K_SCALES_BYTES, *d_min = d + HALVES_BYTES;
    const int shift = b % 2 * 2;
    expand_halves(d, out->scale[0]);
    expand_halves(d_min, out->min);
    for (int c = 0; c < PANEL_COLUMNS; c++) {
        const int scale = (low[c] & 15) | (high[c] >> shift & 3) << 4;
        const int min = low[c] >> 4 | (high[c] >> (4 + shift) & 3) << 4;
        out->scale[0][c] *= (float)scale;
        out->min[c] *= (float)min;
    }
}

/* value |= the bits at place g of every byte, moved to `to`; of the groups that a vector of bits serves */
static inline void expand_bits(const uint8_t *bits, int groups, int width, int to, int8_t *value) {
    for (int g = 0; g < groups; g++)
        for (int i = 0; i < PACKED_GROUP_BYTES; i++) {
            int8_t *v = &value[g * PACKED_GROUP_BYTES + i];
            *v = (int8_t)(*v | (bits[i] >> g * width & ((1 << width) - 1)) << to);
        }
}

static inline void expand_q6_k(const uint8_t *unit, int b, struct expanded *out) {
    const uint8_t *high = unit + Q6_K_HIGH + b * Q6_K_HIGH_BYTES;
    expand_nibbles(unit + b * NIBBLES_BYTES, out->value[0][0]);
    for (int half = 0; half < 2; half++) {
        const int8_t *scales = (const int8_t *)unit + Q6_K_SCALES + (2 * b + half) * PANEL_COLUMNS;
        expand_bits(high + half * PACKED_GROUP_BYTES, 4, 2, 4, out->value[4 * half][0]);
        expand_halves(unit + Q6_K_D, out->scale[half]);
        for (int c = 0; c < PANEL_COLUMNS; c++)
            out->scale[half][c] *= (float)scales[c];
    }
    int8_t *value = out->value[0][0];
    for (int i = 0; i < BYTES_BYTES; i++)
        value[i] = (int8_t)(value[i] - 32);
}

static inline void expand_iq4_xs_scales(const uint8_t *unit, int b, struct expanded *out) {
    const uint8_t *low = unit + IQ4_XS_LOW + b / 2 * PANEL_COLUMNS, *high = unit + IQ4_XS_HIGH + b / 4 * PANEL_COLUMNS;
    expand_halves(unit + IQ4_XS_D, out->scale[0]);
    for (int c = 0; c < PANEL_COLUMNS; c++) {
        const int scale = (low[c] >> b % 2 * 4 & 15) | (high[c] >> b % 4 * 2 & 3) << 4;
        out->scale[0][c] *= (float)(scale - 32);
    }
}

/* 2^(e - 128), as values are doubled */
static inline float mxfp4_scale(uint8_t e) {
    const uint32_t bits = e < 2 ? UINT32_C(0x00200000) << e : (uint32_t)(e - 1) << 23;
    float scale;
    memcpy(&scale, &bits, sizeof scale);
    return scale;
}

/* Block b of a unit of n blocks. */
static inline void expand_block(enum dtype type, const uint8_t *unit, int64_t n, int b, struct expanded *out) {
    int8_t *value = out->value[0][0];
    const uint8_t *nibbles = unit + b * NIBBLES_BYTES;
    memset(out->min, 0, sizeof out->min);
    switch (type) {
    case DT_Q4_0:
        expand_nibbles(nibbles, value);
        for (int i = 0; i < BYTES_BYTES; i++)
            value[i] = (int8_t)(value[i] - 8);
        expand_halves(unit + n * NIBBLES_BYTES + b * HALVES_BYTES, out->scale[0]);
        break;
    case DT_Q8_0:
        for (int i = 0; i < BYTES_BYTES; i++)
            value[i] = (int8_t)(unit[b * BYTES_BYTES + i] - 128);
        expand_halves(unit + n * BYTES_BYTES + b * HALVES_BYTES, out->scale[0]);
        break;
    case DT_MXFP4:
        expand_table(nibbles, MXFP4_CODES, value);
        for (int c = 0; c < PANEL_COLUMNS; c++)
            out->scale[0][c] = mxfp4_scale(unit[n * NIBBLES_BYTES + b * PANEL_COLUMNS + c]);
        break;
    case DT_Q4_K:
        expand_nibbles(nibbles, value);
        expand_k_scales(unit + Q4_K_SCALES, b, out);
        break;
    case DT_Q5_K:
        expand_nibbles(nibbles, value);
        expand_bits(unit + Q5_K_HIGH + b * K_HIGH_BIT_BYTES, PACKED_GROUPS, 1, 4, value);
        expand_k_scales(unit + Q5_K_SCALES, b, out);
        break;
    case DT_Q6_K:
        expand_q6_k(unit, b, out);
        return;
    default: /* DT_IQ4_XS */
        expand_table(nibbles, IQ4_CODES, value);
        expand_iq4_xs_scales(unit, b, out);
    }
    memcpy(out->scale[1], out->scale[0], sizeof out->scale[0]);
}

#endif
