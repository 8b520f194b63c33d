/* Products with 8-bit keys and values, every variant of this processor: the bits of the f32 product with the same
 * numbers, on random ragged shapes, nothing read or written beyond; and how fast keys and values of every type are gone
 * through.  Plain C, cross-built too.  test_kv [--quick | --bench] */
#include <math.h>
#include <string.h>
#include <time.h>

#include "core/kernels/kernels.h"
#include "tests/kernels/check.h"

enum { MARGIN = 40 }; /* of numbers around a part, which must not matter */

static void *scratch;

/* A random part and the same numbers as an f32 matrix. */
struct part {
    struct kv_q8 w;
    struct matrix wide;
    int8_t *quants;
    uint16_t *scales;
    float *numbers;
};

static struct part random_part(bool keys, int64_t elements, int64_t positions) {
    struct part p = {.w = {.n = keys ? positions : elements, .k = keys ? elements : positions}};
    const int64_t n_blocks = (elements + KV_Q8_BLOCK - 1) / KV_Q8_BLOCK;
    p.w.stride = p.w.n + rng_in(0, 3);
    p.w.scales_stride = positions + rng_in(0, 3);
    const int64_t n_quants = p.w.k * p.w.stride + MARGIN, n_scales = n_blocks * p.w.scales_stride + MARGIN;
    p.quants = allocate(n_quants, sizeof *p.quants);
    p.scales = allocate(n_scales, sizeof *p.scales);
    p.numbers = allocate(p.w.k * p.w.n, sizeof *p.numbers);
    for (int64_t i = 0; i < n_quants; i++)
        p.quants[i] = (int8_t)rng_in(-127, 127);
    for (int64_t i = 0; i < n_scales; i++)
        p.scales[i] = 0x7e00; /* NaN */
    for (int64_t b = 0; b < n_blocks; b++)
        for (int64_t i = 0; i < positions; i++) /* 2^-24 to 2, subnormal ones too */
            p.scales[b * p.w.scales_stride + i] = (uint16_t)rng_in(1, 0x4000);
    p.w.quants = p.quants;
    p.w.scales = p.scales;
    for (int64_t k = 0; k < p.w.k; k++)
        for (int64_t j = 0; j < p.w.n; j++) {
            const int64_t block = (keys ? k : j) / KV_Q8_BLOCK, position = keys ? j : k;
            p.numbers[k * p.w.n + j] =
                (float)p.quants[k * p.w.stride + j] * f16_to_f32(p.scales[block * p.w.scales_stride + position]);
        }
    p.wide = (struct matrix){DT_F32, MATRIX_IN_OUT, p.w.n, p.w.k, p.w.n, p.numbers};
    return p;
}

static void part_free(struct part *p) {
    free(p->quants), free(p->scales), free(p->numbers);
}

static bool q8_is_right(const struct kernels *kernels, kv_q8_fn *q8, bool keys, int64_t elements, int64_t positions,
                        int64_t m) {
    struct part p = random_part(keys, elements, positions);
    const int64_t ldx = p.w.k + rng_in(0, 3), ldy = p.w.n + rng_in(0, 3);
    const bool accumulate = rng() % 2;
    float *x = random_floats(m * ldx), *y = random_floats(m * ldy), *want = allocate(m * ldy, sizeof *want);
    memcpy(want, y, (size_t)(m * ldy) * sizeof *y);
    q8(&p.w, x, ldx, m, y, ldy, accumulate, scratch);
    kernels->gemm[DT_F32][MATRIX_IN_OUT](&p.wide, 0, p.w.n, x, ldx, m, want, ldy, accumulate, scratch);
    const bool same = memcmp(want, y, (size_t)(m * ldy) * sizeof *y) == 0;
    part_free(&p), free(x), free(y), free(want);
    return same;
}

static void test_q8(const struct kernels *kernels, int shapes) {
    for (int keys = 0; keys < 2; keys++) {
        kv_q8_fn *q8 = keys ? kernels->kv_q8_keys : kernels->kv_q8_values;
        for (int i = 0; i < shapes; i++) {
            const int64_t elements = i % 16 == 0 ? rng_in(1, 600) : rng_in(1, 140);
            const int64_t positions = rng_in(1, KV_Q8_POSITIONS), m = rng_in(0, i % 4 ? 13 : 170);
            check(q8_is_right(kernels, q8, keys, elements, positions, m),
                  "%s 8-bit %s of %lld elements, %lld positions, %lld rows: not the bits of f32", kernels->name,
                  keys ? "keys" : "values", (long long)elements, (long long)positions, (long long)m);
        }
        check(q8_is_right(kernels, q8, keys, KV_Q8_ELEMENTS, KV_Q8_POSITIONS, 7), "%s 8-bit %s: the largest part",
              kernels->name, keys ? "keys" : "values");
    }
}

/* ---- a broken kernel must be noticed ---- */
static const struct kernels *sound;

/* Takes the first block's scales for the second too. */
static void broken_scales(const struct kv_q8 *w, const float *x, int64_t ldx, int64_t m, float *y, int64_t ldy,
                          bool accumulate, void *tmp) {
    struct kv_q8 wrong = *w;
    wrong.scales_stride = 0;
    sound->kv_q8_keys(&wrong, x, ldx, m, y, ldy, accumulate, tmp);
}

static void test_check_can_fail(const struct kernels *kernels) {
    sound = kernels;
    check(!q8_is_right(kernels, broken_scales, true, 64, 30, 5), "%s: a kernel with wrong scales was let through",
          kernels->name);
}

/* ---- the bench: one core, as many parts as do not fit into its caches ---- */
enum { BENCH_PARTS = 2048, BENCH_ELEMENTS = 128, BENCH_POSITIONS = 64, BENCH_ROUNDS = 9 };

static double cpu_s(void) {
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t); /* what others run beside costs less so */
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static int by_value(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double bench_run(const struct kernels *kernels, enum dtype type, bool keys, const char *data, int64_t part_bytes,
                        int64_t rows, const float *x, float *y) {
    const int64_t n = keys ? BENCH_POSITIONS : BENCH_ELEMENTS, k = keys ? BENCH_ELEMENTS : BENCH_POSITIONS;
    const double start = cpu_s();
    for (int64_t i = 0; i < BENCH_PARTS; i++) {
        const char *part = data + i * part_bytes;
        if (type == DT_Q8_0) {
            const struct kv_q8 w = {n, k, n, (const int8_t *)part, BENCH_POSITIONS, (const uint16_t *)part + n * k / 2};
            (keys ? kernels->kv_q8_keys : kernels->kv_q8_values)(&w, x, k, rows, y, n, !keys, scratch);
        } else {
            const struct matrix w = {type, MATRIX_IN_OUT, n, k, n, part};
            kernels->gemm[type][MATRIX_IN_OUT](&w, 0, n, x, k, rows, y, n, !keys, scratch);
        }
    }
    return cpu_s() - start;
}

static int bench(void) {
    static const enum dtype types[] = {DT_F32, DT_F16, DT_BF16, DT_Q8_0};
    static const int64_t rows[] = {1, 5, 160};
    const int64_t n = BENCH_ELEMENTS * BENCH_POSITIONS;
    char *data = allocate(BENCH_PARTS * n, sizeof(float));
    float *x = random_floats(160 * BENCH_ELEMENTS), *y = random_floats(160 * BENCH_ELEMENTS);
    memset(data, 0, (size_t)(BENCH_PARTS * n) * sizeof(float));
    printf("keys and values of a page (64 positions of 128 elements), one thread, CPU time, median of %d:\n"
           "variant  type  rows   keys ns  GB/s  GFLOP/s   values ns  GB/s  GFLOP/s\n",
           (int)BENCH_ROUNDS);
    for (const char *const *name = kernels_names(); *name; name++)
        for (size_t t = 0; t < sizeof types / sizeof *types; t++)
            for (size_t r = 0; r < sizeof rows / sizeof *rows; r++) {
                const int64_t bytes = types[t] == DT_Q8_0 ? n / 32 * 34 : n * (int64_t)dtype_size(types[t]);
                printf("%-8s %-5s %4lld", *name, dtype_name(types[t]), (long long)rows[r]);
                for (int keys = 1; keys >= 0; keys--) {
                    double seconds[BENCH_ROUNDS];
                    for (int i = 0; i < BENCH_ROUNDS; i++)
                        seconds[i] =
                            bench_run(kernels_by_name(*name), types[t], keys, data, bytes, rows[r], x, y) / BENCH_PARTS;
                    qsort(seconds, BENCH_ROUNDS, sizeof *seconds, by_value);
                    const double ns = seconds[BENCH_ROUNDS / 2] * 1e9;
                    printf("  %8.0f %5.1f  %7.1f", ns, (double)bytes / ns, (double)(2 * n * rows[r]) / ns);
                }
                printf("\n");
            }
    free(data), free(x), free(y);
    return 0;
}

int main(int argc, char **argv) {
    const bool quick = argc == 2 && strcmp(argv[1], "--quick") == 0;
    const bool benching = argc == 2 && strcmp(argv[1], "--bench") == 0;
    if (argc > 1 && !quick && !benching) {
        printf("usage: test_kv [--quick | --bench]\n");
        return 2;
    }
    scratch = allocate(KERNEL_SCRATCH_BYTES, 1);
    if (benching)
        return bench();
    for (const char *const *name = kernels_names(); *name; name++) {
        const struct kernels *kernels = kernels_by_name(*name);
        test_q8(kernels, quick ? 40 : 400);
        test_check_can_fail(kernels);
    }
    free(scratch);
    printf("%d passed, %d failed\n", n_passed, n_failed);
    return n_failed != 0;
}
