/* The vector of the instruction set that the including file is compiled for: a small set of names over the intrinsics,
 * so that kernels are written once (simd_*.h) and compiled once for each set.
 *
 * Only kernels_<set>.c may include it.  Everything is static: nothing compiled for one set can be linked into another.
 * Without a known set VEC_WIDTH stays undefined and the file is empty.
 *
 *   vf                          VEC_WIDTH floats; a quad is four lanes, of which a vector has VEC_WIDTH / 4
 *   vf_load_n, vf_store_n       the first n lanes only, n < VEC_WIDTH; lanes not loaded are 0
 *   vf_fma(a, b, c)             a * b + c, rounded once
 *   vf_max(a, b), vf_min(a, b)  b where either is NaN
 *   vf_ldexp(x, n)              x * 2^n, n integral, of the range of exp: 0 and infinity come out right
 *   vf_bf16_first, _second      of VEC_WIDTH pairs of bf16 in memory, as floats
 *   vf_quad                     the same four floats in every quad
 *   vf_transpose_quads          quad q of vector v <-> quad v of vector q, of as many vectors as a vector has quads
 *   vf_load_quads(p, s)         VEC_WIDTH floats from each of as many rows p as a vector has quads, so transposed
 *   vf_sum_quads(a, b, c, d)    lane 4 q + v = the sum of quad q of the v-th vector, as (0 + 1) + (2 + 3) */
#ifndef CORE_KERNELS_VEC_H
#define CORE_KERNELS_VEC_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)

#include <immintrin.h>

#define VEC_WIDTH 16
typedef __m512 vf;

static inline __mmask16 vec_first(int n) {
    return (__mmask16)((1u << n) - 1);
}

static inline vf vf_zero(void) {
    return _mm512_setzero_ps();
}
static inline vf vf_set1(float a) {
    return _mm512_set1_ps(a);
}
static inline vf vf_load(const float *p) {
    return _mm512_loadu_ps(p);
}
static inline vf vf_load_n(const float *p, int n) {
    return _mm512_maskz_loadu_ps(vec_first(n), p);
}
static inline void vf_store(float *p, vf a) {
    _mm512_storeu_ps(p, a);
}
static inline void vf_store_n(float *p, vf a, int n) {
    _mm512_mask_storeu_ps(p, vec_first(n), a);
}
static inline vf vf_keep_n(vf a, int n) {
    return _mm512_maskz_mov_ps(vec_first(n), a);
}
static inline vf vf_add(vf a, vf b) {
    return _mm512_add_ps(a, b);
}
static inline vf vf_sub(vf a, vf b) {
    return _mm512_sub_ps(a, b);
}
static inline vf vf_mul(vf a, vf b) {
    return _mm512_mul_ps(a, b);
}
static inline vf vf_div(vf a, vf b) {
    return _mm512_div_ps(a, b);
}
static inline vf vf_max(vf a, vf b) {
    return _mm512_max_ps(a, b);
}
static inline vf vf_min(vf a, vf b) {
    return _mm512_min_ps(a, b);
}
static inline vf vf_fma(vf a, vf b, vf c) {
    return _mm512_fmadd_ps(a, b, c);
}
static inline vf vf_round(vf a) {
    return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
static inline vf vf_ldexp(vf a, vf n) {
    return _mm512_scalef_ps(a, n);
}

static inline vf vec_bf16(__m256i bits) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}
static inline vf vf_load_bf16(const uint16_t *p) {
    return vec_bf16(_mm256_loadu_si256((const void *)p));
}
static inline vf vf_load_bf16_n(const uint16_t *p, int n) {
    return vec_bf16(_mm256_maskz_loadu_epi16(vec_first(n), p));
}
static inline vf vf_bf16_first(const void *pairs) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_loadu_si512(pairs), 16));
}
static inline vf vf_bf16_second(const void *pairs) {
    return _mm512_castsi512_ps(_mm512_and_si512(_mm512_loadu_si512(pairs), _mm512_set1_epi32(-0x10000)));
}
static inline vf vf_load_f16(const uint16_t *p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256((const void *)p));
}
static inline vf vf_load_f16_n(const uint16_t *p, int n) {
    return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(vec_first(n), p));
}

static inline vf vf_load_i8(const int8_t *p) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const void *)p)));
}
static inline vf vf_load_i8_n(const int8_t *p, int n) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_maskz_loadu_epi8(vec_first(n), p)));
}

static inline __m128 vec_quarter_sum(vf a) {
    const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
    return _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
}
static inline float vf_max_lane(vf a) {
    return _mm512_reduce_max_ps(a);
}

static inline vf vf_quad(const float *p) {
    return _mm512_broadcast_f32x4(_mm_loadu_ps(p));
}
static inline vf vf_quad_n(const float *p, int n) {
    return _mm512_broadcast_f32x4(_mm_maskz_loadu_ps((__mmask8)vec_first(n), p));
}
static inline void vf_transpose_quads(vf v[4]) {
    const vf low01 = _mm512_shuffle_f32x4(v[0], v[1], 0x44), high01 = _mm512_shuffle_f32x4(v[0], v[1], 0xee);
    const vf low23 = _mm512_shuffle_f32x4(v[2], v[3], 0x44), high23 = _mm512_shuffle_f32x4(v[2], v[3], 0xee);
    v[0] = _mm512_shuffle_f32x4(low01, low23, 0x88);
    v[1] = _mm512_shuffle_f32x4(low01, low23, 0xdd);
    v[2] = _mm512_shuffle_f32x4(high01, high23, 0x88);
    v[3] = _mm512_shuffle_f32x4(high01, high23, 0xdd);
}
/* Two rows in one register, so that a shuffle does what an insertion from memory has not done. */
static inline __m512i vec_rows(const void *first, const void *second) {
    return _mm512_inserti64x4(_mm512_castsi256_si512(_mm256_loadu_si256(first)), _mm256_loadu_si256(second), 1);
}
static inline void vf_load_quads(const void *const p[4], vf s[4]) {
    for (int half = 0; half < 2; half++) {
        const vf rows01 = _mm512_castsi512_ps(vec_rows((const float *)p[0] + 8 * half, (const float *)p[1] + 8 * half));
        const vf rows23 = _mm512_castsi512_ps(vec_rows((const float *)p[2] + 8 * half, (const float *)p[3] + 8 * half));
        s[2 * half] = _mm512_shuffle_f32x4(rows01, rows23, 0x88);
        s[2 * half + 1] = _mm512_shuffle_f32x4(rows01, rows23, 0xdd);
    }
}
static inline void vf_load_quads_bf16(const void *const p[4], vf s[4]) {
    const __m512i rows01 = vec_rows(p[0], p[1]), rows23 = vec_rows(p[2], p[3]), zero = _mm512_setzero_si512();
    const __m512i first = _mm512_shuffle_i64x2(rows01, rows23, 0x88),
                  second = _mm512_shuffle_i64x2(rows01, rows23, 0xdd);
    s[0] = _mm512_castsi512_ps(_mm512_unpacklo_epi16(zero, first));
    s[1] = _mm512_castsi512_ps(_mm512_unpackhi_epi16(zero, first));
    s[2] = _mm512_castsi512_ps(_mm512_unpacklo_epi16(zero, second));
    s[3] = _mm512_castsi512_ps(_mm512_unpackhi_epi16(zero, second));
}
static inline vf vf_sum_quads(vf a, vf b, vf c, vf d) {
    const __m512d ab01 = _mm512_castps_pd(_mm512_unpacklo_ps(a, b)), ab23 = _mm512_castps_pd(_mm512_unpackhi_ps(a, b));
    const __m512d cd01 = _mm512_castps_pd(_mm512_unpacklo_ps(c, d)), cd23 = _mm512_castps_pd(_mm512_unpackhi_ps(c, d));
    const vf l0 = _mm512_castpd_ps(_mm512_unpacklo_pd(ab01, cd01)),
             l1 = _mm512_castpd_ps(_mm512_unpackhi_pd(ab01, cd01));
    const vf l2 = _mm512_castpd_ps(_mm512_unpacklo_pd(ab23, cd23)),
             l3 = _mm512_castpd_ps(_mm512_unpackhi_pd(ab23, cd23));
    return vf_add(vf_add(l0, l1), vf_add(l2, l3));
}

/* a0 a0 a1 a1 ... from VEC_WIDTH / 2 floats */
static inline vf vf_load_twice(const float *p) {
    const __m512i index = _mm512_set_epi32(7, 7, 6, 6, 5, 5, 4, 4, 3, 3, 2, 2, 1, 1, 0, 0);
    return _mm512_permutexvar_ps(index, _mm512_castps256_ps512(_mm256_loadu_ps(p)));
}
static inline vf vf_swap_pairs(vf a) {
    return _mm512_permute_ps(a, 0xb1);
}
/* -a0 a1 -a2 a3 ... */
static inline vf vf_negate_even(vf a) {
    return _mm512_xor_ps(a, _mm512_castsi512_ps(_mm512_set1_epi64((int64_t)0x80000000)));
}

#elif defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)

#include <immintrin.h>

#define VEC_WIDTH 8
typedef __m256 vf;

static inline __m256i vec_first(int n) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_set_epi32(7, 6, 5, 4, 3, 2, 1, 0));
}

static inline vf vf_zero(void) {
    return _mm256_setzero_ps();
}
static inline vf vf_set1(float a) {
    return _mm256_set1_ps(a);
}
static inline vf vf_load(const float *p) {
    return _mm256_loadu_ps(p);
}
static inline vf vf_load_n(const float *p, int n) {
    return _mm256_maskload_ps(p, vec_first(n));
}
static inline void vf_store(float *p, vf a) {
    _mm256_storeu_ps(p, a);
}
static inline void vf_store_n(float *p, vf a, int n) {
    _mm256_maskstore_ps(p, vec_first(n), a);
}
static inline vf vf_keep_n(vf a, int n) {
    return _mm256_and_ps(a, _mm256_castsi256_ps(vec_first(n)));
}
static inline vf vf_add(vf a, vf b) {
    return _mm256_add_ps(a, b);
}
static inline vf vf_sub(vf a, vf b) {
    return _mm256_sub_ps(a, b);
}
static inline vf vf_mul(vf a, vf b) {
    return _mm256_mul_ps(a, b);
}
static inline vf vf_div(vf a, vf b) {
    return _mm256_div_ps(a, b);
}
static inline vf vf_max(vf a, vf b) {
    return _mm256_max_ps(a, b);
}
static inline vf vf_min(vf a, vf b) {
    return _mm256_min_ps(a, b);
}
static inline vf vf_fma(vf a, vf b, vf c) {
    return _mm256_fmadd_ps(a, b, c);
}
static inline vf vf_round(vf a) {
    return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
static inline vf vec_power_of_two(__m256i n) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n, _mm256_set1_epi32(127)), 23));
}
static inline vf vf_ldexp(vf a, vf n) { /* in two steps, so that neither power overflows; the first is exact */
    const __m256i whole = _mm256_cvtps_epi32(n), half = _mm256_srai_epi32(whole, 1);
    return _mm256_mul_ps(_mm256_mul_ps(a, vec_power_of_two(half)), vec_power_of_two(_mm256_sub_epi32(whole, half)));
}

static inline vf vec_bf16(__m128i bits) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
}
static inline __m128i vec_load_bits_n(const uint16_t *p, int n) {
    uint16_t bits[8] = {0};
    memcpy(bits, p, (size_t)(n & 7) * sizeof *p);
    return _mm_loadu_si128((const void *)bits);
}
static inline vf vf_load_bf16(const uint16_t *p) {
    return vec_bf16(_mm_loadu_si128((const void *)p));
}
static inline vf vf_load_bf16_n(const uint16_t *p, int n) {
    return vec_bf16(vec_load_bits_n(p, n));
}
static inline vf vf_bf16_first(const void *pairs) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_loadu_si256(pairs), 16));
}
static inline vf vf_bf16_second(const void *pairs) {
    return _mm256_castsi256_ps(_mm256_and_si256(_mm256_loadu_si256(pairs), _mm256_set1_epi32(-0x10000)));
}
static inline vf vf_load_f16(const uint16_t *p) {
    return _mm256_cvtph_ps(_mm_loadu_si128((const void *)p));
}
static inline vf vf_load_f16_n(const uint16_t *p, int n) {
    return _mm256_cvtph_ps(vec_load_bits_n(p, n));
}

static inline vf vf_load_i8(const int8_t *p) {
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const void *)p)));
}
static inline vf vf_load_i8_n(const int8_t *p, int n) {
    int8_t lanes[8] = {0};
    memcpy(lanes, p, (size_t)(n & 7));
    return vf_load_i8(lanes);
}

static inline __m128 vec_quarter_sum(vf a) {
    return _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
}
static inline float vf_max_lane(vf a) {
    __m128 v = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    v = _mm_max_ps(v, _mm_movehl_ps(v, v));
    return _mm_cvtss_f32(_mm_max_ss(v, _mm_movehdup_ps(v)));
}

static inline vf vf_quad(const float *p) {
    return _mm256_broadcast_ps((const __m128 *)(const void *)p);
}
static inline vf vf_quad_n(const float *p, int n) {
    const __m128 quad = _mm_maskload_ps(p, _mm256_castsi256_si128(vec_first(n)));
    return _mm256_set_m128(quad, quad);
}
static inline void vf_transpose_quads(vf v[2]) {
    const vf first = v[0];
    v[0] = _mm256_permute2f128_ps(first, v[1], 0x20);
    v[1] = _mm256_permute2f128_ps(first, v[1], 0x31);
}
static inline void vf_load_quads(const void *const p[2], vf s[2]) {
    s[0] = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(p[0])), _mm_loadu_ps(p[1]), 1);
    s[1] = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps((const float *)p[0] + 4)),
                                _mm_loadu_ps((const float *)p[1] + 4), 1);
}
static inline void vf_load_quads_bf16(const void *const p[2], vf s[2]) {
    const __m256i first = _mm256_castsi128_si256(_mm_loadu_si128(p[0])), zero = _mm256_setzero_si256();
    const __m256i rows = _mm256_inserti128_si256(first, _mm_loadu_si128(p[1]), 1);
    s[0] = _mm256_castsi256_ps(_mm256_unpacklo_epi16(zero, rows));
    s[1] = _mm256_castsi256_ps(_mm256_unpackhi_epi16(zero, rows));
}
static inline vf vf_sum_quads(vf a, vf b, vf c, vf d) {
    const __m256d ab01 = _mm256_castps_pd(_mm256_unpacklo_ps(a, b)), ab23 = _mm256_castps_pd(_mm256_unpackhi_ps(a, b));
    const __m256d cd01 = _mm256_castps_pd(_mm256_unpacklo_ps(c, d)), cd23 = _mm256_castps_pd(_mm256_unpackhi_ps(c, d));
    const vf l0 = _mm256_castpd_ps(_mm256_unpacklo_pd(ab01, cd01)),
             l1 = _mm256_castpd_ps(_mm256_unpackhi_pd(ab01, cd01));
    const vf l2 = _mm256_castpd_ps(_mm256_unpacklo_pd(ab23, cd23)),
             l3 = _mm256_castpd_ps(_mm256_unpackhi_pd(ab23, cd23));
    return vf_add(vf_add(l0, l1), vf_add(l2, l3));
}

static inline vf vf_load_twice(const float *p) {
    const __m256i index = _mm256_set_epi32(3, 3, 2, 2, 1, 1, 0, 0);
    return _mm256_permutevar8x32_ps(_mm256_castps128_ps256(_mm_loadu_ps(p)), index);
}
static inline vf vf_swap_pairs(vf a) {
    return _mm256_permute_ps(a, 0xb1);
}
static inline vf vf_negate_even(vf a) {
    return _mm256_xor_ps(a, _mm256_castsi256_ps(_mm256_set1_epi64x((int64_t)0x80000000)));
}

#elif defined(__aarch64__)

#include <arm_neon.h>

#define VEC_WIDTH 4
typedef float32x4_t vf;

static inline vf vf_zero(void) {
    return vdupq_n_f32(0);
}
static inline vf vf_set1(float a) {
    return vdupq_n_f32(a);
}
static inline vf vf_load(const float *p) {
    return vld1q_f32(p);
}
static inline vf vf_load_n(const float *p, int n) {
    float lanes[4] = {0};
    memcpy(lanes, p, (size_t)(n & 3) * sizeof *p);
    return vld1q_f32(lanes);
}
static inline void vf_store(float *p, vf a) {
    vst1q_f32(p, a);
}
static inline void vf_store_n(float *p, vf a, int n) {
    float lanes[4];
    vst1q_f32(lanes, a);
    memcpy(p, lanes, (size_t)(n & 3) * sizeof *p);
}
static inline vf vf_keep_n(vf a, int n) {
    const uint32_t index[4] = {0, 1, 2, 3};
    const uint32x4_t keep = vcltq_u32(vld1q_u32(index), vdupq_n_u32((uint32_t)n));
    return vreinterpretq_f32_u32(vandq_u32(vreinterpretq_u32_f32(a), keep));
}
static inline vf vf_add(vf a, vf b) {
    return vaddq_f32(a, b);
}
static inline vf vf_sub(vf a, vf b) {
    return vsubq_f32(a, b);
}
static inline vf vf_mul(vf a, vf b) {
    return vmulq_f32(a, b);
}
static inline vf vf_div(vf a, vf b) {
    return vdivq_f32(a, b);
}
static inline vf vf_max(vf a, vf b) {
    return vmaxq_f32(a, b);
}
static inline vf vf_min(vf a, vf b) {
    return vminq_f32(a, b);
}
static inline vf vf_fma(vf a, vf b, vf c) {
    return vfmaq_f32(c, a, b);
}
static inline vf vf_round(vf a) {
    return vrndnq_f32(a);
}
static inline vf vec_power_of_two(int32x4_t n) {
    return vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(n, vdupq_n_s32(127)), 23));
}
static inline vf vf_ldexp(vf a, vf n) { /* in two steps, so that neither power overflows; the first is exact */
    const int32x4_t whole = vcvtq_s32_f32(n), half = vshrq_n_s32(whole, 1);
    return vmulq_f32(vmulq_f32(a, vec_power_of_two(half)), vec_power_of_two(vsubq_s32(whole, half)));
}

static inline vf vec_bf16(uint16x4_t bits) {
    return vreinterpretq_f32_u32(vshll_n_u16(bits, 16));
}
static inline uint16x4_t vec_load_bits_n(const uint16_t *p, int n) {
    uint16_t bits[4] = {0};
    memcpy(bits, p, (size_t)(n & 3) * sizeof *p);
    return vld1_u16(bits);
}
static inline vf vf_load_bf16(const uint16_t *p) {
    return vec_bf16(vld1_u16(p));
}
static inline vf vf_load_bf16_n(const uint16_t *p, int n) {
    return vec_bf16(vec_load_bits_n(p, n));
}
static inline vf vf_bf16_first(const void *pairs) {
    return vreinterpretq_f32_u32(vshlq_n_u32(vreinterpretq_u32_u8(vld1q_u8(pairs)), 16));
}
static inline vf vf_bf16_second(const void *pairs) {
    return vreinterpretq_f32_u32(vandq_u32(vreinterpretq_u32_u8(vld1q_u8(pairs)), vdupq_n_u32(0xffff0000)));
}
static inline vf vf_load_f16(const uint16_t *p) {
    return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p)));
}
static inline vf vf_load_f16_n(const uint16_t *p, int n) {
    return vcvt_f32_f16(vreinterpret_f16_u16(vec_load_bits_n(p, n)));
}

static inline vf vec_load_i8(const int8_t *p, size_t n) {
    int8_t lanes[8] = {0};
    memcpy(lanes, p, n);
    return vcvtq_f32_s32(vmovl_s16(vget_low_s16(vmovl_s8(vld1_s8(lanes)))));
}
static inline vf vf_load_i8(const int8_t *p) {
    return vec_load_i8(p, 4);
}
static inline vf vf_load_i8_n(const int8_t *p, int n) {
    return vec_load_i8(p, (size_t)(n & 3));
}

static inline float vf_max_lane(vf a) {
    return vmaxvq_f32(a);
}

static inline vf vf_quad(const float *p) {
    return vld1q_f32(p);
}
static inline vf vf_quad_n(const float *p, int n) {
    return vf_load_n(p, n);
}
static inline void vf_transpose_quads(vf v[1]) {
    (void)v;
}
static inline void vf_load_quads(const void *const p[1], vf s[1]) {
    s[0] = vf_load(p[0]);
}
static inline void vf_load_quads_bf16(const void *const p[1], vf s[1]) {
    s[0] = vf_load_bf16(p[0]);
}
static inline vf vf_sum_quads(vf a, vf b, vf c, vf d) {
    return vpaddq_f32(vpaddq_f32(a, b), vpaddq_f32(c, d));
}

static inline vf vf_load_twice(const float *p) {
    const float32x2_t half = vld1_f32(p);
    return vcombine_f32(vdup_lane_f32(half, 0), vdup_lane_f32(half, 1));
}
static inline vf vf_swap_pairs(vf a) {
    return vrev64q_f32(a);
}
static inline vf vf_negate_even(vf a) {
    return vreinterpretq_f32_u64(veorq_u64(vreinterpretq_u64_f32(a), vdupq_n_u64(0x80000000)));
}

#endif

#if defined(VEC_WIDTH)

/* Part of a vector, at the edge of a row; whole ones are the rule and cheaper to move. */
static inline vf vf_load_some(const float *p, int64_t n) {
    return n >= VEC_WIDTH ? vf_load(p) : n > 0 ? vf_load_n(p, (int)n) : vf_zero();
}
static inline void vf_store_some(float *p, vf a, int64_t n) {
    if (n >= VEC_WIDTH)
        vf_store(p, a);
    else if (n > 0)
        vf_store_n(p, a, (int)n);
}

/* n >= 1 of four floats */
static inline vf vf_quad_some(const float *p, int64_t n) {
    return n >= 4 ? vf_quad(p) : vf_quad_n(p, (int)n);
}

/* Halves are added until four lanes are left, then (0 + 1) + (2 + 3). */
static inline float vf_sum(vf a) {
    float l[4];
#if defined(__aarch64__)
    vst1q_f32(l, a);
#else
    _mm_storeu_ps(l, vec_quarter_sum(a));
#endif
    return (l[0] + l[1]) + (l[2] + l[3]);
}

#endif
#endif
