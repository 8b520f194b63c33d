/* Thread pool: every item once, whatever the workers are doing. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#include <cmocka.h>

#include "core/base/pool.h"

struct job {
    struct pool *pool;
    atomic_int seen[1000];
    int plain[1000];
};

static void count_item(void *ctx, int item, int thread) {
    struct job *job = ctx;
    atomic_fetch_add(&job->seen[item], 1);
    job->plain[item] += 1; /* no other thread has this item */
    memset(pool_scratch(job->pool, thread), thread, pool_scratch_bytes(job->pool));
}

static void every_item_runs_once(void **state) {
    (void)state;
    for (int n_threads = 1; n_threads <= 5; n_threads++) {
        struct job *job = calloc(1, sizeof *job);
        assert_int_equal(pool_open(&job->pool, n_threads, 100, NULL), 0);
        assert_int_equal(pool_n_threads(job->pool), n_threads);
        int expected[1000] = {0};
        for (int round = 0; round < 400; round++) {
            int n = round % 7 == 0 ? 1000 : round % 11;
            pool_for(job->pool, n, count_item, job);
            for (int i = 0; i < n; i++)
                expected[i]++;
        }
        for (int i = 0; i < 1000; i++) {
            assert_int_equal(atomic_load(&job->seen[i]), expected[i]);
            assert_int_equal(job->plain[i], expected[i]);
        }
        pool_close(job->pool);
        free(job);
    }
}

static double cpu_seconds(void) {
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (double)usage.ru_utime.tv_sec + (double)usage.ru_stime.tv_sec +
           1e-6 * (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec);
}

static void idle_pool_sleeps_and_wakes(void **state) {
    (void)state;
    struct job *job = calloc(1, sizeof *job);
    assert_int_equal(pool_open(&job->pool, 3, 64, NULL), 0);
    pool_for(job->pool, 100, count_item, job);
    double before = cpu_seconds();
    nanosleep(&(struct timespec){.tv_nsec = 300 * 1000 * 1000}, NULL);
    assert_true(cpu_seconds() - before < 0.15); /* two spinning workers would take 0.6 s */
    pool_for(job->pool, 100, count_item, job);
    assert_int_equal(atomic_load(&job->seen[99]), 2);
    pool_close(job->pool);
    free(job);
}

static void impossible_scratch_is_refused(void **state) {
    (void)state;
    struct pool *pool;
    struct l4_err err;
    assert_int_equal(pool_open(&pool, 4, SIZE_MAX / 2, &err), L4_E_NOMEM);
    assert_null(pool);
    assert_int_equal(pool_open(&pool, 1, (size_t)1 << 60, &err), L4_E_NOMEM);
    assert_null(pool);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_item_runs_once),
        cmocka_unit_test(idle_pool_sleeps_and_wakes),
        cmocka_unit_test(impossible_scratch_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
