/* Processors that may be used, read from directories that look like /proc and /sys; pinning and placement on this
 * machine. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <numaif.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "core/base/cpus.h"
#include "core/base/placement.h"
#include "core/base/pool.h"
#include "tests/lib/tempdir.h"

static struct tempdir root;

static int make_root(void **state) {
    (void)state;
    tempdir_init(&root);
    return 0;
}
static int remove_root(void **state) {
    (void)state;
    tempdir_fini(&root);
    return 0;
}

static void put(const char *path, const char *text) {
    tempdir_puts(&root, path, text);
}

static void put_siblings(int cpu, const char *siblings) {
    char path[128];
    snprintf(path, sizeof path, "sys/devices/system/cpu/cpu%d/topology/thread_siblings_list", cpu);
    put(path, siblings);
}

/* n_cores cores of two hardware threads: c and c + n_cores, numbered as most machines do. */
static void put_smt2(int n_cores) {
    for (int cpu = 0; cpu < 2 * n_cores; cpu++) {
        char siblings[32];
        snprintf(siblings, sizeof siblings, "%d,%d\n", cpu % n_cores, cpu % n_cores + n_cores);
        put_siblings(cpu, siblings);
    }
}

/* Two nodes, half of the cores and of the hardware threads each. */
static void put_two_nodes(const char *first, const char *second) {
    put("sys/devices/system/node/online", "0-1\n");
    put("sys/devices/system/node/has_memory", "0-1\n");
    put("sys/devices/system/node/node0/cpulist", first);
    put("sys/devices/system/node/node1/cpulist", second);
    put("proc/self/status", "Name:\tx\nCpus_allowed_list:\t0-7\nMems_allowed_list:\t0-1\n");
}

static void expect(const char *allowed, int n_allowed, int n_cores, int n_nodes, double quota, int threads) {
    struct cpus cpus;
    assert_int_equal(cpus_read(&cpus, root.path, allowed, NULL), 0);
    assert_int_equal(cpus.n_allowed, n_allowed);
    assert_int_equal(cpus.n_cores, n_cores);
    assert_int_equal(cpus.n_nodes, n_nodes);
    assert_true(cpus.quota == quota);
    assert_int_equal(cpus_threads(&cpus), threads);
    cpus_fini(&cpus);
}

static void expect_order(const char *allowed, const int *order, int n) {
    struct cpus cpus;
    assert_int_equal(cpus_read(&cpus, root.path, allowed, NULL), 0);
    assert_int_equal(cpus.n_allowed, n);
    for (int i = 0; i < n; i++)
        assert_int_equal(cpus.order[i], order[i]);
    cpus_fini(&cpus);
}
#define ORDER(allowed, ...)                                                                                            \
    expect_order(allowed, (const int[]){__VA_ARGS__}, (int)(sizeof((const int[]){__VA_ARGS__}) / sizeof(int)))

/* ---- cores ---------------------------------------------------------------------------------------------------- */

static void siblings_are_one_core(void **state) {
    (void)state;
    put_smt2(4);
    expect("0-7", 8, 4, 1, INFINITY, 4);
    expect("0-3", 4, 4, 1, INFINITY, 4);
    expect("4-7", 4, 4, 1, INFINITY, 4); /* only the second hardware thread of each */
    expect("1,5", 2, 1, 1, INFINITY, 1); /* both of one */
    expect("0,3-4,6-7", 5, 3, 1, INFINITY, 3);
    ORDER("0-7", 0, 1, 2, 3, 4, 5, 6, 7);
    ORDER("0,3-4,6-7", 0, 3, 6, 4, 7);
    ORDER("4-7", 4, 5, 6, 7);
}

static void siblings_may_be_neighbours(void **state) {
    (void)state;
    for (int cpu = 0; cpu < 6; cpu++) {
        char siblings[32];
        snprintf(siblings, sizeof siblings, "%d-%d\n", cpu / 2 * 2, cpu / 2 * 2 + 1);
        put_siblings(cpu, siblings);
    }
    expect("0-5", 6, 3, 1, INFINITY, 3);
    ORDER("0-5", 0, 2, 4, 1, 3, 5);
    ORDER("1-5", 1, 2, 4, 3, 5);
}

static void four_threads_a_core(void **state) {
    (void)state;
    for (int cpu = 0; cpu < 8; cpu++)
        put_siblings(cpu, cpu < 4 ? "0-3" : "4-7");
    expect("0-7", 8, 2, 1, INFINITY, 2);
    ORDER("0-7", 0, 4, 1, 5, 2, 6, 3, 7);
}

static void unknown_topology_counts_threads(void **state) {
    (void)state;
    expect("0-3", 4, 4, 1, INFINITY, 4);
    put_smt2(2);
    put_siblings(0, "");
    put_siblings(1, "many\n");
    put_siblings(2, "-1,2\n");
    put_siblings(3, "4,5\n"); /* without itself */
    expect("0-3", 4, 4, 1, INFINITY, 4);
    put_siblings(1, "99999999999999999999,1\n");
    put_siblings(2, "3,2\n"); /* not ascending: its first is no index for it */
    put_siblings(3, "1-\n");
    expect("0-3", 4, 4, 1, INFINITY, 4);
    ORDER("0-3", 0, 1, 2, 3);
    expect("1000000", 1, 1, 1, INFINITY, 1);
}

static void senseless_masks_are_cut(void **state) {
    (void)state;
    int n_online = (int)sysconf(_SC_NPROCESSORS_ONLN);
    expect("0-1,x,2-3", 2, 2, 1, INFINITY, 2);
    expect("3-1", n_online, n_online, 1, INFINITY, n_online);
    expect("", n_online, n_online, 1, INFINITY, n_online);
}

/* ---- nodes ---------------------------------------------------------------------------------------------------- */

static void workers_take_turns_on_nodes(void **state) {
    (void)state;
    put_smt2(4);
    put_two_nodes("0-1,4-5\n", "2-3,6-7\n");
    expect("0-7", 8, 4, 2, INFINITY, 4);
    ORDER("0-7", 0, 2, 1, 3, 4, 6, 5, 7);
    ORDER("0-3,6", 0, 2, 1, 3, 6);
    ORDER("0-2", 0, 2, 1);
    ORDER("2-3", 2, 3);
}

static void nodes_without_allowed_memory_do_not_count(void **state) {
    (void)state;
    put_two_nodes("0-1\n", "2-3\n");
    put("sys/devices/system/node/has_memory", "0-3\n");
    put("proc/self/status", "Mems_allowed_list:\t0,2\n");
    expect("0-1", 2, 2, 2, INFINITY, 2); /* memory counts, wherever the processors are */
    put("proc/self/status", "Mems_allowed_list:\t1\n");
    expect("0-3", 4, 4, 1, INFINITY, 4);
    put("proc/self/status", "Mems_allowed_list:\t9\n");
    expect("0-3", 4, 4, 1, INFINITY, 4);
    put("proc/self/status", "Name: x\n");
    expect("0-3", 4, 4, 4, INFINITY, 4);
    put("sys/devices/system/node/has_memory", "0,x\n");
    expect("0-3", 4, 4, 1, INFINITY, 4);
    put("sys/devices/system/node/has_memory", "\n");
    expect("0-3", 4, 4, 1, INFINITY, 4);
}

static void unreadable_nodes_are_one(void **state) {
    (void)state;
    put_two_nodes("0-1\n", "2-3\n");
    put("sys/devices/system/node/online", "0-99999999999\n");
    ORDER("0-3", 0, 1, 2, 3);
    put("sys/devices/system/node/online", "0-1\n");
    put("sys/devices/system/node/node1/cpulist", "all\n");
    ORDER("0-3", 0, 1, 2, 3);
}

/* ---- quota ---------------------------------------------------------------------------------------------------- */

static void quota_is_rounded_up(void **state) {
    (void)state;
    put("proc/self/cgroup", "0::/job\n");
    static const struct {
        const char *text;
        double quota;
        int threads;
    } cases[] = {
        {"150000 100000\n", 1.5, 2},
        {"100000 100000\n", 1, 1},
        {"10000 100000\n", 0.1, 1},
        {"200001 100000\n", 2.00001, 3},
        {"800000 100000\n", 8, 8},
        {"1600000 100000\n", 16, 8},
        {"max 100000\n", INFINITY, 8},
        {"max\n", INFINITY, 8},
        {"", INFINITY, 8},
        {"150000\n", INFINITY, 8},
        {"150000 0\n", INFINITY, 8},
        {"0 100000\n", INFINITY, 8},
        {"-5 100000\n", INFINITY, 8},
        {"many 100000\n", INFINITY, 8},
        {"150000x 100000\n", INFINITY, 8},
        {"99999999999999999999 100000\n", INFINITY, 8},
    };
    expect("0-7", 8, 8, 1, INFINITY, 8);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        put("sys/fs/cgroup/job/cpu.max", cases[i].text);
        expect("0-7", 8, 8, 1, cases[i].quota, cases[i].threads);
    }
}

static void tightest_group_counts(void **state) {
    (void)state;
    put("proc/self/cgroup", "0::/a/b/c\n");
    put("sys/fs/cgroup/a/b/c/cpu.max", "max 100000\n");
    put("sys/fs/cgroup/a/b/cpu.max", "400000 100000\n");
    expect("0-7", 8, 8, 1, 4, 4);
    put("sys/fs/cgroup/a/cpu.max", "60000 20000\n"); /* periods differ */
    expect("0-7", 8, 8, 1, 3, 3);
    put("sys/fs/cgroup/a/b/c/cpu.max", "250000 100000\n");
    expect("0-7", 8, 8, 1, 2.5, 3);
    expect("0-1", 2, 2, 1, 2.5, 2); /* the mask is tighter */
    put("sys/fs/cgroup/cpu.max", "100000 100000\n");
    expect("0-7", 8, 8, 1, 1, 1);
}

static void group_of_a_container_is_the_root(void **state) {
    (void)state;
    put("proc/self/cgroup", "0::/system.slice/docker-0123.scope\n"); /* a path of the host: not here */
    put("sys/fs/cgroup/cpu.max", "350000 100000\n");
    expect("0-7", 8, 8, 1, 3.5, 4);
    put("proc/self/cgroup", "0::/\n");
    expect("0-7", 8, 8, 1, 3.5, 4);
    put("proc/self/cgroup", "0::/../../other\n");
    expect("0-7", 8, 8, 1, 3.5, 4);
}

static void version_1(void **state) {
    (void)state;
    put("proc/self/cgroup", "5:memory:/x\n4:cpuset:/y\n3:cpu,cpuacct:/x/y\n1:name=systemd:/\n0::/z\n");
    put("sys/fs/cgroup/cpu/x/y/cpu.cfs_quota_us", "-1\n");
    put("sys/fs/cgroup/cpu/x/y/cpu.cfs_period_us", "100000\n");
    expect("0-7", 8, 8, 1, INFINITY, 8);
    put("sys/fs/cgroup/cpu/x/cpu.cfs_quota_us", "150000\n");
    expect("0-7", 8, 8, 1, INFINITY, 8); /* without a period it says nothing */
    put("sys/fs/cgroup/cpu/x/cpu.cfs_period_us", "50000\n");
    expect("0-7", 8, 8, 1, 3, 3);
    put("sys/fs/cgroup/cpu,cpuacct/x/y/cpu.cfs_quota_us", "110000\n"); /* where no link was made */
    put("sys/fs/cgroup/cpu,cpuacct/x/y/cpu.cfs_period_us", "100000\n");
    expect("0-7", 8, 8, 1, 1.1, 2);
    put("sys/fs/cgroup/memory/x/cpu.cfs_quota_us", "1\n"); /* of other controllers */
    put("sys/fs/cgroup/memory/x/cpu.cfs_period_us", "100000\n");
    put("sys/fs/cgroup/cpuset/y/cpu.cfs_quota_us", "1\n");
    put("sys/fs/cgroup/cpuset/y/cpu.cfs_period_us", "100000\n");
    expect("0-7", 8, 8, 1, 1.1, 2);
}

static void malformed_groups_limit_nothing(void **state) {
    (void)state;
    put("sys/fs/cgroup/cpu.max", "100000 100000\n");
    static const char *const texts[] = {"", "\n", "0:\n", "nonsense\n", "7:memory:/\n"};
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        put("proc/self/cgroup", texts[i]);
        expect("0-7", 8, 8, 1, INFINITY, 8);
    }
    struct cpus cpus;
    assert_int_equal(cpus_read(&cpus, "/nowhere", "0-7", NULL), 0);
    assert_int_equal(cpus_threads(&cpus), 8);
    cpus_fini(&cpus);
}

/* ---- this machine --------------------------------------------------------------------------------------------- */

static void affinity_mask_is_respected(void **state) {
    (void)state;
    cpu_set_t before, one;
    struct cpus cpus;
    assert_int_equal(sched_getaffinity(0, sizeof before, &before), 0);
    assert_int_equal(cpus_read(&cpus, "", NULL, NULL), 0);
    assert_int_equal(cpus.n_allowed, CPU_COUNT(&before));
    assert_in_range(cpus.n_cores, 1, cpus.n_allowed);
    for (int i = 0; i < cpus.n_allowed; i++)
        assert_true(CPU_ISSET(cpus.order[i], &before));
    int last = cpus.order[cpus.n_allowed - 1];
    cpus_fini(&cpus);
    CPU_ZERO(&one);
    CPU_SET(last, &one);
    assert_int_equal(sched_setaffinity(0, sizeof one, &one), 0);
    assert_int_equal(cpus_read(&cpus, "", NULL, NULL), 0);
    assert_int_equal(sched_setaffinity(0, sizeof before, &before), 0);
    assert_int_equal(cpus.n_allowed, 1);
    assert_int_equal(cpus.order[0], last);
    assert_int_equal(cpus_threads(&cpus), 1);
    cpus_fini(&cpus);
}

enum { MOST_WORKERS = 4 };

struct seen {
    int n_threads;
    atomic_int n_here;
    cpu_set_t mask[MOST_WORKERS];
    int mode[MOST_WORKERS];
};

/* Each thread takes one item, and keeps it until all have theirs. */
static void look(void *ctx, int item, int thread) {
    (void)item;
    struct seen *seen = ctx;
    sched_getaffinity(0, sizeof seen->mask[thread], &seen->mask[thread]);
    get_mempolicy(&seen->mode[thread], NULL, 0, NULL, 0);
    atomic_fetch_add(&seen->n_here, 1);
    while (atomic_load(&seen->n_here) < seen->n_threads)
        sched_yield();
}

static void workers_run_where_they_are_pinned(void **state) {
    (void)state;
    cpu_set_t before;
    struct cpus cpus;
    struct pool *pool;
    struct seen seen = {0};
    assert_int_equal(sched_getaffinity(0, sizeof before, &before), 0);
    assert_int_equal(cpus_read(&cpus, "", NULL, NULL), 0);
    seen.n_threads = cpus.n_allowed < MOST_WORKERS ? cpus.n_allowed : MOST_WORKERS;
    assert_int_equal(pool_open(&pool, seen.n_threads, 0, NULL), 0);
    pool_for(pool, seen.n_threads, look, &seen);
    for (int i = 0; i < seen.n_threads; i++)
        assert_true(CPU_EQUAL(&seen.mask[i], &before));
    assert_int_equal(pool_pin(pool, pthread_self(), cpus.order), 0);
    atomic_store(&seen.n_here, 0);
    pool_for(pool, seen.n_threads, look, &seen);
    assert_int_equal(sched_setaffinity(0, sizeof before, &before), 0);
    for (int i = 0; i < seen.n_threads; i++) {
        assert_int_equal(CPU_COUNT(&seen.mask[i]), 1);
        assert_true(CPU_ISSET(cpus.order[i], &seen.mask[i]));
    }
    assert_int_not_equal(cpus_pin(pthread_self(), 100000), 0); /* there is no such processor */
    pool_close(pool);
    cpus_fini(&cpus);
}

static void threads_inherit_placement(void **state) {
    (void)state;
    struct placement before;
    struct l4_err err;
    struct pool *pool;
    struct seen seen = {.n_threads = 3};
    int mode = -1;
    int rc = placement_interleave(&before, &err);
    if (rc != 0) { /* a container may filter the system call: then it says so, and nothing has changed */
        print_message("           %s\n", err.message);
        assert_int_equal(rc, L4_E_UNSUPPORTED);
        assert_non_null(strstr(err.message, "memory cannot be spread over NUMA nodes: "));
        assert_true(get_mempolicy(&mode, NULL, 0, NULL, 0) != 0 || mode != MPOL_INTERLEAVE);
        return;
    }
    assert_int_equal(get_mempolicy(&mode, NULL, 0, NULL, 0), 0);
    assert_int_equal(mode, MPOL_INTERLEAVE);
    assert_int_equal(pool_open(&pool, seen.n_threads, 0, NULL), 0);
    placement_restore(&before);
    assert_int_equal(get_mempolicy(&mode, NULL, 0, NULL, 0), 0);
    assert_int_equal(mode, before.mode);
    pool_for(pool, seen.n_threads, look, &seen);
    assert_int_equal(seen.mode[0], before.mode);
    for (int i = 1; i < seen.n_threads; i++)
        assert_int_equal(seen.mode[i], MPOL_INTERLEAVE);
    pool_close(pool);
}

int main(void) {
#define IN_ROOT(test) cmocka_unit_test_setup_teardown(test, make_root, remove_root)
    const struct CMUnitTest tests[] = {
        IN_ROOT(siblings_are_one_core),
        IN_ROOT(siblings_may_be_neighbours),
        IN_ROOT(four_threads_a_core),
        IN_ROOT(unknown_topology_counts_threads),
        IN_ROOT(senseless_masks_are_cut),
        IN_ROOT(workers_take_turns_on_nodes),
        IN_ROOT(nodes_without_allowed_memory_do_not_count),
        IN_ROOT(unreadable_nodes_are_one),
        IN_ROOT(quota_is_rounded_up),
        IN_ROOT(tightest_group_counts),
        IN_ROOT(group_of_a_container_is_the_root),
        IN_ROOT(version_1),
        IN_ROOT(malformed_groups_limit_nothing),
        cmocka_unit_test(affinity_mask_is_respected),
        cmocka_unit_test(workers_run_where_they_are_pinned),
        cmocka_unit_test(threads_inherit_placement),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
