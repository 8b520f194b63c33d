#include "core/kernels/limits.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "core/base/memory.h"

enum {
    PIECE_BYTES = 1 << 20,
    PIECE_ROUNDS = 1 << 14,  /* some 50 microseconds */
    PIECES_PER_THREAD = 200, /* ten milliseconds, and at most half a percent lost at the end */
    LAST_CACHES = 8
};

struct limits_meter {
    struct pool *pool;
    const struct peak_loop *loops[N_PEAK_KINDS];
    unsigned char *buffer;
    int n_pieces;
};

static double now_s(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static size_t buffer_bytes(void) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) /* no figure of such a build means anything */
    const int64_t least = (int64_t)16 << 20, most = least;
#else
    const int64_t least = (int64_t)256 << 20, most = (int64_t)4 << 30;
#endif
    struct memory_limits memory;
    memory_limits_read(&memory, "");
    int64_t bytes = LAST_CACHES * (int64_t)sysconf(_SC_LEVEL3_CACHE_SIZE);
    bytes = bytes < least ? least : bytes > most ? most : bytes;
    int64_t available = memory.available_bytes < memory.cgroup_bytes ? memory.available_bytes : memory.cgroup_bytes;
    bytes = bytes > available / 16 ? available / 16 : bytes;
    return bytes < PIECE_BYTES ? PIECE_BYTES : (size_t)bytes / PIECE_BYTES * PIECE_BYTES;
}

/* On the thread that may read it: memory comes from its node. */
static void touch_piece(void *ctx, int item, int thread) {
    const struct limits_meter *meter = ctx;
    (void)thread;
    memset(meter->buffer + (size_t)item * PIECE_BYTES, 1, PIECE_BYTES);
}

int limits_open(struct limits_meter **out, struct pool *pool, struct l4_err *err) {
    struct limits_meter *meter = calloc(1, sizeof *meter);
    const size_t bytes = buffer_bytes();
    void *buffer = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (!meter || buffer == MAP_FAILED) {
        free(meter);
        if (buffer != MAP_FAILED)
            munmap(buffer, bytes);
        return l4_err_set(err, L4_E_NOMEM, "no memory for the %zu MiB that are read to measure the memory's speed",
                          bytes >> 20);
    }
    madvise(buffer, bytes, MADV_HUGEPAGE); /* a page's walk is no part of the limit; without it all works the same */
    *meter = (struct limits_meter){.pool = pool, .buffer = buffer, .n_pieces = (int)(bytes / PIECE_BYTES)};
    for (int kind = 0; kind < N_PEAK_KINDS; kind++)
        meter->loops[kind] = peak_loop_at((enum peak_kind)kind, 0);
    if (!meter->loops[PEAK_BF16])
        meter->loops[PEAK_BF16] = meter->loops[PEAK_F32];
    pool_for(pool, meter->n_pieces, touch_piece, meter);
    *out = meter;
    return 0;
}

void limits_close(struct limits_meter *meter) {
    if (!meter)
        return;
    munmap(meter->buffer, (size_t)meter->n_pieces * PIECE_BYTES);
    free(meter);
}

typedef uint64_t v8 __attribute__((vector_size(64), may_alias));

static void read_piece(void *ctx, int item, int thread) {
    enum { N_SUMS = 4, PREFETCH_BYTES = 4096 };
    const struct limits_meter *meter = ctx;
    const v8 *piece = (const v8 *)(const void *)(meter->buffer + (size_t)item * PIECE_BYTES);
    v8 sums[N_SUMS] = {{0}};
    (void)thread;
    for (size_t i = 0; i < PIECE_BYTES / sizeof *piece; i += N_SUMS)
        for (size_t j = 0; j < N_SUMS; j++) {
            __builtin_prefetch((const char *)&piece[i + j] +
                               PREFETCH_BYTES); /* the processor alone runs not so far ahead */
            sums[j] |= piece[i + j];
        }
    for (size_t j = 0; j < N_SUMS; j++)
        __asm__ volatile("" ::"m"(sums[j]));
}

static void run_piece(void *ctx, int item, int thread) {
    const struct peak_loop *loop = ctx;
    (void)item;
    (void)thread;
    loop->run(PIECE_ROUNDS);
}

static double peak(struct pool *pool, const struct peak_loop *loop) {
    struct peak_loop copy = *loop;
    const int n_pieces = PIECES_PER_THREAD * pool_n_threads(pool);
    const double start = now_s();
    pool_for(pool, n_pieces, run_piece, &copy);
    return (double)n_pieces * PIECE_ROUNDS * loop->ops_per_round / (now_s() - start);
}

void limits_measure(struct limits_meter *meter, struct l4_bench_limits *limits) {
    const double start = now_s();
    pool_for(meter->pool, meter->n_pieces, read_piece, meter);
    limits->read_bytes_per_s = (double)meter->n_pieces * PIECE_BYTES / (now_s() - start);
    limits->int8_ops_per_s = peak(meter->pool, meter->loops[PEAK_INT8]);
    limits->bf16_flops_per_s = peak(meter->pool, meter->loops[PEAK_BF16]);
    limits->f32_flops_per_s = peak(meter->pool, meter->loops[PEAK_F32]);
}
