/* Products with packed weights for AVX2.  Compiled with that instruction set switched on: nothing but
 * kernels_fill_packed_avx2 may leave this file.
 *
 * A block is expanded once for up to QROWS_TILE rows.  vpmaddubsw wants one unsigned factor: |w| times x with the sign
 * of w; two such products are at most 2 * 128 * 127, which 16 bits hold. */
#include "core/kernels/variants.h"

#if defined(__x86_64__)

#include <immintrin.h>

#include "core/kernels/packed_expand.h"
#include "core/kernels/qgemm_loops.h"

#if !defined(__AVX2__)
#error "compiled without the flags for AVX2"
#endif

enum { VECTORS = 2, LANES = PANEL_COLUMNS / VECTORS };

/* The 8 columns of vector v: sum over the groups begin..end-1 of the block times the row at q. */
ALWAYS_INLINE __m256i dot(const struct expanded *block, int v, int begin, int end, const int8_t *q) {
    const __m256i ones = _mm256_set1_epi16(1);
    __m256i sum = _mm256_setzero_si256();
    for (int g = begin; g < end; g++) {
        const __m256i w = _mm256_load_si256((const void *)block->value[g][v * LANES]);
        int32_t four;
        memcpy(&four, q + g * PACKED_GROUP, sizeof four);
        const __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(_mm256_set1_epi32(four), w));
        sum = _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, ones));
    }
    return sum;
}

ALWAYS_INLINE void add_block(enum dtype type, const struct expanded *block, const struct qrows_part *part, int b,
                             struct tile_sums *sums) {
    for (int64_t r = 0; r < part->rows; r++) {
        const int8_t *q = part->q + (b * part->rows + r) * QROWS_BLOCK;
        const __m256 sum = _mm256_set1_ps(part->sum[b * part->rows + r]);
        for (int v = 0; v < VECTORS; v++) {
            const int halves = type == DT_Q6_K ? 2 : 1;
            __m256 s = _mm256_load_ps(sums->part[r] + v * LANES);
            for (int half = 0; half < halves; half++) {
                const __m256i dots =
                    dot(block, v, half * PACKED_GROUPS / halves, (half + 1) * PACKED_GROUPS / halves, q);
                s = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dots), _mm256_loadu_ps(block->scale[half] + v * LANES), s);
            }
            if (packed_has_min(type))
                s = _mm256_fnmadd_ps(sum, _mm256_loadu_ps(block->min + v * LANES), s);
            _mm256_store_ps(sums->part[r] + v * LANES, s);
        }
    }
}

ALWAYS_INLINE void add_part(const struct qrows_part *part, struct tile_sums *sums) {
    for (int64_t r = 0; r < part->rows; r++)
        for (int c = 0; c < PANEL_COLUMNS; c += LANES)
            _mm256_store_ps(sums->whole[r] + c,
                            _mm256_fmadd_ps(_mm256_load_ps(sums->part[r] + c), _mm256_set1_ps(part->scale[r]),
                                            _mm256_load_ps(sums->whole[r] + c)));
}

QGEMM_OF_EVERY_TYPE

void kernels_fill_packed_avx2(struct kernels *table) {
    fill_packed(table);
}

#endif
