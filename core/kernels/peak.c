/* Loops that do nothing but multiply and add in registers.  Each function is compiled for its own instruction set; the
 * table says which of them the processor has. */
#include <string.h>

#include "core/base/cpu.h"
#include "core/kernels/limits.h"

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

/* As many independent sums as hide an instruction's latency: a variable each, which no compiler puts into memory. */
#define CHAINS(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11)
#define ONE(i)    +1
enum { N_CHAINS = CHAINS(ONE) };

/* Empty assembly keeps the compiler from taking several rounds together, or one out of the loop. */
#if defined(__x86_64__)
#define KEEP(value)   __asm__ volatile("" : "+v"(value))
#define KEEP_X(value) __asm__ volatile("" : "+x"(value))
#elif defined(__aarch64__)
#define KEEP(value) __asm__ volatile("" : "+w"(value))
#endif

/* The body of a loop: every chain takes a STEP in every round - STEP(i) is a macro that sees s##i - and the lanes of
 * all chains are added up. */
#define SUM(i) s##i = zero,
#define ADD_UP(i)                                                                                                      \
    last = s##i; /* not the chain's own address: it would live in memory */                                            \
    memcpy(lanes, &last, sizeof lanes);                                                                                \
    for (size_t j = 0; j < sizeof lanes / sizeof *lanes; j++)                                                          \
        total += lanes[j];
#define LOOP(type, lane, zero_value, STEP)                                                                             \
    const type zero = zero_value;                                                                                      \
    type CHAINS(SUM) last = zero;                                                                                      \
    lane lanes[sizeof last / sizeof(lane)];                                                                            \
    double total = 0;                                                                                                  \
    for (int64_t round = 0; round < n_rounds; round++) {                                                               \
        CHAINS(STEP)                                                                                                   \
    }                                                                                                                  \
    CHAINS(ADD_UP)                                                                                                     \
    return total;

#if defined(__x86_64__)

#define STEP_INT8_AVX512_VNNI(i)                                                                                       \
    s##i = _mm512_dpbusd_epi32(s##i, a, b);                                                                            \
    KEEP(s##i);
__attribute__((target("avx512f,avx512vnni"))) static double int8_avx512_vnni(int64_t n_rounds) {
    __m512i a = _mm512_set1_epi8(3), b = _mm512_set1_epi8(-5);
    KEEP(a);
    KEEP(b);
    LOOP(__m512i, int32_t, _mm512_setzero_si512(), STEP_INT8_AVX512_VNNI)
}

#define STEP_INT8_AVX_VNNI(i)                                                                                          \
    s##i = _mm256_dpbusd_avx_epi32(s##i, a, b);                                                                        \
    KEEP_X(s##i);
__attribute__((target("avx2,avxvnni"))) static double int8_avx_vnni(int64_t n_rounds) {
    __m256i a = _mm256_set1_epi8(3), b = _mm256_set1_epi8(-5);
    KEEP_X(a);
    KEEP_X(b);
    LOOP(__m256i, int32_t, _mm256_setzero_si256(), STEP_INT8_AVX_VNNI)
}

#define STEP_INT8_AVX2(i)                                                                                              \
    KEEP_X(a);                                                                                                         \
    s##i = _mm256_add_epi32(s##i, _mm256_madd_epi16(_mm256_maddubs_epi16(a, b), ones));                                \
    KEEP_X(s##i);
__attribute__((target("avx2"))) static double int8_avx2(int64_t n_rounds) {
    __m256i a = _mm256_set1_epi8(3), b = _mm256_set1_epi8(-5), ones = _mm256_set1_epi16(1);
    KEEP_X(b);
    KEEP_X(ones);
    LOOP(__m256i, int32_t, _mm256_setzero_si256(), STEP_INT8_AVX2)
}

#define STEP_BF16_AVX512(i)                                                                                            \
    s##i = _mm512_dpbf16_ps(s##i, (__m512bh)one, (__m512bh)one);                                                       \
    KEEP(s##i);
__attribute__((target("avx512f,avx512bf16"))) static double bf16_avx512(int64_t n_rounds) {
    __m512i one = _mm512_set1_epi16(0x3f80);
    KEEP(one);
    LOOP(__m512, float, _mm512_setzero_ps(), STEP_BF16_AVX512)
}

#define STEP_F32_AVX512(i)                                                                                             \
    s##i = _mm512_fmadd_ps(a, a, s##i);                                                                                \
    KEEP(s##i);
__attribute__((target("avx512f"))) static double f32_avx512(int64_t n_rounds) {
    __m512 a = _mm512_set1_ps(1.0f);
    KEEP(a);
    LOOP(__m512, float, _mm512_setzero_ps(), STEP_F32_AVX512)
}

#define STEP_F32_AVX2(i)                                                                                               \
    s##i = _mm256_fmadd_ps(a, a, s##i);                                                                                \
    KEEP_X(s##i);
__attribute__((target("avx2,fma"))) static double f32_avx2(int64_t n_rounds) {
    __m256 a = _mm256_set1_ps(1.0f);
    KEEP_X(a);
    LOOP(__m256, float, _mm256_setzero_ps(), STEP_F32_AVX2)
}

#elif defined(__aarch64__)

#define STEP_INT8_DOTPROD(i)                                                                                           \
    s##i = vdotq_s32(s##i, a, b);                                                                                      \
    KEEP(s##i);
__attribute__((target("arch=armv8.2-a+dotprod"))) static double int8_dotprod(int64_t n_rounds) {
    int8x16_t a = vdupq_n_s8(3), b = vdupq_n_s8(-5);
    KEEP(a);
    KEEP(b);
    LOOP(int32x4_t, int32_t, vdupq_n_s32(0), STEP_INT8_DOTPROD)
}

#define STEP_INT8_NEON(i)                                                                                              \
    KEEP(a);                                                                                                           \
    s##i = vpadalq_s16(s##i, vmlal_high_s8(vmull_s8(vget_low_s8(a), vget_low_s8(b)), a, b));                           \
    KEEP(s##i);
static double int8_neon(int64_t n_rounds) {
    int8x16_t a = vdupq_n_s8(3), b = vdupq_n_s8(-5);
    KEEP(b);
    LOOP(int32x4_t, int32_t, vdupq_n_s32(0), STEP_INT8_NEON)
}

#define STEP_F32_NEON(i)                                                                                               \
    s##i = vfmaq_f32(s##i, a, a);                                                                                      \
    KEEP(s##i);
static double f32_neon(int64_t n_rounds) {
    float32x4_t a = vdupq_n_f32(1);
    KEEP(a);
    LOOP(float32x4_t, float, vdupq_n_f32(0), STEP_F32_NEON)
}

#endif

/* Anywhere else: what the compiler makes of four numbers side by side. */
typedef float v4f __attribute__((vector_size(16)));
typedef int32_t v4i __attribute__((vector_size(16)));
#define KEEP_MEMORY(value) __asm__ volatile("" : "+m"(value))
#define STEP_INT8_REF(i)                                                                                               \
    s##i += a * b;                                                                                                     \
    KEEP_MEMORY(a);                                                                                                    \
    KEEP_MEMORY(s##i);
static double int8_ref(int64_t n_rounds) {
    v4i a = {3, 3, 3, 3}, b = {-5, -5, -5, -5};
    LOOP(v4i, int32_t, (v4i){0}, STEP_INT8_REF)
}
#define STEP_F32_REF(i)                                                                                                \
    s##i += a * a;                                                                                                     \
    KEEP_MEMORY(a);                                                                                                    \
    KEEP_MEMORY(s##i);
static double f32_ref(int64_t n_rounds) {
    v4f a = {1, 1, 1, 1};
    LOOP(v4f, float, (v4f){0}, STEP_F32_REF)
}

static bool always(const struct cpu_features *cpu) {
    (void)cpu;
    return true;
}
#define HAVE(feature)                                                                                                  \
    static bool have_##feature(const struct cpu_features *cpu) {                                                       \
        return cpu->feature;                                                                                           \
    }
#if defined(__x86_64__)
HAVE(avx512_vnni)
HAVE(avx_vnni)
HAVE(avx2)
HAVE(avx512_bf16)
HAVE(avx512)
#elif defined(__aarch64__)
HAVE(neon)
HAVE(neon_dotprod)
#endif

/* Best first. */
static const struct row {
    struct peak_loop loop;
    bool (*have)(const struct cpu_features *cpu);
} ROWS[] = {
#if defined(__x86_64__)
    {{PEAK_INT8, "vpdpbusd zmm", N_CHAINS * 16 * 8, -15, int8_avx512_vnni}, have_avx512_vnni},
    {{PEAK_INT8, "vpdpbusd ymm", N_CHAINS * 8 * 8, -15, int8_avx_vnni}, have_avx_vnni},
    {{PEAK_INT8, "vpmaddubsw ymm", N_CHAINS * 8 * 8, -15, int8_avx2}, have_avx2},
    {{PEAK_BF16, "vdpbf16ps zmm", N_CHAINS * 16 * 4, 1, bf16_avx512}, have_avx512_bf16},
    {{PEAK_F32, "vfmadd zmm", N_CHAINS * 16 * 2, 1, f32_avx512}, have_avx512},
    {{PEAK_F32, "vfmadd ymm", N_CHAINS * 8 * 2, 1, f32_avx2}, have_avx2},
#elif defined(__aarch64__)
    {{PEAK_INT8, "sdot", N_CHAINS * 4 * 8, -15, int8_dotprod}, have_neon_dotprod},
    {{PEAK_INT8, "smlal", N_CHAINS * 4 * 8, -15, int8_neon}, have_neon},
    {{PEAK_F32, "fmla", N_CHAINS * 4 * 2, 1, f32_neon}, have_neon},
#endif
    {{PEAK_INT8, "plain", N_CHAINS * 4 * 2, -15, int8_ref}, always},
    {{PEAK_F32, "plain", N_CHAINS * 4 * 2, 1, f32_ref}, always},
};

const struct peak_loop *peak_loop_at(enum peak_kind kind, int i) {
    struct cpu_features cpu;
    cpu_features(&cpu);
    for (size_t r = 0; r < sizeof ROWS / sizeof *ROWS; r++)
        if (ROWS[r].loop.kind == kind && ROWS[r].have(&cpu) && i-- == 0)
            return &ROWS[r].loop;
    return NULL;
}
