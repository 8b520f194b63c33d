/* Every kernel variant of this processor: right (against double precision), invariant (bit for bit), robust at the
 * edges.  Plain C with only core/base, core/kernels and tensor.c behind it, so that it is cross-built and run under an
 * emulator too.  test_kernels [--quick] */
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/kernels/gemm.h"
#include "tests/kernels/bench_kernels.h"
#include "tests/kernels/check.h"

static float element(enum dtype type, const void *data, int64_t i) {
    return type == DT_F32   ? ((const float *)data)[i]
           : type == DT_F16 ? f16_to_f32(((const uint16_t *)data)[i])
                            : bf16_to_f32(((const uint16_t *)data)[i]);
}

/* A random matrix with a ragged stride; data owned by the caller. */
static struct matrix random_matrix(enum dtype type, enum matrix_layout layout, int64_t n, int64_t k, void **data) {
    const int64_t rows = layout == MATRIX_OUT_IN ? n : k, columns = layout == MATRIX_OUT_IN ? k : n;
    struct matrix w = {.type = type, .layout = layout, .n = n, .k = k, .stride = columns + rng_in(0, 5)};
    const int64_t elements = rows * w.stride, shift = rng_in(0, 3); /* aligned to the element only */
    if (type == DT_F32) {
        *data = random_floats(elements + shift);
        w.data = (float *)*data + shift;
        return w;
    }
    uint16_t *bits = *data = allocate(elements + shift, sizeof *bits);
    for (int64_t i = 0; i < elements + shift; i++) { /* |value| in [2^-7, 2) with either type */
        const uint32_t r = rng();
        const uint32_t exponent = type == DT_F16 ? 8 + r % 8 : 120 + r % 8;
        bits[i] = (uint16_t)((r >> 16 & 0x8000) | exponent << (type == DT_F16 ? 10 : 7) |
                             (r >> 8 & (type == DT_F16 ? 0x3ff : 0x7f)));
    }
    w.data = bits + shift;
    return w;
}

static float weight(const struct matrix *w, int64_t j, int64_t k) {
    return element(w->type, w->data, w->layout == MATRIX_OUT_IN ? j * w->stride + k : k * w->stride + j);
}

static bool quick;

/* ---- the two properties of a gemm; functions of their own so that a broken kernel can be held against them ---- */
static void *scratch;

/* One random shape against double precision; also that nothing else is written. */
static bool gemm_is_right(gemm_fn *gemm, enum dtype type, enum matrix_layout layout, int64_t m, int64_t n, int64_t k) {
    void *data;
    const struct matrix w = random_matrix(type, layout, n, k, &data);
    const int64_t ldx = k + rng_in(0, 3), ldy = n + rng_in(0, 3);
    const int64_t n_begin = rng_in(0, 2) ? 0 : rng_in(0, n - 1), n_end = rng_in(0, 2) ? n : rng_in(n_begin, n);
    const bool accumulate = rng() % 2;
    float *x = random_floats(m * ldx + 1), *before = random_floats(m * ldy), *y = allocate(m * ldy, sizeof *y);
    for (int64_t i = 0; i < m * ldy; i++) {
        const int64_t j = i % ldy;
        if (j < n_begin || j >= n_end || !accumulate)
            before[i] = CANARY;
        y[i] = before[i];
    }
    gemm(&w, n_begin, n_end, x + 1, ldx, m, y, ldy, accumulate, scratch);
    bool ok = true;
    for (int64_t i = 0; i < m * ldy && ok; i++) {
        const int64_t row = i / ldy, j = i % ldy;
        if (j < n_begin || j >= n_end) {
            ok = y[i] == CANARY;
            continue;
        }
        double sum = accumulate ? (double)before[i] : 0, magnitude = fabs(sum);
        for (int64_t at = 0; at < k; at++) {
            const double product = (double)x[1 + row * ldx + at] * (double)weight(&w, j, at);
            sum += product;
            magnitude += fabs(product);
        }
        ok = fabs((double)y[i] - sum) <= (4 + sqrt((double)k)) * 0x1p-24 * magnitude;
    }
    free(data), free(x), free(before), free(y);
    return ok;
}

/* Rows computed together, and the same rows in other company and with the columns cut elsewhere. */
static bool gemm_is_invariant(gemm_fn *gemm, enum dtype type, enum matrix_layout layout, int64_t m, int64_t n,
                              int64_t k, bool accumulate) {
    void *data;
    const struct matrix w = random_matrix(type, layout, n, k, &data);
    float *x = random_floats(m * k), *start = random_floats(m * n);
    float *y = allocate(m * n, sizeof *y), *again = allocate(m * n, sizeof *again);
    memcpy(y, start, (size_t)(m * n) * sizeof *y);
    gemm(&w, 0, n, x, k, m, y, n, accumulate, scratch);
    bool ok = true;
    for (int64_t i = 0; i < m; i++) { /* each row alone, columns in two or three calls */
        const int64_t a = rng_in(0, n), b = rng_in(a, n);
        memcpy(again, start + i * n, (size_t)n * sizeof *y);
        gemm(&w, a, b, x + i * k, k, 1, again, n, accumulate, scratch);
        gemm(&w, 0, a, x + i * k, k, 1, again, n, accumulate, scratch);
        gemm(&w, b, n, x + i * k, k, 1, again, n, accumulate, scratch);
        ok = ok && memcmp(again, y + i * n, (size_t)n * sizeof *y) == 0;
    }
    for (int64_t rows = 2; rows < m; rows += 1 + rows / 4) { /* batches of every size: each row comes to every place */
        const int64_t first = rng_in(0, m - rows), cut = rng_in(0, n);
        memcpy(again, start + first * n, (size_t)(rows * n) * sizeof *y);
        gemm(&w, 0, cut, x + first * k, k, rows, again, n, accumulate, scratch);
        gemm(&w, cut, n, x + first * k, k, rows, again, n, accumulate, scratch);
        ok = ok && memcmp(again, y + first * n, (size_t)(rows * n) * sizeof *y) == 0;
    }
    free(data), free(x), free(start), free(y), free(again);
    return ok;
}

static void test_gemm(const struct kernels *kernels) {
    const int shapes = quick ? 40 : 150;
    for (int type = DT_F32; type < DT_N_WEIGHT_TYPES; type++) {
        for (int layout = 0; layout < MATRIX_N_ROW_LAYOUTS; layout++) {
            gemm_fn *gemm = kernels->gemm[type][layout];
            for (int i = 0; i < shapes; i++) {
                const bool deep = i % 8 == 0, deeper = i % 16 == 9; /* beyond one block of K, the largest too */
                const int64_t m = rng_in(0, i % 4 ? 13 : 70), n = rng_in(1, i % 4 ? 40 : 150);
                const int64_t k = deep ? rng_in(500, 1100) : deeper ? rng_in(2049, 4200) : rng_in(0, 130);
                check(gemm_is_right(gemm, type, layout, m, n, k),
                      "%s gemm %s %s m=%lld n=%lld k=%lld: not within rounding of double precision", kernels->name,
                      dtype_name((enum dtype)type), LAYOUTS[layout], (long long)m, (long long)n, (long long)k);
            }
            const int64_t sizes[][3] = {{21, 37, 61},   {70, 70, 129}, {13, 300, 33}, {97, 21, 80}, {30, 65, 515},
                                        {19, 67, 1031}, {200, 9, 40},  {8, 1, 16},    {8, 20, 4301}};
            const size_t n_sizes = sizeof sizes / sizeof *sizes;
            for (size_t i = 0; i < 2 * n_sizes; i++) {
                const int64_t *s = sizes[i / 2];
                check(gemm_is_invariant(gemm, type, layout, s[0], s[1], s[2], i % 2),
                      "%s gemm %s %s m=%lld n=%lld k=%lld: bits depend on the other rows or columns", kernels->name,
                      dtype_name((enum dtype)type), LAYOUTS[layout], (long long)s[0], (long long)s[1], (long long)s[2]);
            }
        }
    }
}

/* ---- kernels broken on purpose: the checks above must reject them ---- */
static gemm_fn *sound_gemm;

/* The halves of K in the other order for more than four rows: right to rounding, not invariant. */
static void broken_order(const struct matrix *w, int64_t n_begin, int64_t n_end, const float *x, int64_t ldx, int64_t m,
                         float *y, int64_t ldy, bool accumulate, void *tmp) {
    if (m <= 4) {
        sound_gemm(w, n_begin, n_end, x, ldx, m, y, ldy, accumulate, tmp);
        return;
    }
    struct matrix front = *w, back = *w;
    const int64_t half = w->k / 2, skip = w->layout == MATRIX_OUT_IN ? half : half * w->stride;
    front.k = half;
    back.k = w->k - half;
    back.data = (const char *)w->data + (size_t)skip * dtype_size(w->type);
    sound_gemm(&back, n_begin, n_end, x + half, ldx, m, y, ldy, accumulate, tmp);
    sound_gemm(&front, n_begin, n_end, x, ldx, m, y, ldy, true, tmp);
}

/* Forgets the last input. */
static void broken_tail(const struct matrix *w, int64_t n_begin, int64_t n_end, const float *x, int64_t ldx, int64_t m,
                        float *y, int64_t ldy, bool accumulate, void *tmp) {
    struct matrix less = *w;
    less.k = w->k - 1;
    sound_gemm(&less, n_begin, n_end, x, ldx, m, y, ldy, accumulate, tmp);
}

/* Writes one column too many. */
static void broken_edge(const struct matrix *w, int64_t n_begin, int64_t n_end, const float *x, int64_t ldx, int64_t m,
                        float *y, int64_t ldy, bool accumulate, void *tmp) {
    sound_gemm(w, n_begin, n_end < w->n ? n_end + 1 : n_end, x, ldx, m, y, ldy, accumulate, tmp);
}

static void test_checks_can_fail(const struct kernels *kernels) {
    for (int layout = 0; layout < MATRIX_N_ROW_LAYOUTS; layout++) {
        sound_gemm = kernels->gemm[DT_F32][layout];
        check(gemm_is_right(broken_order, DT_F32, layout, 9, 33, 100) &&
                  !gemm_is_invariant(broken_order, DT_F32, layout, 9, 33, 100, false),
              "%s %s: a kernel whose order of sums changes with the rows was let through", kernels->name,
              LAYOUTS[layout]);
        bool tail_caught = false, edge_caught = false;
        for (int i = 0; i < 50; i++) { /* now and then there is no column to compute, or none beyond */
            tail_caught = tail_caught || !gemm_is_right(broken_tail, DT_F32, layout, 3, 20, 50);
            edge_caught = edge_caught || !gemm_is_right(broken_edge, DT_F32, layout, 3, 20, 50);
        }
        check(tail_caught, "%s %s: a kernel that forgets an input was let through", kernels->name, LAYOUTS[layout]);
        check(edge_caught, "%s %s: a kernel that writes beyond its columns was let through", kernels->name,
              LAYOUTS[layout]);
    }
}

/* Infinity and NaN reach exactly the outputs that use them; k = 0 gives 0 or leaves y. */
static void test_gemm_special(const struct kernels *kernels) {
    enum { M = 11, N = 37, K = 50 };
    for (int type = DT_F32; type < DT_N_WEIGHT_TYPES; type++) {
        for (int layout = 0; layout < MATRIX_N_ROW_LAYOUTS; layout++) {
            void *data;
            struct matrix w = random_matrix(type, layout, N, K, &data);
            for (int64_t rows = 1; rows <= M; rows += 5) {
                float *x = random_floats(M * K), *y = random_floats(M * N);
                x[(rows - 1) * K + K - 1] = NAN;
                kernels->gemm[type][layout](&w, 0, N, x, K, rows, y, N, false, scratch);
                bool ok = true;
                for (int64_t i = 0; i < rows * N; i++)
                    ok = ok && !isnan(y[i]) == (i / N != rows - 1);
                x[(rows - 1) * K + K - 1] = INFINITY;
                kernels->gemm[type][layout](&w, 0, N, x, K, rows, y, N, false, scratch);
                for (int64_t i = 0; i < rows * N; i++)
                    ok = ok && !isinf(y[i]) == (i / N != rows - 1);
                check(ok, "%s %s %s: NaN or infinity in one of %lld rows", kernels->name, dtype_name((enum dtype)type),
                      LAYOUTS[layout], (long long)rows);

                struct matrix empty = w;
                empty.k = 0;
                y[0] = 3;
                kernels->gemm[type][layout](&empty, 0, N, x, K, rows, y, N, true, scratch);
                ok = y[0] == 3;
                kernels->gemm[type][layout](&empty, 0, N, x, K, rows, y, N, false, scratch);
                for (int64_t i = 0; i < rows * N; i++)
                    ok = ok && y[i] == 0;
                check(ok, "%s %s %s: k = 0", kernels->name, dtype_name((enum dtype)type), LAYOUTS[layout]);
                free(x), free(y);
            }
            free(data);
        }
    }
}

/* ---- rows ---- */
static double f16_value(uint32_t bits) { /* from the definition */
    const int exponent = (int)(bits >> 10 & 31), fraction = (int)(bits & 1023);
    const double size = exponent == 31 ? (fraction ? NAN : INFINITY)
                        : exponent     ? ldexp(1024 + fraction, exponent - 25)
                                       : ldexp(fraction, -24);
    return bits >> 15 ? -size : size;
}

static void test_widen(const struct kernels *kernels) {
    enum { ALL = 65536 };
    uint16_t *bits = allocate(ALL, sizeof *bits);
    float *f16 = allocate(ALL, sizeof *f16), *bf16 = allocate(ALL, sizeof *bf16);
    for (uint32_t i = 0; i < ALL; i++)
        bits[i] = (uint16_t)i;
    kernels->widen[DT_F16](f16, bits, ALL);
    kernels->widen[DT_BF16](bf16, bits, ALL);
    bool ok = true;
    for (uint32_t i = 0; i < ALL; i++) {
        const double expected = f16_value(i);
        const uint32_t wide = i << 16;
        ok = ok &&
             (isnan(expected) ? isnan(f16[i]) : (double)f16[i] == expected && !signbit(f16[i]) == !signbit(expected));
        ok = ok && memcmp(&wide, &bf16[i], sizeof wide) == 0;
    }
    check(ok, "%s widen: not exact for all 65536 values", kernels->name);
    float tail[64];
    for (int n = 0; n < 40; n++) {
        ok = true;
        for (int type = DT_F32; type < DT_N_WEIGHT_TYPES; type++) {
            const void *src = type == DT_F32 ? (const void *)(f16 + 15001) : (const void *)(bits + 15001);
            tail[n] = CANARY;
            kernels->widen[type](tail, src, n);
            for (int i = 0; i < n; i++)
                ok = ok && tail[i] == element(type, src, i);
            ok = ok && tail[n] == CANARY;
        }
        check(ok, "%s widen of %d elements", kernels->name, n);
    }
    free(bits), free(f16), free(bf16);
}

/* Distance in units of the last place of the exact value; of the smallest subnormal at least. */
static double ulps(float got, double exact) {
    int exponent;
    frexp(exact, &exponent);
    return fabs((double)got - exact) / ldexp(1, exponent - 24 < -149 ? -149 : exponent - 24);
}

static void test_exp(const struct kernels *kernels) {
    enum { N = 1000 };
    float x[N], y[N], worst_x = 0;
    double worst = 0;
    for (int round = 0; round < (quick ? 50 : 500); round++) {
        for (int i = 0; i < N; i++)
            x[i] = -103.9f + rng_value() * 0.5f + (float)(rng() >> 8) * 0x1p-24f * 192.0f;
        kernels->exp_sum(y, x, N, 0);
        for (int i = 0; i < N; i++) {
            const double exact = exp((double)x[i]);
            const double error = exact > (double)FLT_MAX ? 0 : ulps(y[i], exact);
            if (error > worst) {
                worst = error;
                worst_x = x[i];
            }
        }
    }
    check(worst <= 2, "%s exp(%a): %.2f units in the last place", kernels->name, (double)worst_x, worst);
    const float edge[] = {-INFINITY, -1000, -105, 0, -0.0f, 89, 1000, INFINITY, NAN, FLT_MIN, -88.5f, 88.7f};
    const int n_edges = sizeof edge / sizeof *edge;
    for (int at = 0; at < 20; at++) { /* each edge in each lane and in the tail */
        for (int e = 0; e < n_edges; e++) {
            float lanes[23] = {0};
            lanes[at] = edge[e];
            const float sum = kernels->exp_sum(lanes, lanes, 23, 0), want = expf(edge[e]);
            const bool same = isnan(want)   ? isnan(lanes[at]) && isnan(sum)
                              : isinf(want) ? isinf(lanes[at]) && isinf(sum)
                                            : fabsf(lanes[at] - want) <= want * 0x1p-22f;
            check(same && lanes[at == 0] == 1, "%s exp(%g) in place %d: %g", kernels->name, (double)edge[e], at,
                  (double)lanes[at]);
        }
    }
}

static bool close_to(float got, double exact, double magnitude) {
    return fabs((double)got - exact) <= 0x1p-20 * magnitude + 0x1p-149;
}

/* Everything that maps element to element: right, nothing written beyond, the same bits wherever the element stands. */
static void test_elementwise(const struct kernels *kernels, int n) {
    float *a = random_floats(n + 1), *b = random_floats(n + 1), *out = random_floats(n + 1), one[1], up[1];
    bool right = true, same = true;
    for (int i = 0; i < n; i++)
        a[i] = ldexpf(a[i], (int)rng_in(-3, 7));
    a[n] = b[n] = out[n] = CANARY;

    kernels->swiglu(out, a, b, n);
    for (int i = 0; i < n; i++) {
        const double g = (double)a[i];
        right = right && close_to(out[i], g / (1 + exp(-g)) * (double)b[i], fabs(g * (double)b[i]));
        one[0] = a[i];
        up[0] = b[i];
        kernels->swiglu(one, one, up, 1);
        same = same && memcmp(one, out + i, sizeof one) == 0;
    }
    check(right && same && out[n] == CANARY, "%s swiglu n=%d right=%d same=%d", kernels->name, n, right, same);

    memcpy(out, a, (size_t)(n + 1) * sizeof *out);
    kernels->add(out, b, n);
    for (int i = 0; i < n; i++)
        right = right && out[i] == a[i] + b[i];
    check(right && out[n] == CANARY, "%s add n=%d", kernels->name, n);

    memcpy(out, a, (size_t)(n + 1) * sizeof *out);
    kernels->scale(out, out, 0.3f, n);
    for (int i = 0; i < n; i++)
        right = right && out[i] == a[i] * 0.3f;
    check(right && out[n] == CANARY, "%s scale n=%d", kernels->name, n);

    memcpy(out, a, (size_t)(n + 1) * sizeof *out);
    const int even = n / 2 * 2;
    float *cosines = random_floats(n), *sines = random_floats(n);
    kernels->rope(out, cosines, sines, even);
    for (int i = 0; i < even; i += 2) {
        const double p = (double)a[i], q = (double)a[i + 1], c = (double)cosines[i / 2], s = (double)sines[i / 2];
        right = right && close_to(out[i], p * c - q * s, fabs(p) + fabs(q)) &&
                close_to(out[i + 1], p * s + q * c, fabs(p) + fabs(q));
    }
    for (int i = even; i <= n; i++)
        right = right && out[i] == a[i];
    check(right, "%s rope n=%d", kernels->name, even);
    free(a), free(b), free(out), free(cosines), free(sines);
}

/* Everything that sums or compares a row. */
static void test_reductions(const struct kernels *kernels, int n) {
    float *x = random_floats(n + 1), *weights = random_floats(n), *y = random_floats(n + 1);
    double squares = 0, sum = 0;
    x[rng_in(0, n - 1)] = 2.5f;
    x[n] = 1e30f; /* must not be looked at */
    y[n] = CANARY;
    float largest = x[0];
    for (int i = 0; i < n; i++) {
        squares += (double)x[i] * (double)x[i];
        sum += exp((double)x[i] - 0.25);
        largest = fmaxf(largest, x[i]);
    }
    check(kernels->max(x, n) == largest, "%s max n=%d", kernels->name, n);

    const float total = kernels->exp_sum(y, x, n, 0.25f);
    bool right = close_to(total, sum, sum) && y[n] == CANARY;
    right = right && memcmp(&total, &(float){kernels->exp_sum(NULL, x, n, 0.25f)}, sizeof total) == 0;
    for (int i = 0; i < n; i++)
        right = right && close_to(y[i], exp((double)x[i] - 0.25), 20);
    check(right, "%s exp_sum n=%d", kernels->name, n);

    const double inv = 1 / sqrt(squares / n + 1e-5);
    kernels->rms_norm(y, x, weights, n, 1e-5f);
    for (int i = 0; i < n; i++)
        right = right && close_to(y[i], (double)x[i] * inv * (double)weights[i], fabs((double)x[i]) * inv);
    memcpy(y, x, (size_t)n * sizeof *y);
    kernels->rms_norm(y, y, NULL, n, 1e-5f);
    for (int i = 0; i < n; i++)
        right = right && close_to(y[i], (double)x[i] * inv, fabs((double)x[i]) * inv);
    check(right && y[n] == CANARY, "%s rms_norm n=%d", kernels->name, n);

    for (int i = 0; i < n; i++)
        x[i] = -INFINITY;
    check(kernels->max(x, n) == -INFINITY, "%s max of -inf n=%d", kernels->name, n);
    check(kernels->exp_sum(y, x, n, 0) == 0 && y[n - 1] == 0, "%s exp_sum of -inf n=%d", kernels->name, n);
    free(x), free(weights), free(y);
}

/* ---- gemm_run ---- */
struct task_list {
    struct gemm_task *tasks;
    void **weights;
    float **buffers; /* x, y, bias of each */
    int n;
};

static struct task_list random_tasks(int n, int64_t max_m, int64_t max_n, int64_t max_k, bool same_type) {
    struct task_list list = {.n = n};
    list.tasks = allocate(n, sizeof *list.tasks);
    list.weights = allocate(n, sizeof *list.weights);
    list.buffers = allocate(3 * n, sizeof *list.buffers);
    for (int t = 0; t < n; t++) {
        const enum dtype type = same_type ? DT_F32 : (enum dtype)rng_in(0, DT_N_WEIGHT_TYPES - 1);
        const int64_t m = rng_in(0, max_m), columns = rng_in(1, max_n), k = rng_in(1, max_k);
        struct gemm_task *task = &list.tasks[t];
        float **buffers = &list.buffers[3 * t];
        *task = (struct gemm_task){.m = m, .ldx = k + rng_in(0, 2), .ldy = columns + rng_in(0, 2)};
        task->w = random_matrix(type, (enum matrix_layout)rng_in(0, 1), columns, k, &list.weights[t]);
        task->x = buffers[0] = random_floats(m * task->ldx);
        task->y = buffers[1] = random_floats(m * task->ldy);
        buffers[2] = random_floats(columns);
        task->bias = rng() % 2 ? buffers[2] : NULL;
    }
    return list;
}

static void free_tasks(struct task_list *list) {
    for (int t = 0; t < list->n; t++)
        free(list->weights[t]), free(list->buffers[3 * t]), free(list->buffers[3 * t + 1]),
            free(list->buffers[3 * t + 2]);
    free(list->tasks), free(list->weights), free(list->buffers);
}

/* y of one task, row by row from the kernel itself. */
static bool task_matches(const struct kernels *kernels, const struct gemm_task *task, double tolerance) {
    float *row = allocate(task->w.n, sizeof *row);
    bool ok = true;
    for (int64_t i = 0; i < task->m; i++) {
        for (int64_t j = 0; j < task->w.n; j++)
            row[j] = task->bias ? task->bias[j] : 0;
        kernels->gemm[task->w.type][task->w.layout](&task->w, 0, task->w.n, task->x + i * task->ldx, task->ldx, 1, row,
                                                    task->w.n, task->bias != NULL, scratch);
        const float *y = task->y + i * task->ldy;
        for (int64_t j = 0; j < task->w.n && tolerance > 0; j++)
            ok = ok && fabs((double)y[j] - (double)row[j]) <= tolerance;
        ok = ok && (tolerance > 0 || memcmp(y, row, (size_t)task->w.n * sizeof *row) == 0);
    }
    free(row);
    return ok;
}

static void test_gemm_run(const struct kernels *kernels, int n_threads) {
    struct l4_err err;
    struct pool *pool;
    if (pool_open(&pool, n_threads, GEMM_SCRATCH_BYTES, &err) != L4_OK) {
        check(false, "pool_open: %s", err.message);
        return;
    }
    struct arena arena = {0};
    const struct exec exec = {.pool = pool, .kernels = kernels, .arena = &arena};
    check(gemm_run(&exec, NULL, 0) == L4_OK, "gemm_run of nothing");
    const struct {
        int n;
        int64_t m, columns, k;
        bool same_type;
    } lists[] = {{1, 1, 20000, 20, false}, {1, 300, 400, 100, false}, {7, 130, 300, 70, false},
                 {20, 4, 700, 200, false}, {700, 1, 60, 40, true},    {2100, 1, 40, 30, true}};
    for (size_t i = 0; i < sizeof lists / sizeof *lists; i++) {
        const int n = quick && lists[i].n > 100 ? lists[i].n / 3 : lists[i].n;
        struct task_list list = random_tasks(n, lists[i].m, lists[i].columns, lists[i].k, lists[i].same_type);
        for (int impl = 0; gemm_impl_names()[impl]; impl++) {
            for (int t = 0; t < list.n; t++)
                list.tasks[t].impl = (enum gemm_impl)impl;
            bool ok = gemm_run(&exec, list.tasks, list.n) == L4_OK;
            for (int t = 0; t < list.n; t++)
                ok = ok && task_matches(kernels, &list.tasks[t], impl == GEMM_OWN ? 0 : 1e-4);
            check(ok, "%s gemm_run %s, %d threads, %d tasks up to m=%lld n=%lld k=%lld", kernels->name,
                  gemm_impl_names()[impl], n_threads, n, (long long)lists[i].m, (long long)lists[i].columns,
                  (long long)lists[i].k);
        }
        free_tasks(&list);
    }
    arena_fini(&arena);
    pool_close(pool);
}

/* The vector variants share every order of sums: the same bits from each. */
static void test_variants_agree(void) {
    enum { M = 9, N = 50, K = 301 };
    const struct kernels *first = kernels_by_name(kernels_names()[0]);
    for (int i = 1; kernels_names()[i] && strcmp(kernels_names()[i], "ref") != 0; i++) {
        for (int type = 0; type < DT_N_WEIGHT_TYPES; type++) {
            for (int layout = 0; layout < MATRIX_N_ROW_LAYOUTS; layout++) {
                void *data;
                const struct matrix w = random_matrix(type, layout, N, K, &data);
                float *x = random_floats(M * K), *y = random_floats(M * N), *again = random_floats(M * N);
                first->gemm[type][layout](&w, 0, N, x, K, M, y, N, false, scratch);
                kernels_by_name(kernels_names()[i])->gemm[type][layout](&w, 0, N, x, K, M, again, N, false, scratch);
                check(memcmp(y, again, (size_t)(M * N) * sizeof *y) == 0, "%s and %s gemm %s %s: not the same bits",
                      kernels_names()[0], kernels_names()[i], dtype_name((enum dtype)type), LAYOUTS[layout]);
                free(data), free(x), free(y), free(again);
            }
        }
    }
}

static void test_registry(void) {
    const struct kernels *kernels;
    struct l4_err err;
    check(kernels_by_name("none") == NULL, "kernels_by_name of an unknown name");
    unsetenv("L4_CPU");
    check(kernels_get(&kernels, &err) == L4_OK && strcmp(kernels->name, kernels_names()[0]) == 0, "kernels_get: best");
    for (int i = 0; kernels_names()[i]; i++) {
        setenv("L4_CPU", kernels_names()[i], 1);
        check(kernels_get(&kernels, &err) == L4_OK && strcmp(kernels->name, kernels_names()[i]) == 0, "L4_CPU=%s",
              kernels_names()[i]);
    }
    setenv("L4_CPU", "z80", 1);
    check(kernels_get(&kernels, &err) == L4_E_INVALID && strstr(err.message, "z80") && strstr(err.message, "ref"),
          "L4_CPU=z80: %s", err.message);
    unsetenv("L4_CPU");
}

int main(int argc, char **argv) {
    if (argc > 1 && strcmp(argv[1], "--bench") == 0)
        return bench_kernels(argc - 2, argv + 2);
    quick = argc > 1 && strcmp(argv[1], "--quick") == 0;
    if (argc > 2 || (argc == 2 && !quick)) {
        printf("usage: test_kernels [--quick | --bench [OPTIONS]]\n");
        return 2;
    }
    scratch = allocate(GEMM_SCRATCH_BYTES, 1);
    test_registry();
    test_variants_agree();
    for (int i = 0; kernels_names()[i]; i++) {
        const struct kernels *kernels = kernels_by_name(kernels_names()[i]);
        const int before = n_passed + n_failed;
        test_gemm(kernels);
        test_checks_can_fail(kernels);
        test_gemm_special(kernels);
        test_widen(kernels);
        test_exp(kernels);
        for (int n = 1; n < 70; n++) {
            test_elementwise(kernels, n);
            test_reductions(kernels, n);
        }
        for (int threads = 1; threads <= (quick ? 2 : 5); threads += threads)
            test_gemm_run(kernels, threads);
        printf("%s: %d checks\n", kernels->name, n_passed + n_failed - before);
    }
    free(scratch);
    printf("%d passed, %d failed\n", n_passed, n_failed);
    return n_failed != 0;
}
