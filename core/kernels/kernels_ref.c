/* The reference: plain C, any processor.  The other variants are tested against it; it promises the same invariance. */
#include <math.h>
#include <string.h>

#include "core/kernels/variants.h"

enum {
    LANES = 8,         /* partial sums of a dot product: lane l takes k = l, l + LANES, ... */
    DOT_CHUNK = 1024,  /* inputs widened at a time; a multiple of LANES, so that lanes keep their k */
    DOT_ROWS = 16,     /* rows of x that share a widened chunk */
    PANEL_K = 64,      /* inputs and ... */
    PANEL_COLUMNS = 64 /* ... outputs of a widened panel of an [in, out] matrix */
};

static void widen_f32(float *dst, const void *src, int64_t n) {
    memcpy(dst, src, (size_t)n * sizeof(float));
}

static void widen_f16(float *dst, const void *src, int64_t n) {
    const uint16_t *bits = src;
    for (int64_t i = 0; i < n; i++)
        dst[i] = f16_to_f32(bits[i]);
}

static void widen_bf16(float *dst, const void *src, int64_t n) {
    const uint16_t *bits = src;
    for (int64_t i = 0; i < n; i++)
        dst[i] = bf16_to_f32(bits[i]);
}

/* dst[0..n-1] = elements (row, column...) of w as floats */
static void widen_part(float *dst, const struct matrix *w, int64_t row, int64_t column, int64_t n) {
    const size_t at = (size_t)(row * w->stride + column) * dtype_size(w->type);
    const char *src = (const char *)w->data + at;
    switch (w->type) {
    case DT_F32:
        widen_f32(dst, src, n);
        break;
    case DT_F16:
        widen_f16(dst, src, n);
        break;
    default:
        widen_bf16(dst, src, n);
    }
}

static void dot_add(float acc[LANES], const float *x, const float *w, int64_t n) {
    int64_t k = 0;
    for (; k + LANES <= n; k += LANES) {
        for (int l = 0; l < LANES; l++)
            acc[l] += x[k + l] * w[k + l];
    }
    for (int l = 0; k + l < n; l++)
        acc[l] += x[k + l] * w[k + l];
}

static float lanes_sum(const float a[LANES]) {
    return ((a[0] + a[4]) + (a[2] + a[6])) + ((a[1] + a[5]) + (a[3] + a[7]));
}

static void gemm_out_in(const struct matrix *w, int64_t n_begin, int64_t n_end, const float *x, int64_t ldx, int64_t m,
                        float *y, int64_t ldy, bool accumulate, void *scratch) {
    float *chunk = scratch;
    for (int64_t j = n_begin; j < n_end; j++) {
        for (int64_t i0 = 0; i0 < m; i0 += DOT_ROWS) {
            const int64_t rows = m - i0 < DOT_ROWS ? m - i0 : DOT_ROWS;
            float acc[DOT_ROWS][LANES] = {{0}};
            for (int64_t k0 = 0; k0 < w->k; k0 += DOT_CHUNK) {
                const int64_t n = w->k - k0 < DOT_CHUNK ? w->k - k0 : DOT_CHUNK;
                widen_part(chunk, w, j, k0, n);
                for (int64_t i = 0; i < rows; i++)
                    dot_add(acc[i], x + (i0 + i) * ldx + k0, chunk, n);
            }
            for (int64_t i = 0; i < rows; i++) {
                float *out = &y[(i0 + i) * ldy + j];
                *out = accumulate ? lanes_sum(acc[i]) + *out : lanes_sum(acc[i]);
            }
        }
    }
}

typedef float panel_row[PANEL_COLUMNS];

/* y += x times a panel */
static void add_panel(const panel_row *panel, int64_t depth, int64_t columns, const float *x, int64_t ldx, int64_t m,
                      float *y, int64_t ldy) {
    for (int64_t i = 0; i < m; i++) {
        float *out = y + i * ldy;
        for (int64_t k = 0; k < depth; k++) {
            const float v = x[i * ldx + k];
            for (int64_t j = 0; j < columns; j++)
                out[j] += v * panel[k][j];
        }
    }
}

static void clear(float *y, int64_t ldy, int64_t m, int64_t n) {
    for (int64_t i = 0; i < m; i++)
        memset(y + i * ldy, 0, (size_t)n * sizeof *y);
}

static void gemm_in_out(const struct matrix *w, int64_t n_begin, int64_t n_end, const float *x, int64_t ldx, int64_t m,
                        float *y, int64_t ldy, bool accumulate, void *scratch) {
    panel_row *panel = scratch;
    if (!accumulate)
        clear(y + n_begin, ldy, m, n_end - n_begin);
    for (int64_t j0 = n_begin; j0 < n_end; j0 += PANEL_COLUMNS) {
        const int64_t columns = n_end - j0 < PANEL_COLUMNS ? n_end - j0 : PANEL_COLUMNS;
        for (int64_t k0 = 0; k0 < w->k; k0 += PANEL_K) {
            const int64_t depth = w->k - k0 < PANEL_K ? w->k - k0 : PANEL_K;
            for (int64_t k = 0; k < depth; k++)
                widen_part(panel[k], w, k0 + k, j0, columns);
            add_panel((const panel_row *)panel, depth, columns, x + k0, ldx, m, y + j0, ldy);
        }
    }
}

static void kv_q8(bool keys, const struct kv_q8 *w, const float *x, int64_t ldx, int64_t m, float *y, int64_t ldy,
                  bool accumulate, void *scratch) {
    panel_row *panel = scratch;
    if (!accumulate)
        clear(y, ldy, m, w->n);
    for (int64_t j0 = 0; j0 < w->n; j0 += PANEL_COLUMNS) {
        const int64_t columns = w->n - j0 < PANEL_COLUMNS ? w->n - j0 : PANEL_COLUMNS;
        for (int64_t k0 = 0; k0 < w->k; k0 += PANEL_K) {
            const int64_t depth = w->k - k0 < PANEL_K ? w->k - k0 : PANEL_K;
            for (int64_t k = k0; k < k0 + depth; k++)
                for (int64_t j = j0; j < j0 + columns; j++) {
                    const int64_t block = (keys ? k : j) / KV_Q8_BLOCK, slot = keys ? j : k;
                    const float scale = f16_to_f32(w->scales[block * w->scales_stride + slot]);
                    panel[k - k0][j - j0] = (float)w->quants[k * w->stride + j] * scale;
                }
            add_panel((const panel_row *)panel, depth, columns, x + k0, ldx, m, y + j0, ldy);
        }
    }
}

static void kv_q8_keys(const struct kv_q8 *w, const float *x, int64_t ldx, int64_t m, float *y, int64_t ldy,
                       bool accumulate, void *scratch) {
    kv_q8(true, w, x, ldx, m, y, ldy, accumulate, scratch);
}

static void kv_q8_values(const struct kv_q8 *w, const float *x, int64_t ldx, int64_t m, float *y, int64_t ldy,
                         bool accumulate, void *scratch) {
    kv_q8(false, w, x, ldx, m, y, ldy, accumulate, scratch);
}

static void rms_norm(float *y, const float *x, const float *weight, int64_t n, float eps) {
    float acc[LANES] = {0};
    dot_add(acc, x, x, n);
    const float inv = 1.0f / sqrtf(lanes_sum(acc) / (float)n + eps);
    for (int64_t i = 0; i < n; i++)
        y[i] = weight ? x[i] * inv * weight[i] : x[i] * inv;
}

static void swiglu(float *out, const float *gate, const float *up, int64_t n) {
    for (int64_t i = 0; i < n; i++)
        out[i] = gate[i] / (1.0f + expf(-gate[i])) * up[i];
}

static void add(float *y, const float *x, int64_t n) {
    for (int64_t i = 0; i < n; i++)
        y[i] += x[i];
}

static void scale(float *y, const float *x, float a, int64_t n) {
    for (int64_t i = 0; i < n; i++)
        y[i] = x[i] * a;
}

static float max(const float *x, int64_t n) {
    float best = x[0];
    for (int64_t i = 1; i < n; i++)
        best = x[i] > best ? x[i] : best;
    return best;
}

static float exp_sum(float *y, const float *x, int64_t n, float bias) {
    float acc[LANES] = {0};
    for (int64_t i = 0; i < n; i++) {
        const float e = expf(x[i] - bias);
        acc[i % LANES] += e;
        if (y)
            y[i] = e;
    }
    return lanes_sum(acc);
}

static void rope(float *x, const float *cos, const float *sin, int64_t n) {
    for (int64_t j = 0; j < n / 2; j++) {
        const float a = x[2 * j], b = x[2 * j + 1];
        x[2 * j] = a * cos[j] - b * sin[j];
        x[2 * j + 1] = a * sin[j] + b * cos[j];
    }
}

void kernels_fill_ref(struct kernels *table) {
    for (int type = 0; type < DT_N_WEIGHT_TYPES; type++) {
        table->gemm[type][MATRIX_OUT_IN] = gemm_out_in;
        table->gemm[type][MATRIX_IN_OUT] = gemm_in_out;
    }
    table->kv_q8_keys = kv_q8_keys;
    table->kv_q8_values = kv_q8_values;
    table->widen[DT_F32] = widen_f32;
    table->widen[DT_F16] = widen_f16;
    table->widen[DT_BF16] = widen_bf16;
    table->rms_norm = rms_norm;
    table->swiglu = swiglu;
    table->add = add;
    table->scale = scale;
    table->max = max;
    table->exp_sum = exp_sum;
    table->rope = rope;
}
