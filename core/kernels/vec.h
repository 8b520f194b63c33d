/* The vector of the instruction set that the including file is compiled for: a small set of names over the intrinsics,
 * so that kernels are written once (simd_*.h) and compiled once for each set.
 *
 * Only kernels_<set>.c may include it.  Everything is static: nothing compiled for one set can be linked into another.
 * Without a known set VEC_WIDTH stays undefined and the file is empty.
 *
 *   vf               VEC_WIDTH floats            vf_load_n, vf_store_n  the first n lanes, n < VEC_WIDTH; lanes not
 * loaded are 0 vf_fma(a, b, c)  a * b + c, rounded once     vf_max(a, b)           b where either is NaN vf_sum one
 * fixed tree of additions: l with l + VEC_WIDTH/2, and so on; vf_sum4 does the same four times vf_ldexp(x, n)   x *
 * 2^n, n integral, 2^n in the range of exp: 0 and infinity come out right */
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
static inline vf vf_load_f16(const uint16_t *p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256((const void *)p));
}
static inline vf vf_load_f16_n(const uint16_t *p, int n) {
    return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(vec_first(n), p));
}

static inline __m128 vec_quarter_sum(vf a) {
    const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
    return _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
}
static inline float vf_max_lane(vf a) {
    return _mm512_reduce_max_ps(a);
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
static inline vf vf_load_f16(const uint16_t *p) {
    return _mm256_cvtph_ps(_mm_loadu_si128((const void *)p));
}
static inline vf vf_load_f16_n(const uint16_t *p, int n) {
    return _mm256_cvtph_ps(vec_load_bits_n(p, n));
}

static inline __m128 vec_quarter_sum(vf a) {
    return _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
}
static inline float vf_max_lane(vf a) {
    __m128 v = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    v = _mm_max_ps(v, _mm_movehl_ps(v, v));
    return _mm_cvtss_f32(_mm_max_ss(v, _mm_movehdup_ps(v)));
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
static inline vf vf_load_f16(const uint16_t *p) {
    return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p)));
}
static inline vf vf_load_f16_n(const uint16_t *p, int n) {
    return vcvt_f32_f16(vreinterpret_f16_u16(vec_load_bits_n(p, n)));
}

static inline float vf_max_lane(vf a) {
    return vmaxvq_f32(a);
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

/* out[i] = the sum of the lanes of v_i, all four by the same tree. */
static inline void vf_sum4(vf v0, vf v1, vf v2, vf v3, float out[4]) {
#if defined(__aarch64__)
    const vf low =
        vcombine_f32(vadd_f32(vget_low_f32(v0), vget_high_f32(v0)), vadd_f32(vget_low_f32(v1), vget_high_f32(v1)));
    const vf high =
        vcombine_f32(vadd_f32(vget_low_f32(v2), vget_high_f32(v2)), vadd_f32(vget_low_f32(v3), vget_high_f32(v3)));
    vst1q_f32(out, vpaddq_f32(low, high));
#else
    __m128 r0 = vec_quarter_sum(v0), r1 = vec_quarter_sum(v1), r2 = vec_quarter_sum(v2), r3 = vec_quarter_sum(v3);
    _MM_TRANSPOSE4_PS(r0, r1, r2, r3);
    _mm_storeu_ps(out, _mm_add_ps(_mm_add_ps(r0, r2), _mm_add_ps(r1, r3)));
#endif
}

static inline float vf_sum(vf a) {
    float out[4];
    vf_sum4(a, a, a, a, out);
    return out[0];
}

#endif
#endif
