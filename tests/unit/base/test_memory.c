/* Memory limits, read from directories that look like /proc and /sys. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "core/base/memory.h"
#include "tests/lib/tempdir.h"

static struct tempdir root;

static void put(const char *path, const char *text) {
    tempdir_puts(&root, path, text);
}

static int make_root(void **state) {
    (void)state;
    tempdir_init(&root);
    put("proc/meminfo", "MemTotal:       24579012 kB\nMemFree:  100 kB\nMemAvailable:   23000000 kB\n");
    return 0;
}
static int remove_root(void **state) {
    (void)state;
    tempdir_fini(&root);
    return 0;
}

static void machine_without_groups(void **state) {
    (void)state;
    struct memory_limits limits;
    memory_limits_read(&limits, root.path);
    assert_int_equal(limits.total_bytes, 24579012LL * 1024);
    assert_int_equal(limits.available_bytes, 23000000LL * 1024);
    assert_int_equal(limits.cgroup_bytes, INT64_MAX);
    memory_limits_read(&limits, "/nowhere");
    assert_int_equal(limits.total_bytes, INT64_MAX);
    assert_int_equal(limits.available_bytes, INT64_MAX);
}

static void tightest_group_above_counts(void **state) {
    (void)state;
    struct memory_limits limits;
    put("proc/self/cgroup", "0::/a/b\n");
    put("sys/fs/cgroup/a/b/memory.max", "max\n");
    put("sys/fs/cgroup/a/memory.max", "4294967296\n");
    put("sys/fs/cgroup/memory.max", "8589934592\n");
    memory_limits_read(&limits, root.path);
    assert_int_equal(limits.cgroup_bytes, 4294967296LL);
}

static void version_1_is_read_too(void **state) {
    (void)state;
    struct memory_limits limits;
    put("proc/self/cgroup", "9:cpu:/x\n4:memory:/x\n1:name=systemd:/\n");
    put("sys/fs/cgroup/memory/x/memory.limit_in_bytes", "1073741824\n");
    put("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
    memory_limits_read(&limits, root.path);
    assert_int_equal(limits.cgroup_bytes, 1073741824LL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(machine_without_groups, make_root, remove_root),
        cmocka_unit_test_setup_teardown(tightest_group_above_counts, make_root, remove_root),
        cmocka_unit_test_setup_teardown(version_1_is_read_too, make_root, remove_root),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
