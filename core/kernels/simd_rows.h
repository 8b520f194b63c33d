/* Operations on one row over vec.h, compiled once for each instruction set.  A sum over a row has one vector of partial
 * sums, as in a dot product. */
#ifndef CORE_KERNELS_SIMD_ROWS_H
#define CORE_KERNELS_SIMD_ROWS_H

#include <math.h>

#include "core/kernels/kernels.h"
#include "core/kernels/vec.h"

#if defined(VEC_WIDTH)

/* e^x: x = n ln 2 + r with |r| <= ln 2 / 2; the Taylor series of e^r to r^7 is within 0.1 ulp there; times 2^n.
 * Below -105 the result is 0, above 89 infinity; NaN stays NaN. */
static inline vf vf_exp(vf x) {
    x = vf_max(vf_set1(-105.0f), vf_min(vf_set1(89.0f), x));
    const vf n = vf_round(vf_mul(x, vf_set1(0x1.715476p+0f)));
    vf r = vf_fma(n, vf_set1(-0x1.62e4p-1f), x); /* ln 2 in two parts: the first has few bits, n times it is exact */
    r = vf_fma(n, vf_set1(-0x1.7f7d1cp-20f), r);
    vf p = vf_set1(1.0f / 5040);
    p = vf_fma(p, r, vf_set1(1.0f / 720));
    p = vf_fma(p, r, vf_set1(1.0f / 120));
    p = vf_fma(p, r, vf_set1(1.0f / 24));
    p = vf_fma(p, r, vf_set1(1.0f / 6));
    p = vf_fma(p, r, vf_set1(0.5f));
    p = vf_fma(p, r, vf_set1(1.0f));
    p = vf_fma(p, r, vf_set1(1.0f));
    return vf_ldexp(p, n);
}

#define WIDEN(name, element, load, load_n)                                                                             \
    static void widen_##name(float *dst, const void *src, int64_t n) {                                                 \
        const element *from = src;                                                                                     \
        int64_t i = 0;                                                                                                 \
        for (; i + VEC_WIDTH <= n; i += VEC_WIDTH)                                                                     \
            vf_store(dst + i, load(from + i));                                                                         \
        if (i < n)                                                                                                     \
            vf_store_n(dst + i, load_n(from + i, (int)(n - i)), (int)(n - i));                                         \
    }
WIDEN(f16, uint16_t, vf_load_f16, vf_load_f16_n)
WIDEN(bf16, uint16_t, vf_load_bf16, vf_load_bf16_n)
#undef WIDEN

static void rms_norm(float *y, const float *x, const float *weight, int64_t n, float eps) {
    vf squares = vf_zero();
    for (int64_t i = 0; i < n; i += VEC_WIDTH) {
        const vf v = vf_load_some(x + i, n - i);
        squares = vf_fma(v, v, squares);
    }
    const vf inv = vf_set1(1.0f / sqrtf(vf_sum(squares) / (float)n + eps));
    for (int64_t i = 0; i < n; i += VEC_WIDTH) {
        const vf v = vf_mul(vf_load_some(x + i, n - i), inv);
        vf_store_some(y + i, weight ? vf_mul(v, vf_load_some(weight + i, n - i)) : v, n - i);
    }
}

static void swiglu(float *out, const float *gate, const float *up, int64_t n) {
    const vf one = vf_set1(1.0f);
    for (int64_t i = 0; i < n; i += VEC_WIDTH) {
        const vf g = vf_load_some(gate + i, n - i);
        const vf silu = vf_div(g, vf_add(one, vf_exp(vf_sub(vf_zero(), g))));
        vf_store_some(out + i, vf_mul(silu, vf_load_some(up + i, n - i)), n - i);
    }
}

static void add(float *y, const float *x, int64_t n) {
    for (int64_t i = 0; i < n; i += VEC_WIDTH)
        vf_store_some(y + i, vf_add(vf_load_some(y + i, n - i), vf_load_some(x + i, n - i)), n - i);
}

static void scale(float *y, const float *x, float a, int64_t n) {
    for (int64_t i = 0; i < n; i += VEC_WIDTH)
        vf_store_some(y + i, vf_mul(vf_load_some(x + i, n - i), vf_set1(a)), n - i);
}

static float max(const float *x, int64_t n) {
    vf best = vf_set1(x[0]);
    int64_t i = 0;
    for (; i + VEC_WIDTH <= n; i += VEC_WIDTH)
        best = vf_max(best, vf_load(x + i));
    float result = vf_max_lane(best);
    for (; i < n; i++)
        result = x[i] > result ? x[i] : result;
    return result;
}

static float exp_sum(float *y, const float *x, int64_t n, float bias) {
    vf sum = vf_zero();
    for (int64_t i = 0; i < n; i += VEC_WIDTH) {
        const vf e = vf_exp(vf_sub(vf_load_some(x + i, n - i), vf_set1(bias)));
        sum = vf_add(sum, n - i < VEC_WIDTH ? vf_keep_n(e, (int)(n - i)) : e);
        if (y)
            vf_store_some(y + i, e, n - i);
    }
    return vf_sum(sum);
}

static void rope(float *x, const float *cos, const float *sin, int64_t n) {
    int64_t i = 0;
    for (; i + VEC_WIDTH <= n; i += VEC_WIDTH) {
        const vf v = vf_load(x + i), s = vf_negate_even(vf_load_twice(sin + i / 2));
        vf_store(x + i, vf_fma(v, vf_load_twice(cos + i / 2), vf_mul(vf_swap_pairs(v), s)));
    }
    for (; i < n; i += 2) { /* the same roundings */
        const float a = x[i], b = x[i + 1], c = cos[i / 2], s = sin[i / 2];
        x[i] = __builtin_fmaf(a, c, b * -s);
        x[i + 1] = __builtin_fmaf(b, c, a * s);
    }
}

#endif
#endif
