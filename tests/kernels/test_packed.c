/* Packed weights: packing loses nothing; every kernel variant of this processor is right, invariant (bit for bit) and
 * robust at the edges.  Plain C, cross-built too.  test_packed [--quick | --bench [TYPE]] */
#include <float.h>
#include <math.h>
#include <string.h>

#include "core/format/dequant.h"
#include "core/kernels/bf16_rows.h"
#include "core/kernels/gemm.h"
#include "core/kernels/packed.h"
#include "core/kernels/quantized_rows.h"
#include "core/kernels/variants.h"
#include "tests/kernels/bench_packed.h"
#include "tests/kernels/check.h"

static bool quick;

/* ---- packing ---- */
static void test_sizes(void) {
    size_t bytes;
    for (int t = 0; t < N_PACKED_TYPES; t++) {
        const enum dtype type = PACKED[t];
        check(packed_has_type(type), "%s can be packed", dtype_name(type));
        check(packed_bytes(type, 5120, 5120, &bytes) &&
                  (double)bytes <= 1.02 * (double)dtype_bytes(type, (int64_t)5120 * 5120),
              "%s: packed, a matrix is more than 2%% larger", dtype_name(type));
        check(packed_bytes(type, 17, 256, &bytes) && bytes == 2 * packed_panel_bytes(type, 256),
              "%s: 17 columns are two panels", dtype_name(type));
        check(!packed_bytes(type, 16, 0, &bytes) && packed_bytes(type, 16, 40, &bytes) == (type == DT_BF16) &&
                  !packed_bytes(type, -1, 256, &bytes) && !packed_bytes(type, INT64_MAX, 1 << 20, &bytes) &&
                  !packed_bytes(type, INT64_MAX, INT64_MAX - 255, &bytes),
              "%s: impossible sizes", dtype_name(type));
    }
    check(!packed_has_type(DT_F32) && !packed_has_type(DT_Q2_K) && !packed_bytes(DT_F32, 16, 256, &bytes),
          "types that cannot be packed");
}

static void test_widen(enum dtype type, int64_t n, int64_t k) {
    struct weights weights = random_weights(type, n, k);
    const int64_t k0 = rng_in(0, k / 32 - 1) * 32, part = rng_in(1, (k - k0) / 32) * 32;
    const int64_t column = rng_in(0, (n - 1) / 16) * 16, columns = rng_in(1, n - column);
    const int64_t stride = part + rng_in(0, 3);
    float *out = allocate(columns * stride + 1, sizeof *out);
    for (int64_t i = 0; i <= columns * stride; i++)
        out[i] = CANARY;
    packed_widen(&weights.packed, column, columns, k0, part, out, stride);
    bool ok = out[columns * stride] == CANARY;
    for (int64_t j = 0; j < columns; j++)
        for (int64_t i = 0; i < stride; i++)
            ok = ok && out[j * stride + i] == (i < part ? weights.f32[(column + j) * k + k0 + i] : CANARY);
    check(ok, "packed_widen %s n=%lld k=%lld: not what dequantize_row says", dtype_name(type), (long long)n,
          (long long)k);
    free_weights(&weights), free(out);
}

/* [in, out] rows and [out, in] rows of the same matrix pack to the same bytes. */
static void test_pack_in_out(void) {
    for (int i = 0; i < 40; i++) {
        const int64_t n = rng_in(1, 70), k = rng_in(1, 90), stride = n + rng_in(0, 3);
        uint16_t *in_out = allocate(k * stride, sizeof *in_out), *out_in = allocate(n * k, sizeof *out_in);
        for (int64_t at = 0; at < k * stride; at++)
            in_out[at] = (uint16_t)rng();
        for (int64_t at = 0; at < n * k; at++)
            out_in[at] = in_out[at % k * stride + at / k];
        size_t bytes;
        if (!packed_bytes(DT_BF16, n, k, &bytes))
            exit(2);
        char *expected = allocate((int64_t)bytes, 1), *panels = allocate((int64_t)bytes, 1);
        memset(panels, 1, bytes);
        for (int64_t j = 0; j < n; j += PANEL_COLUMNS)
            pack_panel(DT_BF16, out_in + j * k, (size_t)k * 2, (int)(n - j < PANEL_COLUMNS ? n - j : PANEL_COLUMNS), k,
                       expected + (size_t)(j / PANEL_COLUMNS) * packed_panel_bytes(DT_BF16, k));
        pack_panels_in_out(in_out, (size_t)stride * 2, n, k, panels);
        check(memcmp(panels, expected, bytes) == 0, "pack_panels_in_out n=%lld k=%lld", (long long)n, (long long)k);
        free(in_out), free(out_in), free(expected), free(panels);
    }
}

/* ---- activations ---- */
struct rows {
    struct quantized_rows q;
    float *x;
    double *rounded; /* what the integers stand for */
};

static void *allocate_rows(enum dtype type, int64_t m, int64_t k) {
    return allocate((int64_t)(type == DT_BF16 ? bf16_rows_bytes : quantized_rows_bytes)(m, k), 1);
}
static void prepare_rows(const struct kernels *kernels, enum dtype type, const float *x, int64_t ldx, int64_t begin,
                         int64_t end, const struct quantized_rows *out) {
    (type == DT_BF16 ? kernels->round_rows : kernels->quantize_rows)(x, ldx, begin, end, out);
}

static struct rows random_rows(const struct kernels *kernels, enum dtype type, int64_t m, int64_t k) {
    struct rows rows = {.q = {NULL, m, k}};
    rows.x = random_floats(m * k);
    for (int64_t i = 0; i < m * k; i++) /* now and then a large one */
        rows.x[i] *= rng() % 64 ? 1.0f : 20.0f;
    rows.q.data = allocate_rows(type, m, k);
    rows.rounded = allocate(m * k, sizeof *rows.rounded);
    prepare_rows(kernels, type, rows.x, k, 0, m, &rows.q);
    for (int64_t i = 0; i < m * k && type == DT_BF16; i++)
        rows.rounded[i] = (double)bf16_to_f32(((const uint16_t *)rows.q.data)[i / k * bf16_rows_stride(k) + i % k]);
    for (int64_t i = 0; i < m * k && type != DT_BF16; i++) {
        const int64_t row = i / k, at = i % k, r = row % QROWS_TILE, in_part = at % QROWS_PART;
        const struct qrows_part part = qrows_part(&rows.q, row - r, at / QROWS_PART);
        const int8_t q = part.q[(in_part / QROWS_BLOCK * part.rows + r) * QROWS_BLOCK + in_part % QROWS_BLOCK];
        rows.rounded[i] = (double)q * (double)part.scale[r];
    }
    return rows;
}

static void free_rows(struct rows *rows) {
    free(rows->q.data), free(rows->x), free(rows->rounded);
}

/* Every field of one part of one row against its definition; x may hold anything. */
static bool part_is_right(const struct quantized_rows *q, const float *x, int64_t row, int64_t at, int64_t n) {
    const int64_t r = row % QROWS_TILE;
    const struct qrows_part part = qrows_part(q, row - r, at / QROWS_PART);
    float largest = 0;
    bool finite = true;
    for (int64_t i = 0; i < n; i++) {
        finite = finite && isfinite(x[i]);
        largest = fmaxf(largest, fabsf(x[i]));
    }
    const float scale = part.scale[r];
    bool ok = finite ? scale >= 0 && fabs((double)scale * 127 - (double)largest) <= (double)largest * 1e-6 + 0x1p-100
                     : (bool)isnan(scale);
    for (int64_t b = 0; b < n / QROWS_BLOCK; b++) {
        const int8_t *values = part.q + (b * part.rows + r) * QROWS_BLOCK;
        int sums[2] = {0, 0};
        for (int i = 0; i < QROWS_BLOCK; i++) {
            sums[i / 16] += values[i];
            const double error = finite ? fabs((double)x[b * QROWS_BLOCK + i] - (double)values[i] * (double)scale)
                                        : (double)abs(values[i]);
            ok = ok && values[i] >= -127 && error <= (finite ? (double)scale * 0.50001 + 0x1p-100 : 0);
        }
        ok = ok && part.sum[b * part.rows + r] == (float)(sums[0] + sums[1]);
        ok = ok && part.bias32[b * part.rows + r] == -128 * (sums[0] + sums[1]);
        ok = ok && part.bias16[2 * b * part.rows + r] == -128 * sums[0];
        ok = ok && part.bias16[(2 * b + 1) * part.rows + r] == -128 * sums[1];
    }
    return ok;
}

static void test_quantize_rows(const struct kernels *kernels) {
    static const float SPECIAL[] = {0,        NAN,     INFINITY,  -INFINITY, FLT_MAX,
                                    -FLT_MAX, FLT_MIN, 0x1p-149f, 0x1p-101f, -0.0f};
    for (int i = 0; i < 60; i++) {
        const int64_t m = rng_in(1, 80), k = rng_in(1, 12) * 32, ldx = k + rng_in(0, 3);
        float *x = random_floats(m * ldx);
        for (int64_t at = 0; at < m * ldx; at++)
            if (i % 2 && rng() % 300 == 0)
                x[at] = SPECIAL[rng() % (sizeof SPECIAL / sizeof *SPECIAL)];
        for (int64_t at = 0; at < ldx; at++) /* one row of nothing, or of next to nothing */
            x[at] = i % 4 < 2 ? 0 : x[at] * 0x1p-130f;
        struct quantized_rows q = {allocate((int64_t)quantized_rows_bytes(m, k), 1), m, k};
        const int64_t cut = rng_in(0, m);
        kernels->quantize_rows(x, ldx, cut, m, &q);
        kernels->quantize_rows(x, ldx, 0, cut, &q);
        bool ok = true;
        for (int64_t row = 0; row < m; row++)
            for (int64_t at = 0; at < k; at += QROWS_PART)
                ok = ok && part_is_right(&q, x + row * ldx + at, row, at, k - at < QROWS_PART ? k - at : QROWS_PART);
        check(ok, "%s quantize_rows m=%lld k=%lld", kernels->name, (long long)m, (long long)k);
        free(x), free(q.data);
    }
}

/* The nearest of the two neighbours in bf16, the even one of two as near; nothing else written. */
static void test_round_rows(const struct kernels *kernels) {
    static const struct {
        uint32_t x;
        uint16_t bf16;
    } CASES[] = {{0, 0},
                 {0x80000000, 0x8000},
                 {0x3f800000, 0x3f80},
                 {0x3f807fff, 0x3f80},
                 {0x3f808000, 0x3f80}, /* ties */
                 {0x3f818000, 0x3f82},
                 {0x3f808001, 0x3f81},
                 {0xbf818000, 0xbf82},
                 {0x3fffffff, 0x4000}, /* carries into the exponent */
                 {0x7f7fffff, 0x7f80}, /* too large */
                 {0x7f7f7fff, 0x7f7f},
                 {0x7f800000, 0x7f80},
                 {0xff800000, 0xff80},
                 {0x7fc00000, 0x7fc0},
                 {0x7f800001, 0x7fc0}, /* NaN whose upper half is infinity's */
                 {0xffffffff, 0xffff}};
    enum { N_CASES = sizeof CASES / sizeof *CASES };
    for (int i = 0; i < 40; i++) {
        const int64_t m = rng_in(1, 20), k = rng_in(1, 150), ldx = k + rng_in(0, 3), stride = bf16_rows_stride(k);
        float *x = allocate(m * ldx, sizeof *x);
        uint16_t *expected = allocate(m * stride, sizeof *expected);
        struct quantized_rows q = {allocate_rows(DT_BF16, m, k), m, k};
        memset(q.data, 0x55, bf16_rows_bytes(m, k));
        memset(expected, 0x55, bf16_rows_bytes(m, k));
        for (int64_t at = 0; at < m * k; at++) {
            const int c = (int)(rng() % N_CASES);
            memcpy(x + at / k * ldx + at % k, &CASES[c].x, sizeof *x);
            expected[at / k * stride + at % k] = CASES[c].bf16;
        }
        for (int64_t row = 0; row < m && k % 2; row++)
            expected[row * stride + k] = 0;
        const int64_t cut = rng_in(0, m);
        kernels->round_rows(x, ldx, cut, m, &q);
        kernels->round_rows(x, ldx, 0, cut, &q);
        check(stride >= k + k % 2 && memcmp(q.data, expected, bf16_rows_bytes(m, k)) == 0,
              "%s round_rows m=%lld k=%lld", kernels->name, (long long)m, (long long)k);
        free(x), free(expected), free(q.data);
    }
}

/* ---- the properties of a product; functions of their own so that a broken kernel can be held against them ---- */

/* One random shape against double precision on the rounded activations; also that nothing else is written. */
static bool qgemm_is_right(const struct kernels *kernels, qgemm_fn *qgemm, enum dtype type, int64_t m, int64_t n,
                           int64_t k) {
    struct weights weights = random_weights(type, n, k);
    struct rows rows = random_rows(kernels, type, m, k);
    const int64_t ldy = n + rng_in(0, 3);
    const int64_t n_begin = rng_in(0, 2) ? 0 : rng_in(0, n - 1), n_end = rng_in(0, 2) ? n : rng_in(n_begin, n);
    const int64_t row_begin = rng_in(0, (m - 1) / QROWS_TILE) * QROWS_TILE;
    const bool accumulate = rng() % 2;
    float *before = random_floats(m * ldy), *y = allocate(m * ldy, sizeof *y);
    for (int64_t i = 0; i < m * ldy; i++) {
        const int64_t j = i % ldy;
        if (i / ldy < row_begin || j < n_begin || j >= n_end || !accumulate)
            before[i] = CANARY;
        y[i] = before[i];
    }
    qgemm(&weights.packed, n_begin, n_end, &rows.q, row_begin, m, y, ldy, accumulate);
    bool ok = true;
    for (int64_t i = 0; i < m * ldy && ok; i++) {
        const int64_t row = i / ldy, j = i % ldy;
        if (row < row_begin || j < n_begin || j >= n_end) {
            ok = y[i] == CANARY;
            continue;
        }
        double sum = accumulate ? (double)before[i] : 0, magnitude = fabs(sum);
        for (int64_t at = 0; at < k; at++) {
            const double product = rows.rounded[row * k + at] * (double)weights.f32[j * k + at];
            sum += product;
            magnitude += fabs(product);
        }
        /* a K type's value is a difference of two terms that may be ten times as large as it */
        ok = fabs((double)y[i] - sum) <= (4 + sqrt((double)k)) * 0x1p-23 * magnitude;
    }
    free_weights(&weights), free_rows(&rows), free(before), free(y);
    return ok;
}

/* Scales of 1 and small integers in x: no step rounds, so the result is exact. */
static bool qgemm_is_exact(const struct kernels *kernels, qgemm_fn *qgemm, enum dtype type, int64_t m, int64_t n,
                           int64_t k) {
    struct weights weights = unit_weights(type, n, k);
    float *x = allocate(m * k, sizeof *x), *y = allocate(m * n, sizeof *y);
    for (int64_t i = 0; i < m * k; i++)
        x[i] = i % k % QROWS_PART == i % 32 ? (float)(rng() % 2 ? 127 : -127) : (float)rng_in(-9, 9);
    struct quantized_rows q = {allocate_rows(type, m, k), m, k};
    prepare_rows(kernels, type, x, k, 0, m, &q);
    qgemm(&weights.packed, 0, n, &q, 0, m, y, n, false);
    bool ok = true;
    for (int64_t i = 0; i < m * n; i++) {
        double sum = 0;
        for (int64_t at = 0; at < k; at++)
            sum += (double)x[i / n * k + at] * (double)weights.f32[i % n * k + at];
        ok = ok && (double)y[i] == sum;
    }
    free_weights(&weights), free(x), free(y), free(q.data);
    return ok;
}

/* Rows computed together, and the same rows in other company and with the columns cut elsewhere. */
static bool qgemm_is_invariant(const struct kernels *kernels, qgemm_fn *qgemm, enum dtype type, int64_t m, int64_t n,
                               int64_t k, bool accumulate) {
    struct weights weights = random_weights(type, n, k);
    struct rows rows = random_rows(kernels, type, m, k);
    float *start = random_floats(m * n), *y = allocate(m * n, sizeof *y), *again = allocate(m * n, sizeof *again);
    memcpy(y, start, (size_t)(m * n) * sizeof *y);
    qgemm(&weights.packed, 0, n, &rows.q, 0, m, y, n, accumulate);
    bool ok = true;
    for (int64_t count = 1; count < m; count += 1 + count / 3) {
        const int64_t first = rng_in(0, m - count), a = rng_in(0, n), b = rng_in(a, n);
        struct quantized_rows q = {allocate_rows(type, count, k), count, k};
        prepare_rows(kernels, type, rows.x + first * k, k, 0, count, &q);
        memcpy(again, start + first * n, (size_t)(count * n) * sizeof *y);
        qgemm(&weights.packed, a, b, &q, 0, count, again, n, accumulate);
        qgemm(&weights.packed, 0, a, &q, 0, count, again, n, accumulate);
        qgemm(&weights.packed, b, n, &q, 0, count, again, n, accumulate);
        ok = ok && memcmp(again, y + first * n, (size_t)(count * n) * sizeof *y) == 0;
        free(q.data);
    }
    free_weights(&weights), free_rows(&rows), free(start), free(y), free(again);
    return ok;
}

static void test_qgemm(const struct kernels *kernels, enum dtype type) {
    qgemm_fn *qgemm = kernels->qgemm[type];
    const int64_t unit = dtype_block_elements(type);
    for (int i = 0; i < (quick ? 25 : 100); i++) {
        const int64_t m = rng_in(1, i % 4 ? 9 : 70), n = rng_in(1, i % 4 ? 40 : 100);
        const int64_t k = unit == 1 ? rng_in(1, i % 4 ? 300 : 1500) : rng_in(1, unit == 32 ? 20 : 4) * unit;
        check(qgemm_is_right(kernels, qgemm, type, m, n, k),
              "%s qgemm %s m=%lld n=%lld k=%lld: not within rounding of double precision", kernels->name,
              dtype_name(type), (long long)m, (long long)n, (long long)k);
    }
    for (int i = 0; i < 8; i++)
        check(qgemm_is_exact(kernels, qgemm, type, rng_in(1, 40), rng_in(1, 40),
                             i % 2       ? 256
                             : unit == 1 ? 33
                                         : unit),
              "%s qgemm %s: integer sums are not exact", kernels->name, dtype_name(type));
    const int64_t sizes[][3] = {{21, 37, 256}, {70, 70, 512}, {33, 100, 256}, {97, 21, 768}, {9, 16, 1024}};
    for (size_t i = 0; i < 2 * sizeof sizes / sizeof *sizes; i++) {
        const int64_t *s = sizes[i / 2], k = s[2] + (unit == 32 ? rng_in(0, 3) * 32 : unit == 1 ? rng_in(0, 9) : 0);
        check(qgemm_is_invariant(kernels, qgemm, type, s[0], s[1], k, i % 2),
              "%s qgemm %s m=%lld n=%lld k=%lld: bits depend on the other rows or columns", kernels->name,
              dtype_name(type), (long long)s[0], (long long)s[1], (long long)k);
    }
}

/* Every variant adds bf16 products in the same order, each sum rounded once. */
static bool bf16_has_bits_of_ref(const struct kernels *kernels, qgemm_fn *qgemm, int64_t m, int64_t n, int64_t k,
                                 bool accumulate) {
    struct weights weights = random_weights(DT_BF16, n, k);
    struct rows rows = random_rows(kernels, DT_BF16, m, k);
    float *y = random_floats(m * n), *expected = allocate(m * n, sizeof *expected);
    memcpy(expected, y, (size_t)(m * n) * sizeof *y);
    qgemm(&weights.packed, 0, n, &rows.q, 0, m, y, n, accumulate);
    kernels_by_name("ref")->qgemm[DT_BF16](&weights.packed, 0, n, &rows.q, 0, m, expected, n, accumulate);
    const bool ok = memcmp(y, expected, (size_t)(m * n) * sizeof *y) == 0;
    free_weights(&weights), free_rows(&rows), free(y), free(expected);
    return ok;
}

static void test_bf16_same_bits(const struct kernels *kernels) {
    for (int i = 0; i < (quick ? 10 : 40); i++) {
        const int64_t m = rng_in(1, 60), n = rng_in(1, 70), k = rng_in(1, 1200);
        check(bf16_has_bits_of_ref(kernels, kernels->qgemm[DT_BF16], m, n, k, i % 2),
              "%s qgemm BF16 m=%lld n=%lld k=%lld: other bits than the reference", kernels->name, (long long)m,
              (long long)n, (long long)k);
    }
}

/* A number that is none spoils its own row, wholly, and no other (bf16 has infinity); zeros give zero. */
static void test_qgemm_special(const struct kernels *kernels, enum dtype type) {
    enum { M = 37, N = 21, K = 512 };
    struct weights weights = random_weights(type, N, K);
    float *x = random_floats(M * K), *y = random_floats(M * N);
    struct quantized_rows q = {allocate_rows(type, M, K), M, K};
    x[3 * K + 200] = NAN;
    x[33 * K + 511] = INFINITY;
    memset(x + 7 * K, 0, K * sizeof *x);
    prepare_rows(kernels, type, x, K, 0, M, &q);
    kernels->qgemm[type](&weights.packed, 0, N, &q, 0, M, y, N, false);
    bool ok = true;
    for (int64_t i = 0; i < M * N; i++)
        ok = ok && (i / N == 3    ? isnan(y[i])
                    : i / N == 33 ? (type == DT_BF16 ? !isfinite(y[i]) : isnan(y[i]))
                    : i / N == 7  ? y[i] == 0
                                  : isfinite(y[i]));
    check(ok, "%s qgemm %s: NaN, infinity or a row of zeros", kernels->name, dtype_name(type));
    free_weights(&weights), free(x), free(y), free(q.data);
}

/* ---- kernels broken on purpose: the checks above must reject them ---- */
static qgemm_fn *sound;

/* One rounding more for more than four rows: right, but not invariant. */
static void broken_rounding(const struct matrix *w, int64_t n_begin, int64_t n_end, const struct quantized_rows *x,
                            int64_t row_begin, int64_t row_end, float *y, int64_t ldy, bool accumulate) {
    sound(w, n_begin, n_end, x, row_begin, row_end, y, ldy, accumulate);
    if (x->m <= 4)
        return;
    for (int64_t i = row_begin; i < row_end; i++)
        for (int64_t j = n_begin; j < n_end; j++)
            y[i * ldy + j] = nextafterf(y[i * ldy + j], 0);
}

/* One column too many. */
static void broken_edge(const struct matrix *w, int64_t n_begin, int64_t n_end, const struct quantized_rows *x,
                        int64_t row_begin, int64_t row_end, float *y, int64_t ldy, bool accumulate) {
    sound(w, n_begin, n_end < w->n ? n_end + 1 : n_end, x, row_begin, row_end, y, ldy, accumulate);
}

/* One product of one output is one off. */
static void broken_sum(const struct matrix *w, int64_t n_begin, int64_t n_end, const struct quantized_rows *x,
                       int64_t row_begin, int64_t row_end, float *y, int64_t ldy, bool accumulate) {
    sound(w, n_begin, n_end, x, row_begin, row_end, y, ldy, accumulate);
    y[row_begin * ldy + n_begin] += 1;
}

static void test_checks_can_fail(const struct kernels *kernels) {
    sound = kernels->qgemm[DT_Q8_0];
    check(qgemm_is_right(kernels, broken_rounding, DT_Q8_0, 9, 33, 512) &&
              !qgemm_is_invariant(kernels, broken_rounding, DT_Q8_0, 9, 33, 512, false),
          "%s: a kernel whose bits change with the rows was let through", kernels->name);
    check(!qgemm_is_exact(kernels, broken_sum, DT_Q8_0, 3, 20, 256), "%s: a wrong sum was let through", kernels->name);
    bool caught = false;
    for (int i = 0; i < 50; i++)
        caught = caught || !qgemm_is_right(kernels, broken_edge, DT_Q8_0, 3, 20, 64);
    check(caught, "%s: a kernel that writes beyond its columns was let through", kernels->name);
    sound = kernels->qgemm[DT_BF16];
    check(!qgemm_is_invariant(kernels, broken_rounding, DT_BF16, 9, 33, 512, false) &&
              !bf16_has_bits_of_ref(kernels, broken_rounding, 9, 33, 512, false) &&
              !qgemm_is_exact(kernels, broken_sum, DT_BF16, 3, 20, 33),
          "%s: a wrong bf16 product was let through", kernels->name);
    qgemm_fn *other = kernels->qgemm[DT_Q4_0]; /* reads Q8_0's bytes as something else */
    check(!qgemm_is_right(kernels, other, DT_Q8_0, 3, 20, 64), "%s: the wrong type's kernel was let through",
          kernels->name);
}

/* ---- gemm_run ---- */

/* y of one task, row by row from the kernel itself (tolerance 0) or from the widened weights. */
static bool task_matches(const struct kernels *kernels, const struct gemm_task *task, const struct weights *weights,
                         double tolerance) {
    float *row = allocate(task->w.n, sizeof *row);
    struct quantized_rows q = {allocate_rows(task->w.type, 1, task->w.k), 1, task->w.k};
    bool ok = true;
    for (int64_t i = 0; i < task->m; i++) {
        const float *x = task->x + i * task->ldx, *y = task->y + i * task->ldy;
        for (int64_t j = 0; j < task->w.n; j++)
            row[j] = task->bias ? task->bias[j] : 0;
        if (tolerance == 0) {
            prepare_rows(kernels, task->w.type, x, task->ldx, 0, 1, &q);
            kernels->qgemm[task->w.type](&task->w, 0, task->w.n, &q, 0, 1, row, task->w.n, task->bias != NULL);
            ok = ok && memcmp(y, row, (size_t)task->w.n * sizeof *row) == 0;
            continue;
        }
        for (int64_t j = 0; j < task->w.n; j++) {
            double sum = (double)row[j], magnitude = fabs(sum);
            for (int64_t at = 0; at < task->w.k; at++) {
                const double product = (double)x[at] * (double)weights->f32[j * task->w.k + at];
                sum += product;
                magnitude += fabs(product);
            }
            ok = ok && fabs((double)y[j] - sum) <= tolerance * magnitude;
        }
    }
    free(row), free(q.data);
    return ok;
}

static void run_lists(const struct exec *exec, int n, int64_t max_m, int64_t max_n) {
    struct gemm_task *tasks = allocate(n, sizeof *tasks);
    struct weights *weights = allocate(n, sizeof *weights);
    float *bias = random_floats(max_n), *x = random_floats((max_m + 1) * 1100);
    for (int t = 0; t < n; t++) {
        struct gemm_task *task = &tasks[t];
        if (t > 0 && rng() % 2) /* the input of the task before */
            *task = tasks[t - 1];
        else
            *task = (struct gemm_task){
                .x = x + rng_in(0, 64), .m = rng_in(0, max_m), .ldx = rng_in(1024, 1030), .w.k = rng_in(1, 4) * 256};
        weights[t] = random_weights(PACKED[rng_in(0, N_PACKED_TYPES - 1)], rng_in(1, max_n), task->w.k);
        task->w = weights[t].packed;
        task->ldy = task->w.n + rng_in(0, 2);
        task->y = random_floats(task->m * task->ldy);
        task->bias = rng() % 2 ? bias : NULL;
    }
    for (int impl = 0; gemm_impl_names()[impl]; impl++) {
        for (int t = 0; t < n; t++)
            tasks[t].impl = (enum gemm_impl)impl;
        bool ok = gemm_run(exec, tasks, n) == L4_OK;
        for (int t = 0; t < n; t++)
            ok = ok && task_matches(exec->kernels, &tasks[t], &weights[t], impl == GEMM_OWN ? 0 : 1e-5);
        check(ok, "%s gemm_run %s, %d threads, %d tasks up to m=%lld n=%lld", exec->kernels->name,
              gemm_impl_names()[impl], pool_n_threads(exec->pool), n, (long long)max_m, (long long)max_n);
    }
    for (int t = 0; t < n; t++)
        free_weights(&weights[t]), free(tasks[t].y);
    free(tasks), free(weights), free(bias), free(x);
}

static void test_gemm_run(const struct kernels *kernels, int n_threads) {
    struct l4_err err;
    struct pool *pool;
    struct arena arena = {0};
    if (pool_open(&pool, n_threads, GEMM_SCRATCH_BYTES, &err) != L4_OK) {
        check(false, "pool_open: %s", err.message);
        return;
    }
    const struct exec exec = {.pool = pool, .kernels = kernels, .arena = &arena};
    run_lists(&exec, 1, 1, 600);
    run_lists(&exec, 2, 150, 90);
    run_lists(&exec, 9, 40, 70);
    run_lists(&exec, quick ? 30 : 300, 1, 20);
    pool_close(pool);
    arena_fini(&arena);
}

#if defined(__x86_64__)
/* What kernels_get never picks where there is something better. */
static void test_avx512_without_bf16(void) {
    const struct kernels *avx512 = kernels_by_name("avx512");
    if (!avx512) {
        printf("avx512 without bf16: this processor has no AVX-512\n");
        return;
    }
    struct kernels plain = *avx512;
    plain.name = "avx512 without bf16";
    kernels_fill_bf16_avx512(&plain);
    test_round_rows(&plain);
    test_bf16_same_bits(&plain);
    test_qgemm(&plain, DT_BF16);
    test_qgemm_special(&plain, DT_BF16);
}
#endif

int main(int argc, char **argv) {
    if (argc > 1 && strcmp(argv[1], "--bench") == 0)
        return bench_packed(argc > 2 ? argv[2] : NULL);
    quick = argc > 1 && strcmp(argv[1], "--quick") == 0;
    if (argc > 2 || (argc == 2 && !quick)) {
        printf("usage: test_packed [--quick | --bench [TYPE]]\n");
        return 2;
    }
    test_sizes();
    test_pack_in_out();
    for (int t = 0; t < N_PACKED_TYPES; t++)
        for (int i = 0; i < 20; i++)
            test_widen(PACKED[t], rng_in(1, 50),
                       rng_in(1, dtype_block_elements(PACKED[t]) < 256 ? 20 : 4) *
                           (dtype_block_elements(PACKED[t]) < 256 ? 32 : 256));
    for (int i = 0; kernels_names()[i]; i++) {
        const struct kernels *kernels = kernels_by_name(kernels_names()[i]);
        const int before = n_passed + n_failed;
        test_quantize_rows(kernels);
        test_round_rows(kernels);
        test_bf16_same_bits(kernels);
        for (int t = 0; t < N_PACKED_TYPES; t++) {
            test_qgemm(kernels, PACKED[t]);
            test_qgemm_special(kernels, PACKED[t]);
        }
        test_checks_can_fail(kernels);
        for (int threads = 1; threads <= (quick ? 2 : 4); threads += threads)
            test_gemm_run(kernels, threads);
        printf("%s: %d checks\n", kernels->name, n_passed + n_failed - before);
    }
#if defined(__x86_64__)
    test_avx512_without_bf16();
#endif
    printf("%d passed, %d failed\n", n_passed, n_failed);
    return n_failed != 0;
}
