/* Products with packed weights for NEON.  Compiled with that instruction set switched on: nothing but
 * kernels_fill_packed_neon may leave this file.  A block is expanded once for up to QROWS_TILE rows. */
#include "core/kernels/variants.h"

#if defined(__aarch64__)

#include <arm_neon.h>

#include "core/kernels/qgemm_loops.h"

enum { LANES = 4 };

/* sum[c] += the four products of column c */
ALWAYS_INLINE int32x4_t dot4(int32x4_t sum, int8x16_t w, int8x16_t x) {
#if defined(__ARM_FEATURE_DOTPROD)
    return vdotq_s32(sum, w, x);
#else /* the products of a pair fit in 16 bits, the sum of two pairs (at most 4 * 128 * 127) need not */
    const int16x8_t low = vmull_s8(vget_low_s8(w), vget_low_s8(x)), high = vmull_high_s8(w, x);
    return vaddq_s32(sum, vpaddq_s32(vpaddlq_s16(low), vpaddlq_s16(high)));
#endif
}

/* The four columns from c on: sum over the groups begin..end-1 of the block times the row at q. */
ALWAYS_INLINE int32x4_t dot(const struct expanded *block, int c, int begin, int end, const int8_t *q) {
    int32x4_t sum = vdupq_n_s32(0);
    for (int g = begin; g < end; g++) {
        int32_t four;
        memcpy(&four, q + g * PACKED_GROUP, sizeof four);
        sum = dot4(sum, vld1q_s8(block->value[g][c]), vreinterpretq_s8_s32(vdupq_n_s32(four)));
    }
    return sum;
}

ALWAYS_INLINE void add_block(enum dtype type, const struct expanded *block, const struct qrows_part *part, int b,
                             struct tile_sums *sums) {
    for (int64_t r = 0; r < part->rows; r++) {
        const int8_t *q = part->q + (b * part->rows + r) * QROWS_BLOCK;
        const float32x4_t sum = vdupq_n_f32(part->sum[b * part->rows + r]);
        for (int c = 0; c < PANEL_COLUMNS; c += LANES) {
            const int halves = type == DT_Q6_K ? 2 : 1;
            float32x4_t s = vld1q_f32(sums->part[r] + c);
            for (int half = 0; half < halves; half++) {
                const int32x4_t dots =
                    dot(block, c, half * PACKED_GROUPS / halves, (half + 1) * PACKED_GROUPS / halves, q);
                s = vfmaq_f32(s, vcvtq_f32_s32(dots), vld1q_f32(block->scale[half] + c));
            }
            if (packed_has_min(type))
                s = vfmsq_f32(s, sum, vld1q_f32(block->min + c));
            vst1q_f32(sums->part[r] + c, s);
        }
    }
}

ALWAYS_INLINE void add_part(const struct qrows_part *part, struct tile_sums *sums) {
    for (int64_t r = 0; r < part->rows; r++)
        for (int c = 0; c < PANEL_COLUMNS; c += LANES)
            vst1q_f32(sums->whole[r] + c,
                      vfmaq_n_f32(vld1q_f32(sums->whole[r] + c), vld1q_f32(sums->part[r] + c), part->scale[r]));
}

QGEMM_OF_EVERY_TYPE

void kernels_fill_packed_neon(struct kernels *table) {
    fill_packed(table);
}

#endif
