#include "core/base/pool.h"

#include <pthread.h>
#include <sched.h>
#include <stdalign.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/checked.h"
#include "core/base/cpus.h"

/* About 30 us of looking before a worker goes to sleep: longer than the gaps between the dispatches of one step. */
enum { SPINS_BEFORE_SLEEP = 2000, SPINS_BEFORE_YIELD = 1000, CACHE_LINE_BYTES = 64 };

struct worker {
    struct pool *pool;
    int thread;
    pthread_t handle;
};

struct pool {
    /* Generation of the job in the upper half, items not yet taken in the lower.  Taking an item is one
     * compare-and-swap here; whoever took one knows that the job cannot end before it says so in n_done, and may read
     * the job's fields. The caller thus never waits for a worker that took nothing, be it asleep or not scheduled. */
    alignas(CACHE_LINE_BYTES) atomic_uint_least64_t ticket;
    alignas(CACHE_LINE_BYTES) atomic_int n_done;
    alignas(CACHE_LINE_BYTES) int n_items;
    void (*work)(void *ctx, int item, int thread);
    void *ctx;

    alignas(CACHE_LINE_BYTES) atomic_int n_asleep;
    pthread_mutex_t mutex;
    pthread_cond_t wake;
    bool stop; /* under mutex */

    uint64_t n_dispatches;
    int n_threads;
    int n_started;
    struct worker *workers; /* [n_threads]; the first is the caller and has no thread */
    char *scratch;
    size_t scratch_bytes;
};

static void cpu_relax(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* One look at something that another thread is about to finish. */
static void wait_a_little(int *spins) {
    if ((*spins)++ < SPINS_BEFORE_YIELD)
        cpu_relax();
    else
        sched_yield(); /* that thread was interrupted in the middle of an item: let it have this core */
}

static uint32_t generation_of(uint64_t ticket) {
    return (uint32_t)(ticket >> 32);
}

/* Takes and runs items of one generation until none is left. */
static void run_items(struct pool *pool, uint32_t generation, int thread) {
    uint64_t ticket = atomic_load_explicit(&pool->ticket, memory_order_acquire);
    while (generation_of(ticket) == generation && (uint32_t)ticket > 0) {
        if (!atomic_compare_exchange_weak_explicit(&pool->ticket, &ticket, ticket - 1, memory_order_acq_rel,
                                                   memory_order_acquire))
            continue;
        pool->work(pool->ctx, pool->n_items - (int)(uint32_t)ticket, thread);
        atomic_fetch_add_explicit(&pool->n_done, 1, memory_order_release);
        ticket = atomic_load_explicit(&pool->ticket, memory_order_acquire);
    }
}

/* Waits for a generation other than `seen`; false when the pool closes. */
static bool wait_for_job(struct pool *pool, uint32_t seen) {
    for (int i = 0; i < SPINS_BEFORE_SLEEP; i++) {
        if (generation_of(atomic_load_explicit(&pool->ticket, memory_order_relaxed)) != seen)
            return true;
        cpu_relax();
    }
    pthread_mutex_lock(&pool->mutex);
    atomic_fetch_add(&pool->n_asleep, 1); /* before the look at ticket: pool_for does the two in the opposite order */
    while (!pool->stop && generation_of(atomic_load(&pool->ticket)) == seen)
        pthread_cond_wait(&pool->wake, &pool->mutex);
    atomic_fetch_sub(&pool->n_asleep, 1);
    bool go_on = !pool->stop;
    pthread_mutex_unlock(&pool->mutex);
    return go_on;
}

static void *worker_main(void *arg) {
    struct worker *worker = arg;
    uint32_t seen = 0;
    while (wait_for_job(worker->pool, seen)) {
        seen = generation_of(atomic_load_explicit(&worker->pool->ticket, memory_order_acquire));
        run_items(worker->pool, seen, worker->thread);
    }
    return NULL;
}

int pool_open(struct pool **out, int n_threads, size_t scratch_bytes, struct l4_err *err) {
    size_t total;
    *out = NULL;
    scratch_bytes = (scratch_bytes + CACHE_LINE_BYTES - 1) & ~(size_t)(CACHE_LINE_BYTES - 1);
    if (!checked_mul_size((size_t)n_threads, scratch_bytes, &total))
        return l4_err_set(err, L4_E_NOMEM, "scratch of %d threads: out of memory", n_threads);
    struct pool *pool = aligned_alloc(CACHE_LINE_BYTES, sizeof *pool);
    if (!pool)
        return l4_err_set(err, L4_E_NOMEM, "thread pool: out of memory");
    memset(pool, 0, sizeof *pool);
    pthread_mutex_init(&pool->mutex, NULL);
    pthread_cond_init(&pool->wake, NULL);
    pool->n_threads = n_threads;
    pool->scratch_bytes = scratch_bytes;
    pool->workers = calloc((size_t)n_threads, sizeof *pool->workers);
    pool->scratch = total ? aligned_alloc(CACHE_LINE_BYTES, total) : NULL;
    if (!pool->workers || (total && !pool->scratch)) {
        pool_close(pool);
        return l4_err_set(err, L4_E_NOMEM, "thread pool of %d threads: out of memory", n_threads);
    }
    for (int i = 1; i < n_threads; i++) {
        struct worker *worker = &pool->workers[i];
        *worker = (struct worker){.pool = pool, .thread = i};
        int rc = pthread_create(&worker->handle, NULL, worker_main, worker);
        if (rc != 0) {
            pool_close(pool);
            return l4_err_set(err, L4_E_INTERNAL, "cannot start thread %d of %d: %s", i + 1, n_threads, strerror(rc));
        }
        pool->n_started++;
    }
    *out = pool;
    return 0;
}

void pool_close(struct pool *pool) {
    if (!pool)
        return;
    pthread_mutex_lock(&pool->mutex);
    pool->stop = true;
    pthread_cond_broadcast(&pool->wake);
    pthread_mutex_unlock(&pool->mutex);
    for (int i = 1; i <= pool->n_started; i++)
        pthread_join(pool->workers[i].handle, NULL);
    pthread_cond_destroy(&pool->wake);
    pthread_mutex_destroy(&pool->mutex);
    free(pool->workers);
    free(pool->scratch);
    free(pool);
}

int pool_pin(struct pool *pool, pthread_t caller, const int *cpus) {
    int failed = cpus_pin(caller, cpus[0]);
    for (int i = 1; i < pool->n_threads && failed == 0; i++)
        failed = cpus_pin(pool->workers[i].handle, cpus[i]);
    return failed;
}

int pool_n_threads(const struct pool *pool) {
    return pool->n_threads;
}

void *pool_scratch(const struct pool *pool, int thread) {
    return pool->scratch + (size_t)thread * pool->scratch_bytes;
}

size_t pool_scratch_bytes(const struct pool *pool) {
    return pool->scratch_bytes;
}

void pool_for(struct pool *pool, int n_items, void (*work)(void *ctx, int item, int thread), void *ctx) {
    pool->n_dispatches += n_items > 0;
    if (n_items <= 1 || pool->n_threads == 1) {
        for (int item = 0; item < n_items; item++)
            work(ctx, item, 0);
        return;
    }
    pool->n_items = n_items;
    pool->work = work;
    pool->ctx = ctx;
    atomic_store_explicit(&pool->n_done, 0, memory_order_relaxed);
    uint32_t generation = generation_of(atomic_load_explicit(&pool->ticket, memory_order_relaxed)) + 1;
    atomic_store(&pool->ticket, (uint64_t)generation << 32 | (uint32_t)n_items);
    if (atomic_load(&pool->n_asleep) > 0) {
        pthread_mutex_lock(&pool->mutex);
        pthread_cond_broadcast(&pool->wake);
        pthread_mutex_unlock(&pool->mutex);
    }
    run_items(pool, generation, 0);
    for (int spins = 0; atomic_load_explicit(&pool->n_done, memory_order_acquire) != n_items;)
        wait_a_little(&spins);
}

uint64_t pool_n_dispatches(const struct pool *pool) {
    return pool->n_dispatches;
}

void pool_wait(const atomic_int *left) {
    for (int spins = 0; atomic_load_explicit(left, memory_order_acquire) != 0;)
        wait_a_little(&spins);
}

void pool_once(atomic_uchar *states, int64_t begin, int64_t end, void (*work)(void *ctx, int64_t i), void *ctx) {
    enum { UNTOUCHED, BEGUN, DONE };
    for (int64_t i = begin; i < end; i++) {
        unsigned char expected = UNTOUCHED;
        if (atomic_load_explicit(&states[i], memory_order_relaxed) == UNTOUCHED &&
            atomic_compare_exchange_strong_explicit(&states[i], &expected, BEGUN, memory_order_relaxed,
                                                    memory_order_relaxed)) {
            work(ctx, i);
            atomic_store_explicit(&states[i], DONE, memory_order_release);
        }
    }
    for (int64_t i = begin; i < end; i++)
        for (int spins = 0; atomic_load_explicit(&states[i], memory_order_acquire) != DONE;)
            wait_a_little(&spins);
}
