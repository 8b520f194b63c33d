#include "core/format/quantize.h"

#include <assert.h>
#include <float.h>
#include <math.h>
#include <string.h>

enum { QK = 32, QK_K = 256, PARTS = QK_K / QK };

/* The nearest finite one; 0 for NaN. */
static void put_f16(uint8_t *dst, float value) {
    const float most = 65504;
    const uint16_t bits = f32_to_f16(isnan(value) ? 0 : fminf(fmaxf(value, -most), most));
    dst[0] = (uint8_t)bits;
    dst[1] = (uint8_t)(bits >> 8);
}

static int clamp(float value, int low, int high) { /* NaN: low */
    return value >= (float)high ? high : value > (float)low ? (int)value : low;
}

static void quantize_q8_0(const float *src, uint8_t *block) {
    float largest = 0;
    for (int i = 0; i < QK; i++)
        largest = fmaxf(largest, fabsf(src[i]));
    const float d = largest / 127, inverse = d != 0 ? 1 / d : 0;
    put_f16(block, d);
    for (int i = 0; i < QK; i++)
        block[2 + i] = (uint8_t)clamp(roundf(src[i] * inverse), -127, 127);
}

/* The element of the largest magnitude becomes -8 exactly. */
static void quantize_q4_0(const float *src, uint8_t *block) {
    float largest = 0, extreme = 0;
    for (int i = 0; i < QK; i++)
        if (fabsf(src[i]) > largest) {
            largest = fabsf(src[i]);
            extreme = src[i];
        }
    const float d = extreme / -8, inverse = d != 0 ? 1 / d : 0;
    put_f16(block, d);
    for (int i = 0; i < QK / 2; i++) {
        const int low = clamp(src[i] * inverse + 8.5f, 0, 15);
        const int high = clamp(src[i + QK / 2] * inverse + 8.5f, 0, 15);
        block[2 + i] = (uint8_t)(low | high << 4);
    }
}

/* ---- Q4_K: x = scale * q - min, q in 0..15, scale and min >= 0 ---- */

struct fit {
    float scale, min;
    float error;
};

/* The best scale and minimum for given q, by weighted least squares; min < 0 counts as 0. */
static struct fit fit_to(const float *x, const float *weights, const uint8_t *q) {
    float w = 0, wq = 0, wqq = 0, wx = 0, wqx = 0;
    for (int i = 0; i < QK; i++) {
        const float v = (float)q[i];
        w += weights[i];
        wq += weights[i] * v;
        wqq += weights[i] * v * v;
        wx += weights[i] * x[i];
        wqx += weights[i] * v * x[i];
    }
    const float det = w * wqq - wq * wq;
    struct fit fit = {0};
    if (det > 0) {
        fit.scale = (w * wqx - wq * wx) / det;
        fit.min = (wq * wqx - wqq * wx) / det;
    }
    if (!(det > 0) || fit.min < 0) {
        fit.min = 0;
        fit.scale = wqq > 0 ? wqx / wqq : 0;
    }
    for (int i = 0; i < QK; i++) {
        const float difference = fit.scale * (float)q[i] - fit.min - x[i];
        fit.error += weights[i] * difference * difference;
    }
    return fit;
}

/* Tries grids around the one from the least to the largest element; large elements count more. */
static struct fit fit_part(const float *x) {
    enum { STEPS = 24 };
    float low = 0, high = 0, squares = 0, weights[QK];
    for (int i = 0; i < QK; i++) {
        low = fminf(low, x[i]);
        high = fmaxf(high, x[i]);
        squares += x[i] * x[i];
    }
    if (!(high > low) || !isfinite(squares))
        return (struct fit){0};
    for (int i = 0; i < QK; i++)
        weights[i] = sqrtf(squares / QK) + fabsf(x[i]);
    struct fit best = {.error = INFINITY};
    for (int step = 0; step < STEPS; step++) {
        uint8_t q[QK];
        const float inverse = (14.0f + 0.1f * (float)step) / (high - low);
        for (int i = 0; i < QK; i++)
            q[i] = (uint8_t)clamp((x[i] - low) * inverse + 0.5f, 0, 15);
        const struct fit fit = fit_to(x, weights, q);
        if (fit.scale > 0 && fit.error < best.error)
            best = fit;
    }
    return best.error < INFINITY ? best : (struct fit){.scale = (high - low) / 15, .min = -low};
}

static void quantize_q4_k(const float *src, uint8_t *block) {
    struct fit fits[PARTS];
    float largest_scale = 0, largest_min = 0;
    for (int part = 0; part < PARTS; part++) {
        fits[part] = fit_part(src + part * QK);
        largest_scale = fmaxf(largest_scale, fits[part].scale);
        largest_min = fmaxf(largest_min, fits[part].min);
    }
    put_f16(block, largest_scale / 63);
    put_f16(block + 2, largest_min / 63);
    const float d = f16_to_f32((uint16_t)(block[0] | block[1] << 8));
    const float d_min = f16_to_f32((uint16_t)(block[2] | block[3] << 8));
    uint8_t *scales = block + 4, *values = block + 16;
    memset(scales, 0, 12 + QK_K / 2);
    for (int part = 0; part < PARTS; part++) {
        const int scale = d > 0 ? clamp(fits[part].scale / d + 0.5f, 0, 63) : 0;
        const int min = d_min > 0 ? clamp(fits[part].min / d_min + 0.5f, 0, 63) : 0;
        if (part < 4) {
            scales[part] = (uint8_t)(scales[part] | scale);
            scales[part + 4] = (uint8_t)(scales[part + 4] | min);
        } else {
            scales[part + 4] = (uint8_t)((scale & 15) | (min & 15) << 4);
            scales[part - 4] = (uint8_t)(scales[part - 4] | scale >> 4 << 6);
            scales[part] = (uint8_t)(scales[part] | min >> 4 << 6);
        }
        const float step = d * (float)scale, offset = d_min * (float)min;
        for (int i = 0; i < QK; i++) {
            const int q = step > 0 ? clamp((src[part * QK + i] + offset) / step + 0.5f, 0, 15) : 0;
            uint8_t *value = &values[part / 2 * QK + i];
            *value = (uint8_t)(*value | q << part % 2 * 4);
        }
    }
}

/* ---- Q6_K: x = d * scale * q, q in -32..31, a scale in -128..127 for every 16 elements ---- */

enum { QK6 = 16, PARTS6 = QK_K / QK6 };

/* Tries grids around the one that puts the largest element at -32, and fits each by weighted least squares; large
 * elements count more. */
static float fit_symmetric(const float *x) {
    float largest = 0, extreme = 0, best = 0, best_scale = 0;
    for (int i = 0; i < QK6; i++)
        if (fabsf(x[i]) > largest) {
            largest = fabsf(x[i]);
            extreme = x[i];
        }
    if (!(largest > FLT_MIN) || !isfinite(largest))
        return 0;
    for (int step = -9; step <= 9; step++) {
        const float inverse = -(32 + 0.1f * (float)step) / extreme;
        float xq = 0, qq = 0;
        for (int i = 0; i < QK6; i++) {
            const float q = (float)clamp(roundf(x[i] * inverse), -32, 31), share = x[i] / largest;
            xq += share * share * share * q; /* the weight is the element's square */
            qq += share * share * q * q;
        }
        if (qq > 0 && xq * xq > best * qq) {
            best = xq * xq / qq;
            best_scale = xq / qq * largest;
        }
    }
    return best_scale;
}

static void quantize_q6_k(const float *src, uint8_t *block) {
    uint8_t *low = block, *high = block + 128, *scales = block + 192;
    float fits[PARTS6], largest = 0, extreme = 0;
    for (int part = 0; part < PARTS6; part++) {
        fits[part] = fit_symmetric(src + part * QK6);
        if (fabsf(fits[part]) > largest) {
            largest = fabsf(fits[part]);
            extreme = fits[part];
        }
    }
    put_f16(block + 208, extreme / -128);
    const float d = f16_to_f32((uint16_t)(block[208] | block[209] << 8));
    memset(block, 0, 192);
    for (int part = 0; part < PARTS6; part++) {
        const int scale = d != 0 ? clamp(roundf(fits[part] / d), -128, 127) : 0;
        const float step = d * (float)scale;
        scales[part] = (uint8_t)scale;
        for (int i = part * QK6; i < (part + 1) * QK6; i++) {
            const int half = i / 128, at = i % 128;
            const unsigned q = (unsigned)((step != 0 ? clamp(roundf(src[i] / step), -32, 31) : 0) + 32);
            uint8_t *low_byte = &low[half * 64 + at % 64], *high_byte = &high[half * 32 + at % 32];
            *low_byte = (uint8_t)(*low_byte | (q & 15) << at / 64 * 4);
            *high_byte = (uint8_t)(*high_byte | q >> 4 << at / 32 * 2);
        }
    }
}

static void (*const BLOCKS[DT_COUNT])(const float *src, uint8_t *block) = {
    [DT_Q8_0] = quantize_q8_0,
    [DT_Q4_0] = quantize_q4_0,
    [DT_Q4_K] = quantize_q4_k,
    [DT_Q6_K] = quantize_q6_k,
};

bool quantize_has_type(enum dtype type) {
    return BLOCKS[type] != NULL;
}

void quantize_row(enum dtype type, const float *src, void *dst, int64_t n) {
    const int64_t elements = dtype_block_elements(type);
    assert(BLOCKS[type] && n % elements == 0);
    uint8_t *block = dst;
    for (int64_t i = 0; i < n; i += elements, block += dtype_block_bytes(type))
        BLOCKS[type](src + i, block);
}
