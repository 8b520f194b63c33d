/* Thread pool: every item once, whatever the workers are doing. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
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

/* A chain in one dispatch: the items of a link read what all items of the link before wrote, and numbers that are made
 * by whoever comes first. */
enum { CHAIN_LINKS = 6, CHAIN_ITEMS = 40, CHAIN_MADE = 300 };
struct chain {
    atomic_int left[CHAIN_LINKS];
    int written[CHAIN_LINKS][CHAIN_ITEMS];
    atomic_uchar states[CHAIN_MADE];
    int made[CHAIN_MADE], times_made[CHAIN_MADE];
    atomic_int n_wrong;
};

static void make_number(void *ctx, int64_t i) {
    struct chain *chain = ctx;
    chain->times_made[i]++; /* no other thread makes it */
    chain->made[i] = (int)(3 * i);
}

static void chain_item(void *ctx, int item, int thread) {
    struct chain *chain = ctx;
    int link = item / CHAIN_ITEMS, at = item % CHAIN_ITEMS, wrong = 0;
    (void)thread;
    if (link > 0) {
        pool_wait(&chain->left[link - 1]);
        for (int i = 0; i < CHAIN_ITEMS; i++)
            wrong += chain->written[link - 1][i] != link - 1 + i;
    }
    int begin = item * 7 % CHAIN_MADE, end = begin + 50 < CHAIN_MADE ? begin + 50 : CHAIN_MADE;
    pool_once(chain->states, begin, end, make_number, chain);
    for (int i = begin; i < end; i++)
        wrong += chain->made[i] != 3 * i || chain->times_made[i] != 1;
    chain->written[link][at] = link + at;
    atomic_fetch_add(&chain->n_wrong, wrong);
    atomic_fetch_sub_explicit(&chain->left[link], 1, memory_order_release);
}

static void items_wait_for_earlier_ones(void **state) {
    (void)state;
    for (int n_threads = 1; n_threads <= 7; n_threads++) {
        struct pool *pool;
        assert_int_equal(pool_open(&pool, n_threads, 64, NULL), 0);
        for (int round = 0; round < 50; round++) {
            static struct chain chain;
            memset(&chain, 0, sizeof chain);
            for (int link = 0; link < CHAIN_LINKS; link++)
                atomic_init(&chain.left[link], CHAIN_ITEMS);
            pool_for(pool, CHAIN_LINKS * CHAIN_ITEMS, chain_item, &chain);
            assert_int_equal(atomic_load(&chain.n_wrong), 0);
        }
        assert_int_equal(pool_n_dispatches(pool), 50);
        pool_for(pool, 0, chain_item, NULL);
        assert_int_equal(pool_n_dispatches(pool), 50);
        pool_close(pool);
    }
}

/* utime + stime of the process, in clock ticks. */
static long cpu_ticks(void) {
    char text[1024];
    FILE *file = fopen("/proc/self/stat", "r");
    assert_non_null(file);
    text[fread(text, 1, sizeof text - 1, file)] = 0;
    fclose(file);
    unsigned long user, system;
    const char *after_name = strrchr(text, ')');
    assert_non_null(after_name);
    assert_int_equal(sscanf(after_name, ") %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &user, &system), 2);
    return (long)(user + system);
}

static void idle_pool_sleeps_and_wakes(void **state) {
    (void)state;
    struct job *job = calloc(1, sizeof *job);
    assert_int_equal(pool_open(&job->pool, 3, 64, NULL), 0);
    pool_for(job->pool, 100, count_item, job);
    /* Awake workers burn ticks in any second, sleeping ones in none.  How soon they fall asleep is up to the machine.
     */
    bool asleep = false;
    for (int i = 0; i < 40 && !asleep; i++) {
        long before = cpu_ticks();
        nanosleep(&(struct timespec){.tv_nsec = 250 * 1000 * 1000}, NULL);
        asleep = cpu_ticks() == before;
    }
    assert_true(asleep);
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
        cmocka_unit_test(items_wait_for_earlier_ones),
        cmocka_unit_test(idle_pool_sleeps_and_wakes),
        cmocka_unit_test(impossible_scratch_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
