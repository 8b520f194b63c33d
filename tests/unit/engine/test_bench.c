/* The bench's engine side: what it refuses, and that the work it counts adds up.  Its figures are checked from outside,
 * in tests/http/test_bench.py. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "llama4/bench.h"

static const char SCOUT[] = "tests/fixtures/scout";

static struct l4_bench *opened(int64_t max_tokens, int max_batch) {
    struct l4_engine_options options;
    struct l4_bench *bench;
    struct l4_err err;
    l4_engine_options_init(&options);
    options.model = SCOUT;
    options.threads = 2;
    if (l4_bench_open(&bench, &options, max_tokens, max_batch, &err) != 0)
        fail_msg("%s", err.message);
    return bench;
}

static struct l4_bench_result result_of(struct l4_bench *bench, struct l4_bench_test test) {
    struct l4_bench_result result;
    struct l4_err err;
    if (l4_bench_run(bench, &test, &result, &err) != 0)
        fail_msg("%s", err.message);
    return result;
}

static void runs_repeat(void **state) {
    (void)state;
    struct l4_bench *bench = opened(70, 3);
    const struct l4_bench_test tests[] = {{"grouped_mm", 70, 0, 1}, {"batched_mm", 0, 70, 1}, {"auto", 0, 3, 3}};
    for (int i = 0; i < 3; i++) {
        const struct l4_bench_result first = result_of(bench, tests[i]), again = result_of(bench, tests[i]);
        assert_true(first.seconds > 0 && first.ops > 0 && first.bytes > 0 && first.distinct_experts >= 1);
        assert_true(first.ops == again.ops && first.bytes == again.bytes);
        assert_true(first.distinct_experts == again.distinct_experts);
    }
    /* the same tokens: decode adds 69 times the head, and reads weights and what each token sees 70 times */
    const struct l4_bench_result prefill = result_of(bench, tests[0]), decode = result_of(bench, tests[1]);
    assert_true(decode.ops > prefill.ops && decode.bytes > 20 * prefill.bytes);
    l4_bench_close(bench);
}

static void refused(struct l4_bench *bench, struct l4_bench_test test, const char *words) {
    struct l4_bench_result result;
    struct l4_err err;
    assert_int_equal(l4_bench_run(bench, &test, &result, &err), L4_E_INVALID);
    if (!strstr(err.message, words))
        fail_msg("\"%s\" does not say \"%s\"", err.message, words);
}

static void what_is_wrong_is_said(void **state) {
    (void)state;
    struct l4_bench *bench = opened(8, 2);
    struct l4_err err;
    double seconds;
    refused(bench, (struct l4_bench_test){"auto", 8, 0, 3}, "batch is 3: allowed are 1 to 2");
    refused(bench, (struct l4_bench_test){"auto", 8, 0, 0}, "batch is 0");
    refused(bench, (struct l4_bench_test){"auto", 9, 0, 1}, "1 to 8");
    refused(bench, (struct l4_bench_test){"auto", 4, 4, 1}, "one of the two");
    refused(bench, (struct l4_bench_test){"auto", 0, 0, 1}, "one of the two");
    refused(bench, (struct l4_bench_test){"auto", -1, 0, 1}, "one of the two");
    refused(bench, (struct l4_bench_test){"best", 8, 0, 1}, "grouped_mm");
    assert_int_equal(l4_bench_experts(bench, "best", 1, 0, 0, &seconds, &err), L4_E_INVALID);
    assert_int_equal(l4_bench_experts(bench, "auto", 0, 0, 0, &seconds, &err), L4_E_INVALID);
    assert_int_equal(l4_bench_experts(bench, "auto", L4_BENCH_MAX_EXPERT_TOKENS + 1, 0, 0, &seconds, &err),
                     L4_E_INVALID);
    l4_bench_close(bench);
    l4_bench_close(NULL);

    struct l4_engine_options options;
    l4_engine_options_init(&options);
    options.model = "/nonexistent";
    assert_int_equal(l4_bench_open(&bench, &options, 0, 1, &err), L4_E_INVALID);
    assert_int_equal(l4_bench_open(&bench, &options, 1, L4_MAX_RUNNING + 1, &err), L4_E_INVALID);
    assert_int_not_equal(l4_bench_open(&bench, &options, 1, 1, &err), 0);
    assert_non_null(strstr(err.message, "/nonexistent"));
}

static void experts_and_limits_are_timed(void **state) {
    (void)state;
    struct l4_bench *bench = opened(8, 1);
    struct l4_bench_limits limits = {0};
    struct l4_err err;
    for (int i = 0; l4_engine_experts_names()[i]; i++) {
        double seconds = 0;
        assert_int_equal(l4_bench_experts(bench, l4_engine_experts_names()[i], 33, 7, 5, &seconds, &err), 0);
        assert_true(seconds > 0);
    }
    l4_bench_limits(bench, &limits);
    assert_true(limits.read_bytes_per_s > 0 && limits.int8_ops_per_s > 0);
    l4_bench_close(bench);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(runs_repeat),
        cmocka_unit_test(what_is_wrong_is_said),
        cmocka_unit_test(experts_and_limits_are_timed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
