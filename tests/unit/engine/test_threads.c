/* How many threads an engine starts, where they run, and where their memory lies. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <dirent.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "llama4/bench.h"
#include "tests/lib/session.h"
#include "tests/lib/tempdir.h"

static struct tempdir root;
static const struct engine_overrides overrides = {.system_root = root.path};
static struct cpus cpus; /* of this machine, as the fake files describe the rest of it */
static struct l4_buf lines;

static void keep_log(void *user, enum l4_log_level level, const char *message) {
    (void)user;
    l4_buf_printf(&lines, "%d %s\n", level, message);
}

static int make_root(void **state) {
    (void)state;
    tempdir_init(&root);
    tempdir_puts(&root, "proc/self/cgroup", "0::/job\n");
    tempdir_puts(&root, "proc/self/status", "Mems_allowed_list:\t0-1\n");
    tempdir_puts(&root, "sys/devices/system/node/has_memory", "0-1\n");
    l4_buf_clear(&lines);
    return cpus_read(&cpus, root.path, NULL, NULL);
}
static int remove_root(void **state) {
    (void)state;
    cpus_fini(&cpus);
    tempdir_fini(&root);
    l4_buf_free(&lines);
    return 0;
}

static struct l4_engine_options options_of(int threads) {
    struct l4_engine_options options;
    l4_engine_options_init(&options);
    options.model = "tests/fixtures/scout";
    options.threads = threads;
    options.log = keep_log;
    return options;
}

static void open_session(struct session *session, struct l4_engine_options options) {
    struct l4_err err;
    if (session_open(session, &options, &overrides, &err) != 0)
        fail_msg("%s", err.message);
}

static void expect_line(const char *words) {
    if (!lines.data || !strstr(lines.data, words))
        fail_msg("no \"%s\" in:\n%s", words, lines.data ? lines.data : "");
}

static void refused(struct l4_engine_options options, const char *words) {
    struct l4_engine *engine;
    struct l4_err err;
    assert_int_equal(engine_open_with(&engine, &options, &overrides, &err), L4_E_INVALID);
    if (!strstr(err.message, words))
        fail_msg("\"%s\" does not say \"%s\"", err.message, words);
}

static void bad_options_are_named(void **state) {
    (void)state;
    char words[128];
    struct l4_engine_options options = options_of(1);
    options.numa = "bind";
    refused(options, "numa 'bind' is unknown; valid are: off, interleave");
    options = options_of(cpus.n_allowed + 1);
    options.pin_threads = true;
    snprintf(words, sizeof words, "threads is %d, but pin_threads has only %d hardware threads to put them on",
             cpus.n_allowed + 1, cpus.n_allowed);
    refused(options, words);
}

static void quota_bounds_the_threads(void **state) {
    (void)state;
    char words[256];
    struct session session;
    struct l4_engine_info info;
    tempdir_puts(&root, "sys/fs/cgroup/job/cpu.max", "50000 100000\n");
    open_session(&session, options_of(0));
    l4_engine_info(session.engine, &info);
    session_close(&session);
    assert_int_equal(info.threads, 1);
    snprintf(words, sizeof words,
             "1 thread; %d physical cores (%d hardware threads) allowed, CPU quota 0.5 processors, 2 NUMA nodes",
             cpus.n_cores, cpus.n_allowed);
    expect_line(words);

    open_session(&session, options_of(3)); /* what is asked for is done */
    l4_engine_info(session.engine, &info);
    session_close(&session);
    assert_int_equal(info.threads, 3);

    tempdir_puts(&root, "sys/fs/cgroup/job/cpu.max", "max 100000\n");
    l4_buf_clear(&lines);
    open_session(&session, options_of(0));
    l4_engine_info(session.engine, &info);
    session_close(&session);
    assert_int_equal(info.threads, cpus.n_cores);
    expect_line("CPU quota none");
}

static void no_effect_on_one_node(void **state) {
    (void)state;
    struct session session;
    struct l4_engine_options options = options_of(1);
    tempdir_puts(&root, "sys/devices/system/node/has_memory", "0\n");
    options.numa = "interleave";
    open_session(&session, options);
    session_close(&session);
    expect_line("1 NUMA node\n");
    expect_line("2 numa = interleave has nothing to do: there is one node\n");
}

/* ---- the threads of this process ------------------------------------------------------------------------------ */

static int own_thread(const struct dirent *entry) {
    return atoi(entry->d_name) > 0 && atoi(entry->d_name) != getpid();
}

/* How many threads besides this one run on one hardware thread alone, one of the first n in order, each on another. */
static int count_pinned(int n) {
    struct dirent **tasks;
    int n_tasks = scandir("/proc/self/task", &tasks, own_thread, NULL), n_pinned = 0;
    assert_true(n_tasks >= 0);
    cpu_set_t seen;
    CPU_ZERO(&seen);
    for (int i = 0; i < n_tasks; i++) {
        cpu_set_t mask;
        assert_int_equal(sched_getaffinity(atoi(tasks[i]->d_name), sizeof mask, &mask), 0);
        for (int k = 0; k < n; k++)
            if (CPU_COUNT(&mask) == 1 && CPU_ISSET(cpus.order[k], &mask) && !CPU_ISSET(cpus.order[k], &seen)) {
                n_pinned++;
                CPU_OR(&seen, &seen, &mask);
            }
        free(tasks[i]);
    }
    free(tasks);
    return n_pinned;
}

static void workers_are_pinned_on_request(void **state) {
    (void)state;
    struct session session;
    cpu_set_t before, after;
    int n = cpus.n_allowed < 4 ? cpus.n_allowed : 4;
    struct l4_engine_options options = options_of(n);
    assert_int_equal(sched_getaffinity(0, sizeof before, &before), 0);
    open_session(&session, options);
    int by_default = count_pinned(n);
    session_close(&session);
    options.pin_threads = true;
    open_session(&session, options);
    int pinned = count_pinned(n);
    session_close(&session);
    assert_int_equal(sched_getaffinity(0, sizeof after, &after), 0);
    assert_int_equal(by_default, CPU_COUNT(&before) == 1 ? n : 0);
    assert_int_equal(pinned, n);
    assert_true(CPU_EQUAL(&before, &after)); /* the opening thread's own */
    expect_line(", pinned; ");
}

static void bench_is_pinned_with_its_caller(void **state) {
    (void)state;
    cpu_set_t before, own;
    struct l4_bench *bench;
    int n = cpus.n_allowed < 4 ? cpus.n_allowed : 4;
    struct l4_engine_options options = options_of(n);
    options.pin_threads = true;
    assert_int_equal(sched_getaffinity(0, sizeof before, &before), 0);
    assert_int_equal(l4_bench_open(&bench, &options, 16, 1, NULL), 0);
    int pinned = count_pinned(n);
    assert_int_equal(sched_getaffinity(0, sizeof own, &own), 0);
    l4_bench_close(bench);
    assert_int_equal(sched_setaffinity(0, sizeof before, &before), 0);
    assert_int_equal(pinned, n - 1);
    assert_true(CPU_COUNT(&own) == 1 && CPU_ISSET(cpus.order[0], &own));
}

/* The memory policy of a thread, as its first mapping shows it: "default", "interleave:0". */
static void read_policy(const char *task, char policy[64]) {
    char path[300];
    snprintf(path, sizeof path, "/proc/%s/numa_maps", task);
    FILE *file = fopen(path, "re");
    policy[0] = '\0';
    if (!file)
        return;
    assert_int_equal(fscanf(file, "%*s %63s", policy), 1);
    fclose(file);
}

static int count_interleaving(int *n_tasks) {
    struct dirent **tasks;
    int n = 0;
    *n_tasks = scandir("/proc/self/task", &tasks, own_thread, NULL);
    assert_true(*n_tasks >= 0);
    for (int i = 0; i < *n_tasks; i++) {
        char policy[64];
        read_policy(tasks[i]->d_name, policy);
        n += strncmp(policy, "interleave", 10) == 0;
        free(tasks[i]);
    }
    free(tasks);
    return n;
}

static void engine_threads_interleave_on_request(void **state) {
    (void)state;
    struct session session;
    struct placement probe;
    struct l4_err err;
    char before[64], after[64];
    int n_tasks, n_before, n_others;
    bool possible = placement_interleave(&probe, &err) == 0;
    if (possible)
        placement_restore(&probe);
    struct l4_engine_options options = options_of(3);
    read_policy("self", before);
    n_before = count_interleaving(&n_others);
    open_session(&session, options);
    assert_int_equal(count_interleaving(&n_tasks), n_before);
    session_close(&session);
    options.numa = "interleave";
    open_session(&session, options);
    int n = count_interleaving(&n_tasks) - n_before;
    session_close(&session);
    read_policy("self", after);
    assert_string_equal(before, after); /* the opening thread's own */
    if (possible) {
        assert_int_equal(n_tasks - n_others, 3); /* the engine's own thread and two workers */
        assert_int_equal(n, 3);
    } else { /* a container filters the system call: a warning, and the engine runs */
        expect_line("1 memory cannot be spread over NUMA nodes: ");
    }
}

int main(void) {
#define IN_ROOT(test) cmocka_unit_test_setup_teardown(test, make_root, remove_root)
    const struct CMUnitTest tests[] = {
        IN_ROOT(bad_options_are_named),           IN_ROOT(quota_bounds_the_threads),
        IN_ROOT(no_effect_on_one_node),           IN_ROOT(workers_are_pinned_on_request),
        IN_ROOT(bench_is_pinned_with_its_caller), IN_ROOT(engine_threads_interleave_on_request),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
