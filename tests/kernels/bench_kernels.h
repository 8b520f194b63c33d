/* Matrix products of the sizes of a Scout layer: every kernel variant and OpenBLAS through gemm_run, and for f32 one
 * plain call of OpenBLAS with its own threads.  The candidates of a line take turns; a figure is the median of its
 * turns.  test_kernels --bench [--threads N] [--rounds N] [--rows N] [--n N] [--k N] [--type f32|f16|bf16]
 * [--layout out_in|in_out] [--all] [--cpu] */
#ifndef TESTS_KERNELS_BENCH_KERNELS_H
#define TESTS_KERNELS_BENCH_KERNELS_H

#ifndef L4_NO_OPENBLAS
#include <cblas.h>
#endif
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "core/base/cpus.h"
#include "core/kernels/gemm.h"
#include "tests/kernels/check.h"

enum { MAX_ROUNDS = 101, MAX_CANDIDATES = 8 };

static struct {
    int threads, rounds;
    int64_t rows, n, k;
    const char *type, *layout;
    bool all, cpu;
} options = {.rounds = 7};

static double now_s(void) {
    struct timespec t;
    clock_gettime(options.cpu ? CLOCK_PROCESS_CPUTIME_ID : CLOCK_MONOTONIC, &t);
    return ((double)t.tv_sec + (double)t.tv_nsec * 1e-9) / (options.cpu ? options.threads : 1);
}

static int compare(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(const double *values, int n) {
    double sorted[MAX_ROUNDS];
    memcpy(sorted, values, (size_t)n * sizeof *sorted);
    qsort(sorted, (size_t)n, sizeof *sorted, compare);
    return sorted[n / 2];
}

/* ---- candidates ---- */
enum kind { RUN_OWN, RUN_OPENBLAS, RUN_PLAIN_SGEMM };
struct candidate {
    const char *name;
    enum kind kind;
    const struct kernels *kernels;
    double seconds[MAX_ROUNDS];
};

static double run(const struct candidate *candidate, struct pool *pool, const struct gemm_task *task) {
    static struct arena arena;
    const struct exec exec = {.pool = pool, .kernels = candidate->kernels, .arena = &arena};
    struct gemm_task own = *task;
    own.impl = candidate->kind == RUN_OWN ? GEMM_OWN : GEMM_OPENBLAS;
    const double start = now_s();
    if (candidate->kind != RUN_PLAIN_SGEMM) {
        if (gemm_run(&exec, &own, 1))
            exit(1);
        return now_s() - start;
    }
#ifndef L4_NO_OPENBLAS
    openblas_set_num_threads(pool_n_threads(pool));
    const bool out_in = task->w.layout == MATRIX_OUT_IN;
    cblas_sgemm(CblasRowMajor, CblasNoTrans, out_in ? CblasTrans : CblasNoTrans, (blasint)task->m, (blasint)task->w.n,
                (blasint)task->w.k, 1, task->x, (blasint)task->ldx, task->w.data, (blasint)task->w.stride, 0, task->y,
                (blasint)task->ldy);
    const double seconds = now_s() - start;
    openblas_set_num_threads(1);
    nanosleep(&(struct timespec){0, 120000000}, NULL); /* its threads spin for a while: not at the next one's cost */
    return seconds;
#else
    return INFINITY;
#endif
}

/* ---- the memory limit ---- */
enum { READ_BYTES = 256 << 20, READ_PIECE = 1 << 18 };
struct reading {
    const struct kernels *kernels;
    const float *data;
};
static void read_piece(void *ctx, int item, int thread) {
    const struct reading *reading = ctx;
    volatile float sink = reading->kernels->max(reading->data + (size_t)item * (READ_PIECE / 4), READ_PIECE / 4);
    (void)sink;
    (void)thread;
}
static double read_bandwidth(struct pool *pool, const void *data, int rounds) {
    double seconds[MAX_ROUNDS];
    struct reading reading = {kernels_by_name(kernels_names()[0]), data};
    for (int i = 0; i < rounds; i++) {
        const double start = now_s();
        pool_for(pool, READ_BYTES / READ_PIECE, read_piece, &reading);
        seconds[i] = now_s() - start;
    }
    return READ_BYTES / median(seconds, rounds) * 1e-9;
}

static const char *const TYPES[] = {"f32", "f16", "bf16"};
static const char *const LAYOUTS[] = {"out_in", "in_out"};

static void bench(struct pool *pool, enum dtype type, enum matrix_layout layout, int64_t m, const void *weights,
                  const float *x, float *y) {
    const int64_t n = options.n ? options.n : m > 128 ? 2048 : 8192, k = options.k ? options.k : 5120;
    const struct gemm_task task = {.w = {.type = type,
                                         .layout = layout,
                                         .n = n,
                                         .k = k,
                                         .stride = layout == MATRIX_OUT_IN ? k : n,
                                         .data = weights},
                                   .x = x,
                                   .ldx = k,
                                   .m = m,
                                   .y = y,
                                   .ldy = n};
    struct candidate candidates[MAX_CANDIDATES];
    int n_candidates = 0;
    const struct kernels *best = kernels_by_name(kernels_names()[0]);
    for (int i = 0; kernels_names()[i]; i++) {
        if (m > 4 && strcmp(kernels_names()[i], "ref") == 0 && !options.all)
            continue;
        candidates[n_candidates++] =
            (struct candidate){kernels_names()[i], RUN_OWN, kernels_by_name(kernels_names()[i]), {0}};
    }
    candidates[n_candidates++] = (struct candidate){"openblas", RUN_OPENBLAS, best, {0}};
    const int openblas = n_candidates - 1;
    if (type == DT_F32)
        candidates[n_candidates++] = (struct candidate){"sgemm", RUN_PLAIN_SGEMM, best, {0}};
    for (int round = -1; round < options.rounds; round++) /* the first warms up */
        for (int c = 0; c < n_candidates; c++)
            candidates[c].seconds[round < 0 ? 0 : round] = run(&candidates[c], pool, &task);

    const double flops = 2.0 * (double)m * (double)n * (double)k, bytes = (double)(n * k) * (double)dtype_size(type);
    printf("%-4s %-6s %5lld x %lld x %lld ", TYPES[type], LAYOUTS[layout], (long long)m, (long long)n, (long long)k);
    for (int c = 0; c < n_candidates; c++) {
        const double s = median(candidates[c].seconds, options.rounds);
        printf(" | %s %.1f", candidates[c].name, flops / s * 1e-9);
        if (m <= 32)
            printf(" (%.1f GB/s)", bytes / s * 1e-9);
    }
    for (int c = openblas; c < n_candidates; c++) {
        double ratios[MAX_ROUNDS];
        for (int i = 0; i < options.rounds; i++)
            ratios[i] = candidates[c].seconds[i] / candidates[0].seconds[i];
        qsort(ratios, (size_t)options.rounds, sizeof *ratios, compare);
        printf(" | %s/%s %.2f (%.2f..%.2f)", candidates[0].name, candidates[c].name, ratios[options.rounds / 2],
               ratios[options.rounds / 4], ratios[options.rounds * 3 / 4]);
    }
    printf("\n");
    fflush(stdout);
}

static bool parse(int argc, char **argv) {
    for (int i = 0; i < argc; i++) {
        const char *name = argv[i];
        if (strcmp(name, "--all") == 0) {
            options.all = true;
            continue;
        }
        if (strcmp(name, "--cpu") == 0) {
            options.cpu = true;
            continue;
        }
        if (++i == argc)
            return false;
        const int64_t value = strtoll(argv[i], NULL, 10);
        if (strcmp(name, "--threads") == 0)
            options.threads = (int)value;
        else if (strcmp(name, "--rounds") == 0 && value >= 1 && value <= MAX_ROUNDS)
            options.rounds = (int)value;
        else if (strcmp(name, "--rows") == 0)
            options.rows = value;
        else if (strcmp(name, "--n") == 0)
            options.n = value;
        else if (strcmp(name, "--k") == 0)
            options.k = value;
        else if (strcmp(name, "--type") == 0)
            options.type = argv[i];
        else if (strcmp(name, "--layout") == 0)
            options.layout = argv[i];
        else
            return false;
    }
    return true;
}

/* argv: the options.  Returns the program's exit status. */
static int bench_kernels(int argc, char **argv) {
    struct l4_err err;
    struct pool *pool;
    if (!parse(argc, argv)) {
        fprintf(stderr,
                "usage: test_kernels --bench [--threads N] [--rounds N] [--rows N] [--n N] [--k N] [--type NAME] "
                "[--layout NAME] [--all] [--cpu]\n");
        return 2;
    }
    if (options.threads < 1)
        options.threads = cpu_threads_auto();
    if (pool_open(&pool, options.threads, GEMM_SCRATCH_BYTES, &err) != L4_OK) {
        fprintf(stderr, "%s\n", err.message);
        return 1;
    }
    static const int64_t ROWS[] = {1, 4, 32, 128, 512, 2048};
    const int64_t most_n = options.n > 8192 ? options.n : 8192, most_k = options.k > 5120 ? options.k : 5120;
    const int64_t most_m = options.rows > 2048 ? options.rows : 2048;
    size_t weight_bytes = (size_t)(most_n * most_k) * sizeof(float);
    weight_bytes = weight_bytes < READ_BYTES ? READ_BYTES : weight_bytes;
    uint16_t *weights = allocate((int64_t)weight_bytes, 1);
    for (size_t i = 0; i < weight_bytes / 2; i++) /* about 1/64 .. 1/32 in each type */
        weights[i] = (uint16_t)(0x3c00 + (i * 40503 >> 8) % 128);
    float *x = allocate(most_m * most_k, sizeof *x), *y = allocate(most_m * most_n, sizeof *y);
    for (int64_t i = 0; i < most_m * most_k; i++)
        x[i] = (float)(i * 7919 % 1024) / 1024 - 0.5f;

    printf("GFLOP/s by %s, m x n x k, %d threads, medians of %d; memory reads %.1f GB/s\n",
           options.cpu ? "processor time" : "time", pool_n_threads(pool), options.rounds,
           read_bandwidth(pool, weights, options.rounds));
    for (int type = 0; type < DT_N_WEIGHT_TYPES; type++) {
        if (options.type ? strcmp(options.type, TYPES[type]) != 0 : type == DT_F16 && !options.all)
            continue;
        for (int layout = 0; layout < MATRIX_N_ROW_LAYOUTS; layout++) {
            if (options.layout && strcmp(options.layout, LAYOUTS[layout]) != 0)
                continue;
            for (size_t r = 0; r < (options.rows ? 1 : sizeof ROWS / sizeof *ROWS); r++)
                bench(pool, (enum dtype)type, (enum matrix_layout)layout, options.rows ? options.rows : ROWS[r],
                      weights, x, y);
        }
    }
    free(weights), free(x), free(y);
    pool_close(pool);
    return 0;
}

#endif
