/* How fast are the products with packed weights, as a share of what the processor and its memory can do?  Both limits
 * are measured in turn with the products; figures are medians. */
#ifndef TESTS_KERNELS_BENCH_PACKED_H
#define TESTS_KERNELS_BENCH_PACKED_H

#include <time.h>

#include "core/base/cpu.h"
#include "core/base/cpus.h"
#include "core/kernels/gemm.h"
#include "tests/kernels/packed_weights.h"
#if defined(__x86_64__)
#include <immintrin.h>
#endif

enum {
    BENCH_ROUNDS = 15,
    BENCH_N = 8192,
    BENCH_K = 5120,
    BENCH_MATRICES = 6, /* read in turn, so that none is in a cache */
    BENCH_READ_BYTES = 1 << 28,
    BENCH_READ_ITEM_BYTES = 1 << 20,
    BENCH_PEAK_STEPS = 1 << 20,
    BENCH_PEAK_CHAINS = 12
};

struct bench {
    struct pool *pool;
    struct exec exec;
    char *read_buffer;
    uint64_t sink[64];
    double peak_ops, read_bytes; /* a second */
};

static inline double now_s(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static inline int compare_doubles(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}
static inline double median(double *values, int n) {
    qsort(values, (size_t)n, sizeof *values, compare_doubles);
    return values[n / 2];
}

#if defined(__x86_64__)
#define BENCH_TARGET __attribute__((target("avx512f,avx512bw,avx512vnni")))
BENCH_TARGET static void peak_item(void *ctx, int item, int thread) {
    struct bench *bench = ctx;
    __m512i sums[BENCH_PEAK_CHAINS], a = _mm512_set1_epi8((char)(item + 1)), b = _mm512_set1_epi8(3);
#pragma GCC unroll 12 /* all of them: the sums must stay in registers */
    for (int c = 0; c < BENCH_PEAK_CHAINS; c++)
        sums[c] = _mm512_set1_epi32(c);
    for (int i = 0; i < BENCH_PEAK_STEPS; i++) {
#pragma GCC unroll 12
        for (int c = 0; c < BENCH_PEAK_CHAINS; c++) {
            sums[c] = _mm512_dpbusd_epi32(sums[c], a, b);
            __asm__ volatile("" : "+v"(sums[c]));
        }
    }
#pragma GCC unroll 12
    for (int c = 1; c < BENCH_PEAK_CHAINS; c++)
        sums[0] = _mm512_add_epi32(sums[0], sums[c]);
    bench->sink[thread] += (uint64_t)_mm512_reduce_add_epi32(sums[0]);
}
#define BENCH_TARGET_BF16 __attribute__((target("avx512f,avx512bf16")))
BENCH_TARGET_BF16 static void peak_bf16_item(void *ctx, int item, int thread) {
    struct bench *bench = ctx;
    const __m512bh a = (__m512bh)_mm512_set1_epi16((short)(0x3f80 + item)), b = (__m512bh)_mm512_set1_epi16(0x3f80);
    __m512 sums[BENCH_PEAK_CHAINS];
#pragma GCC unroll 12
    for (int c = 0; c < BENCH_PEAK_CHAINS; c++)
        sums[c] = _mm512_set1_ps((float)c);
    for (int i = 0; i < BENCH_PEAK_STEPS; i++) {
#pragma GCC unroll 12
        for (int c = 0; c < BENCH_PEAK_CHAINS; c++) {
            sums[c] = _mm512_dpbf16_ps(sums[c], a, b);
            __asm__ volatile("" : "+v"(sums[c]));
        }
    }
#pragma GCC unroll 12
    for (int c = 1; c < BENCH_PEAK_CHAINS; c++)
        sums[0] = _mm512_add_ps(sums[0], sums[c]);
    bench->sink[thread] += (uint64_t)_mm512_reduce_add_ps(sums[0]);
}
BENCH_TARGET static void read_item(void *ctx, int item, int thread) {
    struct bench *bench = ctx;
    const char *at = bench->read_buffer + (size_t)item * BENCH_READ_ITEM_BYTES;
    __m512i sum = _mm512_setzero_si512();
    for (int i = 0; i < BENCH_READ_ITEM_BYTES; i += 64) {
        _mm_prefetch(at + i + 4096, _MM_HINT_T0);
        sum = _mm512_or_si512(sum, _mm512_loadu_si512(at + i));
    }
    bench->sink[thread] += (uint64_t)_mm512_reduce_add_epi64(sum);
}

/* Both limits, once. */
static inline void bench_limits(struct bench *bench, enum dtype type, double *peak_ops, double *read_bytes) {
    const int n_threads = pool_n_threads(bench->pool);
    double start = now_s();
    pool_for(bench->pool, n_threads, type == DT_BF16 ? peak_bf16_item : peak_item, bench);
    *peak_ops = (type == DT_BF16 ? 64.0 : 128.0) * BENCH_PEAK_STEPS * BENCH_PEAK_CHAINS * n_threads / (now_s() - start);
    start = now_s();
    pool_for(bench->pool, BENCH_READ_BYTES / BENCH_READ_ITEM_BYTES, read_item, bench);
    *read_bytes = BENCH_READ_BYTES / (now_s() - start);
}

static inline void bench_type(struct bench *bench, enum dtype type) {
    static const int64_t ROWS[] = {1, 4, 16, 32, 128, 512};
    const size_t panel_bytes = packed_panel_bytes(type, BENCH_K), bytes = panel_bytes * BENCH_N / PANEL_COLUMNS;
    struct weights one = random_weights(type, PANEL_COLUMNS, BENCH_K);
    char *panels = allocate(BENCH_MATRICES, bytes);
    for (size_t at = 0; at < BENCH_MATRICES * bytes; at += panel_bytes)
        memcpy(panels + at, one.data, panel_bytes);
    float *x = random_floats(512 * BENCH_K), *y = allocate(512 * BENCH_N, sizeof *y);
    memset(y, 0, 512 * BENCH_N * sizeof *y);
    for (size_t r = 0; r < sizeof ROWS / sizeof *ROWS; r++) {
        double seconds[BENCH_ROUNDS], peak[BENCH_ROUNDS], read[BENCH_ROUNDS], share[BENCH_ROUNDS];
        const int64_t m = ROWS[r];
        const double ops = 2.0 * (double)m * BENCH_N * BENCH_K;
        const int repeats = m < 64 ? BENCH_MATRICES : 1;
        for (int round = 0; round < BENCH_ROUNDS; round++) {
            bench_limits(bench, type, &peak[round], &read[round]);
            struct gemm_task task = {.x = x, .ldx = BENCH_K, .m = m, .y = y, .ldy = BENCH_N};
            const double start = now_s();
            for (int i = 0; i < repeats; i++) {
                task.w = (struct matrix){type, MATRIX_PACKED, BENCH_N, BENCH_K, 0, panels + (size_t)i * bytes};
                if (gemm_run(&bench->exec, &task, 1) != L4_OK)
                    exit(2);
            }
            seconds[round] = (now_s() - start) / repeats;
            const double of_peak = ops / seconds[round] / peak[round];
            const double of_read = (double)bytes / seconds[round] / read[round];
            share[round] = of_peak > of_read ? of_peak : of_read;
        }
        const double s = median(seconds, BENCH_ROUNDS), p = median(peak, BENCH_ROUNDS), b = median(read, BENCH_ROUNDS);
        const double of_limit = median(share, BENCH_ROUNDS);
        printf("%-7s m=%-4lld %7.0f GOP/s %5.1f%% of %4.0f   %6.2f GB/s %5.1f%% of %5.2f   nearer limit, pairwise: "
               "%5.1f%% (%.1f..%.1f)\n",
               dtype_name(type), (long long)m, ops / s * 1e-9, 100 * ops / s / p, p * 1e-9, (double)bytes / s * 1e-9,
               100 * (double)bytes / s / b, b * 1e-9, 100 * of_limit, 100 * share[BENCH_ROUNDS / 4],
               100 * share[BENCH_ROUNDS * 3 / 4]);
        fflush(stdout);
    }
    free_weights(&one), free(panels), free(x), free(y);
}

static inline int bench_packed(const char *type) {
    struct l4_err err;
    struct arena arena = {0};
    struct cpu_features cpu;
    static struct bench bench;
    cpu_features(&cpu);
    if (!cpu.avx512_vnni || !cpu.avx512_bf16) {
        printf("the limits are measured with AVX-512 VNNI and BF16, which this processor has not\n");
        return 2;
    }
    if (kernels_get(&bench.exec.kernels, &err) ||
        pool_open(&bench.pool, cpu_threads_auto(), GEMM_SCRATCH_BYTES, &err)) {
        printf("%s\n", err.message);
        return 2;
    }
    bench.exec.pool = bench.pool;
    bench.exec.arena = &arena;
    bench.read_buffer = allocate(BENCH_READ_BYTES + 4096, 1);
    memset(bench.read_buffer, 1, BENCH_READ_BYTES + 4096);
    printf("%s, %d threads, n=%d k=%d, medians of %d\n", bench.exec.kernels->name, pool_n_threads(bench.pool), BENCH_N,
           BENCH_K, BENCH_ROUNDS);
    for (int t = 0; t < N_PACKED_TYPES; t++)
        if (!type || strcmp(type, dtype_name(PACKED[t])) == 0)
            bench_type(&bench, PACKED[t]);
    free(bench.read_buffer);
    pool_close(bench.pool);
    arena_fini(&arena);
    return 0;
}
#else
static inline int bench_packed(const char *type) {
    (void)type;
    printf("the benchmark is for x86-64\n");
    return 2;
}
#endif

#endif
